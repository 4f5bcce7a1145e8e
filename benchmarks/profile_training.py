"""The profile of a step: of GPT-2 small or a model in a folder, 8 packed rows of 512, under torch's profiler.

    python benchmarks/profile_training.py train.jsonl --tokenizer FOLDER [--precision fp32] [--dropout 0.1]
    python benchmarks/profile_training.py train.jsonl --model FOLDER [--lora]

GPT-2 has random weights; two steps warm up. `ConversationModel.fit` runs them, as for a user.
"""

import argparse
from typing import Any

from torch.profiler import ProfilerActivity, profile
from transformers import GPT2Config, TrainerCallback

from convmodel import ConversationModel, ConversationTokenizer
from convmodel.data.reading.reader import ConversationReader

ROWS, LENGTH, WARM_UPS = 8, 512, 2
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_addmm_activation")


class Profiler(TrainerCallback):
    """Profiles the step after those that warm up."""

    def __init__(self) -> None:
        self.profile = profile(activities=[ProfilerActivity.CPU])

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == WARM_UPS:
            self.profile.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == WARM_UPS + 1:
            self.profile.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--model", help="a folder; by default GPT-2 small's shape")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--dropout", type=float, default=0.0)
    options = parser.parse_args()
    if options.model:
        model = ConversationModel.from_pretrained(options.model, layout="separator", device="cpu")
    else:
        tokenizer = ConversationTokenizer.from_pretrained(options.tokenizer)
        model = ConversationModel.from_config(GPT2Config(), tokenizer, device="cpu")
    conversations = []
    tokens = 0
    for conversation in ConversationReader(options.train):
        if tokens > options.rows * LENGTH * (WARM_UPS + 2):
            break
        conversations.append(conversation)
        tokens += sum(map(len, map(model.tokenizer.encode, conversation.turns)))
    profiler = Profiler()
    model.fit(
        conversations,
        callbacks=[profiler],
        max_steps=WARM_UPS + 1,
        batch_size=options.rows,
        max_length=LENGTH,
        packing=True,
        precision=options.precision,
        dropout=options.dropout,
        lora=options.lora,
    )
    found = profiler.profile.key_averages()
    print(found.table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=48))
    whole = sum(event.self_cpu_time_total for event in found)
    products = sum(event.self_cpu_time_total for event in found if event.key in PRODUCTS)
    size = f"{options.rows} x {LENGTH} tokens"
    print(f"a step of {size}: {whole / 1e6:.2f} s, {products / whole:.2f} of it in matrix products")


if __name__ == "__main__":
    main()
