"""Exports to GGUF, run in llama.cpp: architecture by type of weights. Prints one table.

    python benchmarks/exports.py [--smollm2 FOLDER_OR_GGUF] [--weights f32 f16 q8_0] [--only NAME ...]

Tiny random models of each family, GPT-2 small's shape with its real vocabulary, SmolLM2 in both layouts if it is given,
and the built-in model as a page. A column of equalities counts what was compared; an export that differs is an error.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2Tokenizer

from convmodel import ConversationModel, ConversationTokenizer
from convmodel.errors import ConvModelError
from convmodel.export.options import TYPES

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from export_models import MODELS, make_model  # noqa: E402
from scripted import enliven  # noqa: E402

SAMPLE = TESTS.parent / "src/convmodel/assets/sample/test.jsonl"


def gpt2_small() -> ConversationModel:
    files = TESTS / "data/gpt2-tokenizer"
    hf_tokenizer = GPT2Tokenizer(vocab=str(files / "vocab.json"), merges=str(files / "merges.txt"))
    tokenizer = ConversationTokenizer(hf_tokenizer, use_token_types=False)
    model = ConversationModel.from_config(GPT2Config(), tokenizer)
    enliven(model.hf_model, 2.0)
    return ConversationModel(model.hf_model, ConversationTokenizer(tokenizer.hf_tokenizer, layout=tokenizer.layout))


def models(smollm2: str | None) -> Iterator[tuple[str, Callable[[], ConversationModel]]]:
    for name in MODELS:
        yield f"tiny {name}", lambda name=name: make_model(name)  # type: ignore[misc]
    yield "GPT-2 small's shape", gpt2_small
    for layout in ("template", "separator") if smollm2 else ():
        yield (
            f"SmolLM2-135M, {layout}",
            lambda layout=layout: ConversationModel.from_pretrained(smollm2, layout=layout),  # type: ignore[misc]
        )


def row(name: str, model: ConversationModel, weights: str, folder: Path) -> str:
    begin = time.perf_counter()
    try:
        exported = model.export(folder / "x.gguf", weights=weights, data=str(SAMPLE), overwrite=True)
    except ConvModelError as error:
        return f"| {name} | {weights} | {error} | | | | | |"
    seconds, proof = time.perf_counter() - begin, exported.proof
    assert proof is not None
    assert proof.perplexity is not None
    tokens = f"{proof.tokens} of {proof.tokens}, {proof.ties} ties" if proof.tokens else "not compared"
    return (
        f"| {name} | {weights} | {proof.prompts} of {proof.prompts} | {tokens} | {proof.stops} of {proof.stops} "
        f"| {proof.perplexity.change:+.2%} ± {proof.perplexity.error:.2%} | {exported.size / 1e6:.1f} MB "
        f"| {seconds:.0f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", help="SmolLM2-135M-Instruct: a folder or a GGUF file")
    parser.add_argument("--weights", nargs="+", default=TYPES, choices=TYPES)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of models")
    arguments = parser.parse_args()
    print("| model | weights | equal prompts | equal tokens | ends | perplexity | size | time |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, make in models(arguments.smollm2):
            if any(part in name for part in arguments.only):
                model = make()
                for weights in arguments.weights:
                    print(row(name, model, weights, Path(folder)), flush=True)
        page = ConversationModel.from_pretrained("builtin:chitchat").export(Path(folder, "bot.html"))
    print(f"\nThe built-in model as a page: {page.size / 1e6:.2f} MB; torch {torch.__version__}")


if __name__ == "__main__":
    main()
