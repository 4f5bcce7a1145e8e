"""The peers' side of `training.py`: TRL's SFTTrainer and Hugging Face's Trainer, in an environment of their own.

    python -m venv peers && peers/bin/pip install torch==2.13.0 trl==1.16.0 peft

`training.py` starts this file with that environment's Python and a JSON file that says what to train; what was
measured is written beside it. `Watch` measures convmodel's side too, so that all are measured alike.
"""

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

GIB = 1 << 30


class Watch(TrainerCallback):
    """Measures the steps after the first, which warms up: seconds, tokens without padding, losses, memory."""

    def __init__(self) -> None:
        self._resident: list[float] = []
        self._ends: list[tuple[float, int]] = []
        self._measured: dict[str, Any] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._resident.append(resident())
        self._ends.append((time.perf_counter(), int(state.num_input_tokens_seen)))

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        (begin, before), (end, after) = self._ends[0], self._ends[-1]
        self._measured = {
            "seconds": end - begin,
            "tokens": after - before,
            "updates": state.global_step,
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
            "resident_gib": [self._resident[0], self._resident[-1]],
            "losses": [log["loss"] for log in state.log_history if "loss" in log],
        }

    def write(self, path: str) -> None:
        """Writes what was measured."""
        Path(path).write_text(json.dumps(self._measured))


def resident() -> float:
    """Tells how much memory this process holds now, in GiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / GIB


def make_trainer(job: dict[str, Any], watch: Watch, scratch: str) -> Any:
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype="float32", **job["model"])
    data = Dataset.from_dict({"input_ids": json.loads(Path(job["rows"]).read_text())})
    same = {
        "include_num_input_tokens_seen": "non_padding",
        "output_dir": scratch,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    settings = same | job["settings"]
    common = {"model": model, "train_dataset": data, "processing_class": tokenizer, "callbacks": [watch]}
    if job["worker"] == "trl":
        from trl import SFTConfig, SFTTrainer

        if job["lora"]:
            from peft import LoraConfig

            common["peft_config"] = LoraConfig(task_type="CAUSAL_LM", **job["lora"])
        return SFTTrainer(args=SFTConfig(**{"max_length": job["max_length"]} | settings), **common)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return Trainer(args=TrainingArguments(**settings), data_collator=collator, **common)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    watch = Watch()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make_trainer(job, watch, scratch)
        trainer.train()
        if job["save"]:  # with the start's tokenizer and layout, so that both sides are evaluated alike
            trainer.model.save_pretrained(scratch)
            shutil.copytree(job["folder"], job["save"])
            shutil.copy(Path(scratch, "model.safetensors"), job["save"])
    watch.write(job["result"])


if __name__ == "__main__":
    main()
