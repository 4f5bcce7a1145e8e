"""Four families of tokenizers, each saved with a tiny random model the way Hugging Face saves them.

Owns: what the families have that a token layout can trip over. Knows nothing of convmodel.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

GPT2_FILES = Path(__file__).parent / "data/gpt2-tokenizer"
POSITIONS = 128

SENTENCES = """\
Hello, how are you today?
I am fine, thank you. And you?
Good morning! Did you sleep well?
Not really, the neighbours had a party.
What did you have for breakfast?
Two eggs, some toast and a lot of coffee.
Is it still raining outside?
Yes, it has rained since 7 o'clock.
Then let's stay at home and read.
That sounds like a good idea to me.
Which book are you reading now?
It's about a lighthouse keeper and his 3 cats.
Do you like living in the city?
I do, but I miss the mountains in summer.
Have you ever been to Japan?
No, but I'd love to go there one day!
My sister works in Osaka, she's a nurse.
How many people live there?
About 2,750,000, if I remember it right.
Can I ask you something?
Of course, what would you like to know?
When does the next train to the airport leave?
At 10:45, from platform 8.
Thank you very much, see you soon.
こんにちは、お元気ですか。
はい、元気です。あなたは?
今日はとても暑いですね。
そうですね、海に行きたいです。
朝ごはんは何を食べましたか。
パンと卵を食べました。
週末は何をしますか。
友達と映画を見に行きます。
どんな映画が好きですか。
古い日本の映画が好きです。
東京に住んでいますか。
いいえ、大阪に住んでいます。
仕事は忙しいですか。
少し忙しいですが、楽しいです。
また明日話しましょう。
ありがとうございます、さようなら。
""".splitlines()

LLAMA3_WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def save_gpt2(folder: Path) -> None:
    """GPT-2's own vocabulary: unknown, first and last token are one, there is no separator and no padding."""
    tokenizer = GPT2Tokenizer(vocab=str(GPT2_FILES / "vocab.json"), merges=str(GPT2_FILES / "merges.txt"))
    save(folder, tokenizer, tiny_gpt2)


def save_bytelevel(folder: Path) -> None:
    """As Llama 3 and Qwen: byte-level BPE with whole-word look-up, no unknown token, a first token added."""
    backend = Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(LLAMA3_WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    train_bpe(backend)
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    backend.add_special_tokens(specials)
    first = backend.token_to_id(specials[0])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{specials[0]} $A", special_tokens=[(specials[0], first)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=specials[0],
        eos_token=specials[1],
        extra_special_tokens=[specials[2]],
    )
    save(folder, tokenizer, tiny_llama)


def save_unigram(folder: Path) -> None:
    """As the Japanese GPT-2s: Unigram pieces, NFKC, a separator of its own, a last token put after texts."""
    backend = Tokenizer(models.Unigram(unigram_pieces(), unk_id=0, byte_fallback=True))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="[PAD]",
        sep_token="[SEP]",
    )
    save(folder, tokenizer, tiny_gpt2)


def unigram_pieces() -> list[tuple[str, float]]:
    """Returns special tokens, then substrings of the sentences by log-frequency, then a piece for each byte.

    Not the library's trainer, whose pieces differ from run to run.
    """
    counts = Counter("<>x0123456789ABCDEF")
    for sentence in SENTENCES:
        for word in ("▁" + sentence.replace(" ", " ▁")).split():
            counts.update(word[i:j] for i in range(len(word)) for j in range(i + 1, min(i + 6, len(word)) + 1))
    kept = {piece: count for piece, count in counts.items() if len(piece) == 1 or count > 3}
    total = sum(kept.values())
    specials = [(token, 0.0) for token in ("<unk>", "<s>", "</s>", "[PAD]", "[SEP]")]
    # Scored so low that the text "<0x41>" is cheaper as six characters than as the piece of byte 0x41.
    bytes_ = [(f"<0x{byte:02X}>", -1000.0) for byte in range(256)]
    return specials + [(piece, math.log(kept[piece] / total)) for piece in sorted(kept)] + bytes_


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 2 and Gemma: pieces with space marks, and a token for each byte that no piece has."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "é",
        "▁a",
        "ab",
        "▁ab",
    ]
    merges: list[tuple[str, str]] = [("▁", "a"), ("a", "b"), ("▁a", "b")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend: Any = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def save_smollm2(folder: Path) -> None:
    """As SmolLM2: byte-level BPE, unknown and last token differ, an added token is not special."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    train_bpe(backend, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    backend.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    save(folder, tokenizer, tiny_llama)


SAVE: dict[str, Callable[[Path], None]] = {
    "gpt2": save_gpt2,
    "bytelevel": save_bytelevel,
    "unigram": save_unigram,
    "smollm2": save_smollm2,
}


def train_bpe(backend: Tokenizer, specials: Sequence[str] = ()) -> None:
    """Trains a byte-level vocabulary on the sentences; `specials` get the first ids."""
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)


def tiny_gpt2(vocab_size: int, **special_ids: int | None) -> PreTrainedModel:
    """A GPT-2 of 2 layers, 2 heads and 32 dimensions."""
    config = GPT2Config(vocab_size=vocab_size, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=2, **special_ids)
    return GPT2LMHeadModel(config)


def tiny_llama(vocab_size: int, **special_ids: int | None) -> PreTrainedModel:
    """A Llama of 2 layers, 2 heads and 32 dimensions; it has no token types."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        max_position_embeddings=POSITIONS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        **special_ids,
    )
    return LlamaForCausalLM(config)


def save(folder: Path, tokenizer: PreTrainedTokenizerBase, make_model: Callable[..., PreTrainedModel]) -> None:
    """Saves a tokenizer and a model that fits it; the weights are random, and the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make_model(len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
