"""The scripts of an exported page compute what Python does; run by Node's own test runner.

Owns: the pages for all layouts that a model can have, and what Python computes for each.
"""

import json
import os
import random
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted import enliven
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.generation import logits_process as hf

from convmodel import ConversationModel, ConversationTokenizer
from convmodel.conversation import Conversation
from convmodel.errors import ContextTooLongError
from convmodel.export.html_page import SCRIPTS, make_page
from convmodel.generation.respond import SPARE
from convmodel.hf_model.decoder import decoder_of
from convmodel.hf_model.quantization import quantize_weights
from convmodel.layout.text_codec import REPLACEMENT
from tokenizers_zoo import SENTENCES

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "node/page.test.mjs"
NODE = shutil.which("node")

TEMPLATE = """\
{{- bos_token -}}{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>\\n' -}}
{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

SPECIAL = [
    "'s 't're I've 'LL it'd''s",
    "<sep> a <|endoftext|>b <|im_end|>",
    "\ufeffstart \ufeff",
    " \u00a0\u0085\u1680\u2003\u2028\u202f\u205f\u3000x\u200b\u180e",
    "a  b   \n\n c\t\t\r\n",
    "٣٤ ४५ Ⅷ ½ ² \U0001d7d7 五",
    "e\u0301 n\u0303\u0323 हिन्दी ไทย",
    "👩‍👩‍👧‍👦🇯🇵👍🏽 (╯°□°)╯",
    "\x00\x01\x1c\x1d\x1e\x1f\x7f\x80\x9f",
    "日本語、カタカナ。 한국어",
    "\u1c89\U00010d4a\U00011b60\U0001e5d0\U000105c0",  # letters and numbers of the newest versions of Unicode
    "a\u088fb\u0c5cc\ua7d2d1\U00011de02",  # not yet letters and numbers for the tokenizers library
    "x" * 500,
    "",
]


def untouched() -> str:
    """Characters of every assigned kind, and some that are not assigned."""
    return "".join(chr(code) for code in range(0x20000) if not 0xD800 <= code < 0xE000)


def random_texts(count: int) -> list[str]:
    chance, everything = random.Random(0), untouched()
    kinds: dict[str, list[str]] = {}
    for character in everything:
        kinds.setdefault(unicodedata.category(character), []).append(character)
    common = [*"aehinorstu", *"  \n\t'.,!?", "'s", "'ll", " the", "<sep>", "1", "23", "é", "😀", "の", "\u0301"]
    pick: list[Callable[[], str]] = [
        lambda: chance.choice(common),
        lambda: chance.choice(common),
        lambda: chance.choice(chance.choice(list(kinds.values()))),
        lambda: chance.choice(kinds["Zs"] + kinds["Cc"] + ["\u2028", "\u2029", "\ufeff"]),
        lambda: chance.choice(kinds["Nd"] + kinds["Nl"] + kinds["No"]),
    ]
    return [*SPECIAL, *("".join(chance.choice(pick)() for _ in range(chance.randint(1, 24))) for _ in range(count))]


def random_conversation(chance: random.Random, texts: list[str]) -> list[tuple[str, str]]:
    """A first and a last turn of the user, and any between them."""
    between = [chance.choice(["user", "assistant"]) for _ in range(chance.randint(0, 9))]
    speakers = ["user", *between, "user"][: 1 if chance.random() < 0.1 else None]
    return [(speaker, chance.choice(texts)) for speaker in speakers]


def prompt_case(tokenizer: ConversationTokenizer, turns: list[tuple[str, str]], budget: int | None) -> dict[str, Any]:
    conversation = Conversation([text for _, text in turns], [speaker for speaker, _ in turns])
    case: dict[str, Any] = {"turns": [{"role": role, "text": text} for role, text in turns], "spare": SPARE}
    case["budget"] = budget or 10**6
    try:
        prompt = tokenizer.prompt(conversation, reply_as="assistant", budget=budget, spare=SPARE)
    except ContextTooLongError:
        return case | {"ids": None}
    types = prompt.types if tokenizer.layout.use_token_types else None
    return case | {"ids": prompt.input_ids, "types": types, "leftOut": prompt.left_out}


def response_cases(model: ConversationModel, conversations: list[list[str]]) -> list[dict[str, Any]]:
    """The greedy tokens of responses in conversations in which the user's turns are given."""
    cases = []
    for texts in conversations:
        turns: list[dict[str, str]] = []
        for text in texts:
            turns.append({"role": "user", "text": text})
            output = model.generate([turn["text"] for turn in turns], do_sample=False, min_new_tokens=1)
            ids = output.raw.sequences[0, output.prompt_tokens :].tolist()
            tokens = [index for index in ids if index not in model.tokenizer.stop_token_ids]
            cases.append({"turns": [*turns], "tokens": tokens})
            turns.append({"role": "assistant", "text": output.responses[0].strip() or "Hm"})
    return cases


def words_of(text: str) -> list[str]:
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    return [text[begin:end] for _, (begin, end) in pieces]


def nudged(model: ConversationModel, inputs: dict[str, torch.Tensor], seed: int) -> torch.Tensor:
    """Returns the logits after a prompt if the last bits of the token embeddings are others."""
    chance = torch.Generator().manual_seed(seed)
    bits = torch.finfo(torch.float32).eps

    def nudge(module: object, arguments: object, output: torch.Tensor) -> torch.Tensor:
        return output * (1 + (2 * torch.rand(output.shape, generator=chance) - 1) * bits)

    hook = model.hf_model.get_input_embeddings().register_forward_hook(nudge)
    logits: torch.Tensor = model.hf_model(**inputs).logits[0, -1]
    hook.remove()
    return logits


def logits_case(model: ConversationModel) -> dict[str, Any]:
    """The logits after a prompt, with positions rounded as in the page, and how far those of the page may be off."""
    inputs = {name: torch.tensor([ids]) for name, ids in model.tokenizer(["Hello there!", "Hi", "Fine?"]).items()}
    embedding = decoder_of(model.hf_model.eval()).position_embedding
    positions = torch.ones(1, 1) if embedding is None else embedding.weight  # a Llama has none to round
    exact = positions.detach().clone()
    with torch.inference_mode():
        scales = exact.abs().amax(-1, keepdim=True) / 32767
        positions.copy_((exact / scales).round() * scales)
        logits = model.hf_model(**inputs).logits[0, -1]
        # A last bit, which languages round differently, decides about the next integer of an activation, of up to 15
        # bits: how much that is depends on the model, so it is measured.
        changes = [(nudged(model, inputs, seed) - logits).abs().max() for seed in range(8)]
        positions.copy_(exact)
    types = inputs["token_type_ids"][0].tolist() if "token_type_ids" in inputs else None
    tolerance = max(3 / 32767 * float(logits.abs().max()), 2 * float(max(changes)))
    return {"ids": inputs["input_ids"][0].tolist(), "types": types, "logits": logits.tolist(), "tolerance": tolerance}


def sampling_cases() -> list[dict[str, Any]]:
    chance, cases = random.Random(0), []
    for temperature, top_p, top_k in [(0.8, 0.95, 0), (1.0, 1.0, 0), (0.3, 0.5, 3), (2.0, 0.05, 0), (1.5, 0.9, 4)]:
        logits = [chance.gauss(0, 2) for _ in range(12)]
        scores = hf.TemperatureLogitsWarper(temperature)(None, torch.tensor([logits]))
        scores = hf.TopKLogitsWarper(top_k)(None, scores) if top_k else scores
        scores = hf.TopPLogitsWarper(top_p)(None, scores)
        sampling = {"temperature": temperature, "topP": top_p, "topK": top_k}
        cases.append({"logits": logits, "sampling": sampling, "kept": scores.softmax(-1)[0].tolist()})
    return cases


def make_cases(model: ConversationModel, conversations: list[list[str]], count: int) -> dict[str, Any]:
    """What Python computes, with an int8 version of the model."""
    tokenizer, chance = model.tokenizer, random.Random(0)
    texts = random_texts(count)
    turns = [text for text in [*texts[:200], *(" ".join(each) for each in conversations)] if text.strip()]
    talks = [random_conversation(chance, turns) for _ in range(300)]
    ids = [[chance.randrange(len(tokenizer)) for _ in range(chance.randint(0, 12))] for _ in range(400)]
    blanks = [" \x1c\ufeff a \u0085\u3000\n", "b", "\n ", "\u200b c\x1f"]
    quantize_weights(model.hf_model, "int8")
    return {
        "texts": [[text, tokenizer.encode(text)] for text in texts],
        "words": [[text, words_of(text)] for text in texts[:500]],
        "ids": [[each, text := tokenizer.decode(each), text.rstrip(REPLACEMENT)] for each in ids],
        "prompts": [prompt_case(tokenizer, talk, chance.choice([None, 20, 60, 100])) for talk in talks],
        "trims": [[text, how, getattr(text, how)()] for text in blanks for how in ("strip", "lstrip", "rstrip")],
        "logits": logits_case(model),
        "responses": response_cases(model, conversations),
        "sampling": sampling_cases(),
    }


def run_node(page: str, cases: dict[str, Any], folder: Path) -> None:
    if NODE is None:
        pytest.skip("there is no node")
    (folder / "page.html").write_text(page, encoding="utf-8")
    (folder / "cases.json").write_text(json.dumps(cases))
    (folder / "package.json").write_text('{"type": "module"}')
    for name in SCRIPTS:
        shutil.copy(str(files("convmodel.export") / "page" / name), folder / name)
    places = {"PAGE": folder / "page.html", "CASES": folder / "cases.json", "SCRIPTS": folder}
    environment = os.environ | {name: str(place) for name, place in places.items()}
    run = [NODE, "--test", SCRIPT]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "pass 14" in done.stdout


def sample_texts(conversations: int, turns: int) -> list[list[str]]:
    lines = (files("convmodel") / "assets/sample/test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["turns"][:turns] for line in lines[:conversations]]


@pytest.mark.long
def test_the_builtin_model(tmp_path: Path) -> None:
    model = ConversationModel.from_pretrained("builtin:chitchat", device="cpu")
    page = make_page(model.hf_model, model.tokenizer, title="Chitchat")
    run_node(page, make_cases(model, sample_texts(3, 3), 10_000), tmp_path)


@pytest.mark.timeout(400)
def test_twenty_conversations_of_the_builtin_model(tmp_path: Path) -> None:
    model = ConversationModel.from_pretrained("builtin:chitchat", device="cpu")
    page = make_page(model.hf_model, model.tokenizer, title="Chitchat")
    run_node(page, make_cases(model, sample_texts(20, 5), 10), tmp_path)


def small_model(tokenizer: ConversationTokenizer, **options: Any) -> ConversationModel:
    sizes = {"n_embd": 36, "n_head": 3, "n_layer": 2, "n_positions": 256} | options
    with torch.random.fork_rng():
        torch.manual_seed(1)
        hf_model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes))
    return ConversationModel(enliven(hf_model), tokenizer)


@pytest.mark.parametrize("kind", ["types", "no types", "template", "untied"])
def test_every_layout_of_a_gpt2(kind: str, gpt2_folder: Path, tmp_path: Path) -> None:
    if kind == "template":
        hf_tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
        hf_tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        hf_tokenizer.chat_template = TEMPLATE
        tokenizer = ConversationTokenizer(hf_tokenizer, layout="template")
        assert tokenizer.layout.template is not None
        assert tokenizer.layout.template.trims
    else:
        tokenizer = ConversationTokenizer.from_pretrained(gpt2_folder, use_token_types=kind == "types")
    model = small_model(tokenizer, **({"tie_word_embeddings": False, "n_inner": 50} if kind == "untied" else {}))
    page = make_page(model.hf_model, model.tokenizer, title=kind)
    run_node(page, make_cases(model, [["Hello there!", "How are you?  ", "おはよう"], ["What's new?"]], 1000), tmp_path)


def smollm2_tokenizer(**options: Any) -> ConversationTokenizer:
    """A tokenizer that, as SmolLM2's, has no tokens for some control characters, which are left out of texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted({*pre_tokenizers.ByteLevel.alphabet()} - {*"ĄĆēĔĖĝ"})
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    hf_tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=special[0], eos_token=special[0])
    hf_tokenizer.chat_template = TEMPLATE
    tokenizer = ConversationTokenizer(hf_tokenizer, **options)
    assert tokenizer.encode("t\x04he\x1d") == tokenizer.encode("the")
    return tokenizer


@pytest.mark.parametrize(
    ("layout", "sizes"),
    [
        ("separator", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
        ("template", {"head_dim": 10, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
    ],
)
def test_every_layout_of_a_llama(layout: str, sizes: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = smollm2_tokenizer(layout=layout, use_token_types=False)
    assert (tokenizer.layout.template is not None) == (layout == "template")
    common = {"hidden_size": 48, "intermediate_size": 70, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        hf_model = LlamaForCausalLM(
            LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **common | sizes)
        )
    model = ConversationModel(enliven(hf_model), tokenizer)
    page = make_page(model.hf_model, model.tokenizer, title=layout)
    run_node(page, make_cases(model, [["Hello there!", "How are you?  ", "おはよう"], ["What's new?"]], 1000), tmp_path)
