"""Evaluation speed in tokens per second, compared with HF Trainer's evaluation of the same text and with a plain loop.

    python benchmarks/evaluation.py [MODEL] [--conversations 100] [--max-length 256] [--batch-size 8] [--rounds 5]

MODEL is a folder or hub id; without it, random weights of GPT-2 small's shape. The text is the sample's test
conversations, cut into the same windows for all. Trainer gets them in their order, padded to the longest of each batch,
with labels of -100 where there is no target, and `prediction_loss_only`, which is its quickest way. With `--lm-eval`
(pip install lm-eval) its `HFLM` is measured, too: on each turn given all turns before it, which is what `evaluate`
measures, and rolling over each conversation as one text, which is not.

Each side is warmed up once; the rounds take turns, and medians are printed. The plain loop takes one window at a time
in float32 and adds up in float64; its perplexity must be ours to 1e-4 of it.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import GPT2Config, Trainer, TrainingArguments

from convmodel import Conversation, ConversationModel
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.windows.collate import pad
from convmodel.data.windows.encoding import WindowSet, encode_windows
from convmodel.evaluation.likelihood import evaluate_windows
from convmodel.evaluation.turn_statistics import measure_turns
from convmodel.layout.sequence import IGNORED, Window
from convmodel.layout.tokenizer import ConversationTokenizer

SAMPLE = Path(__file__).parents[1] / "src/convmodel/assets/sample/test.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--tokenizer", default="gpt2", help="of random weights")
    parser.add_argument("--conversations", type=int, default=100)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lm-eval", action="store_true")
    options = parser.parse_args()
    model = load(options.model, options.tokenizer)
    talks = [*ConversationReader(SAMPLE)][: options.conversations]
    windows = encode_windows(talks, model.tokenizer, max_length=options.max_length, loss_on="all")
    print(f"{windows.tokens:,} targets in {len(windows.windows)} windows, {torch.get_num_threads()} threads")

    trainer = trainer_of(model, options.batch_size)
    sides: dict[str, Callable[[], object]] = {
        "evaluate": lambda: evaluate_windows(model.hf_model, model.tokenizer, windows, batch_size=options.batch_size),
        "evaluate, turn by turn": lambda: measure_turns(
            model.hf_model,
            model.tokenizer,
            talks,
            max_length=options.max_length,
            loss_on="all",
            batch_size=options.batch_size,
        ),
        "Trainer.evaluate": lambda: trainer.evaluate(eval_dataset=list(windows.windows)),
    }
    if options.lm_eval:
        sides |= lm_eval_sides(model, talks, options.max_length, options.batch_size)
    seconds = measure(sides, options.rounds)
    for name, taken in seconds.items():
        times = ", ".join(f"{each:.2f}" for each in taken)
        print(f"{name}: {windows.tokens / statistics.median(taken):,.0f} tokens/s (seconds: {times})")
    for name in sides:
        if not name.startswith("evaluate"):
            ratio = statistics.median(seconds[name]) / statistics.median(seconds["evaluate"])
            print(f"evaluate is {ratio:.2f} times as fast as {name}")
    compare(model, windows, options.batch_size)


def load(name: str | None, tokenizer: str) -> ConversationModel:
    if name is not None:
        return ConversationModel.from_pretrained(name, dtype="float32")
    layout = ConversationTokenizer.from_pretrained(tokenizer)
    return ConversationModel.from_config(GPT2Config(vocab_size=len(layout.hf_tokenizer)), layout)


def trainer_of(model: ConversationModel, batch_size: int) -> Trainer:
    use_types = model.tokenizer.layout.use_token_types
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_eval_batch_size=batch_size,
        prediction_loss_only=True,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=model.device.type == "cpu",
    )

    def collate(batch: Sequence[Window]) -> dict[str, torch.Tensor]:
        tensors = pad(batch, model.tokenizer.pad_token_id, use_token_types=use_types)
        tensors.pop("weights", None)
        return tensors

    return Trainer(model=model.hf_model, args=arguments, data_collator=collate)


def lm_eval_sides(
    model: ConversationModel, talks: Sequence[Conversation], max_length: int, batch_size: int
) -> dict[str, Callable[[], object]]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer = model.tokenizer
    lm = HFLM(model.hf_model, tokenizer=tokenizer.hf_tokenizer, batch_size=batch_size, max_length=max_length)
    turns: list[tuple[tuple[str, str], list[int], list[int]]] = []
    for talk in talks:
        context: list[int] = []
        for turn in talk.turns:
            context.append(tokenizer.sep_token_id)
            ids = tokenizer.encode(turn)
            said = [*ids, tokenizer.sep_token_id][: max_length - 2]
            turns.append((("", ""), context[-(max_length - len(said)) :], said))
            context += ids
    whole = [
        Instance("loglikelihood_rolling", {}, ("\n".join(talk.turns),), number) for number, talk in enumerate(talks)
    ]
    return {
        "lm-eval, each turn given those before": lambda: lm._loglikelihood_tokens(turns, disable_tqdm=True),
        "lm-eval, rolling": lambda: lm.loglikelihood_rolling(whole, disable_tqdm=True),
    }


def measure(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, work in sides.items():
            begin = time.perf_counter()
            work()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def compare(model: ConversationModel, windows: WindowSet, batch_size: int) -> None:
    """Compares the perplexity with that of one window after the other."""
    nats: list[float] = []
    with torch.inference_mode():
        for window in windows.windows:
            inputs = {"input_ids": torch.tensor([window.input_ids], device=model.device)}
            if model.tokenizer.layout.use_token_types:
                inputs["token_type_ids"] = torch.tensor([window.types], device=model.device)
            logits = model.hf_model(**inputs).logits[0, :-1].float()
            labels = torch.tensor(window.labels[1:], device=model.device)
            nats += F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED).double().tolist()
    plain = math.exp(math.fsum(nats) / windows.tokens)
    ours = evaluate_windows(model.hf_model, model.tokenizer, windows, batch_size=batch_size).perplexity
    print(f"perplexity {ours:.6f}, of the plain loop {plain:.6f}: {abs(ours - plain) / plain:.1e} off")
    assert abs(ours - plain) <= 1e-4 * plain


if __name__ == "__main__":
    main()
