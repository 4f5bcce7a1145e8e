"""Which chat templates can be a layout, and whether its ids are transformers' own.

    pip download --no-deps axolotl && unzip axolotl-*.whl 'axolotl/utils/chat_templates/templates/*'
    python benchmarks/templates.py axolotl/utils/chat_templates/templates [--conversations 200]

The folder has chat templates as *.jinja files. Each gets a tokenizer of GPT-2's vocabulary, split into words as the
family does, with the special tokens that its template names. For a template that can be measured, the ids of random
conversations of harmless text are compared with `apply_chat_template`: prompts, and windows up to the end of their
last turn. Printed is a table in Markdown.
"""

import argparse
import random
import re
from pathlib import Path
from typing import Any

from tokenizers import Regex, pre_tokenizers
from transformers import GPT2Tokenizer

from convmodel.conversation import Conversation
from convmodel.errors import ConversationError, ModelLoadError
from convmodel.layout.choosing import choose_layout
from convmodel.layout.rendering import DATE
from convmodel.layout.tokenizer import ConversationTokenizer

GPT2 = Path(__file__).parents[1] / "tests/data/gpt2-tokenizer"
BAR = "\N{FULLWIDTH VERTICAL LINE}"  # in DeepSeek's tokens
SPECIAL = re.compile(rf"<[|{BAR}]?[\w▁-]+[|{BAR}]?>|\[/?[A-Z_]+\]|\[\|[a-z]+\|\]|</[a-z_]+>")
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
)
WORDS = "|".join(PIECES)
GPT2_WORDS = ("alpaca", "chatml", "gemma", "llava", "mistral_v1", "mistral_v2v3")
"""Families whose tokenizers do not join several line ends, here with GPT-2's own words."""

TEXT = """apple Paris 42 how? Yes! it's fine... (ok) über 你好 🦜 A/B "so" x Hello, why not 3.5 re-read"""


def main() -> None:
    """Prints a row for each template."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--conversations", type=int, default=200)
    arguments = parser.parse_args()
    print("| template | result | equal | system | assistant may begin | ends a response |\n|---|---|---|---|---|---|")
    for path in sorted(arguments.folder.glob("*.jinja")):
        print(_row(path, arguments.conversations), flush=True)


def _row(path: Path, count: int) -> str:
    hf_tokenizer = _tokenizer(path)
    try:
        choice = choose_layout(hf_tokenizer, "template", use_token_types=False)
    except ModelLoadError as error:
        reason = str(error).partition(": load the model")[0].replace("|", "\\|").replace("\n", " ")
        return f"| {path.stem} | refused: {reason} | | | | |"
    layout = choice.layout
    assert layout.template is not None
    tokenizer = ConversationTokenizer(hf_tokenizer, layout=layout)
    settings = choice.reason.partition(" with ")[2]
    result = f"usable with {settings}" if settings else "usable"
    equal = sum(_is_equal(tokenizer, _tokenizer(path), messages) for messages in _conversations(tokenizer, count))
    markers = layout.markers
    end = str(hf_tokenizer.convert_ids_to_tokens(tokenizer.end_token_id)).replace("|", "\\|")
    flags = ["yes" if markers.follows("start", role) else "no" for role in ("system", "assistant")]
    return f"| {path.stem} | {result} | {equal} of {count} | {' | '.join(flags)} | {end} |"


def _tokenizer(path: Path) -> Any:
    template = path.read_text(encoding="utf-8")
    tokenizer: Any = GPT2Tokenizer(vocab=str(GPT2 / "vocab.json"), merges=str(GPT2 / "merges.txt"))
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(SPECIAL.findall(template)))})
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    if path.stem not in GPT2_WORDS and not path.stem.startswith("gemma"):
        words = pre_tokenizers.Split(Regex(WORDS), "isolated")
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, by_bytes])
    tokenizer.chat_template = template
    return tokenizer


def _conversations(tokenizer: ConversationTokenizer, count: int) -> list[list[dict[str, str]]]:
    chosen = random.Random(0)
    result = []
    for _ in range(count):
        texts = [" ".join(chosen.choices(TEXT.split(), k=chosen.randint(1, 12))) for _ in range(chosen.randint(1, 9))]
        messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
        if tokenizer.layout.takes_system and chosen.random() < 0.4:
            messages.insert(0, {"role": "system", "content": "Answer in " + chosen.choice(TEXT.split())})
        result.append(messages)
    return result


def _is_equal(tokenizer: ConversationTokenizer, hf_tokenizer: Any, messages: list[dict[str, str]]) -> bool:
    """Returns whether a prompt, or a window up to the end of its last turn, has the ids of `apply_chat_template`."""
    template = tokenizer.layout.template
    assert template is not None
    is_prompt = messages[-1]["role"] == "user"
    source = hf_tokenizer.chat_template
    formats = set(re.findall(r"""strftime_now\(\s*["']([^"']+)["']""", source))
    dates = "".join(f"{{%- if f == '{each}' -%}}{DATE.strftime(each)}{{%- endif -%}}" for each in formats)
    dated = f"{{%- macro strftime_now(f) -%}}{dates}{{%- endmacro -%}}{source}" if formats else source
    options = {"chat_template": dated, "add_generation_prompt": is_prompt, "return_dict": False, **template.switches}
    expected = hf_tokenizer.apply_chat_template(messages, **options)
    try:
        if is_prompt:
            return bool(tokenizer(messages)["input_ids"] == expected)
        [window] = tokenizer.windows(Conversation.from_messages(messages), max_length=8192, loss_on="last")
    except ConversationError:
        return False
    ids = window.input_ids
    prompt = hf_tokenizer.apply_chat_template(messages[:-1], **options | {"add_generation_prompt": True})
    if expected[: len(prompt)] == prompt:
        return ids == expected[: len(ids)]
    # Its prompts open a response differently from its complete conversations (Gemma 4 writes empty thoughts): a window
    # has the prompt, after which the response will be generated, and then what the conversation has.
    end = ids[len(prompt) :]
    return ids[: len(prompt)] == prompt and end in (expected[-len(end) - cut :][: len(end)] for cut in range(4))


if __name__ == "__main__":
    main()
