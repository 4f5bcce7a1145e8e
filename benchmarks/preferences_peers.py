"""TRL's side of `preferences.py equality`: its DPOTrainer's and KTOTrainer's losses and gradients of given ids.

    python -m venv peers && peers/bin/pip install torch==2.13.0 transformers==5.23.0 trl==1.16.0

`preferences_equality.py` starts this file with that environment's Python and a JSON file that says what to compute. All
values come from the trainers' own `compute_loss` and `compute_ref_log_probs`; the batches from their own collators.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    out = Path(job["out"])
    for case in job["cases"]:
        with tempfile.TemporaryDirectory() as scratch:
            trainer = make_trainer(job, case, scratch)
            tensors = computed(trainer, case)
        save_file(tensors, out / f"{case['name']}.safetensors")


def make_trainer(job: dict[str, Any], case: dict[str, Any], scratch: str) -> Any:
    """Creates the trainer of a case; its data set is only there because it must be."""
    kto = case["objective"] == "kto"
    tokenizer = AutoTokenizer.from_pretrained(job["policy"])
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(job[name], dtype="float32") for name in ("policy", "reference")
    )
    rows = {"prompt": ["a", "b"], "completion": ["c", "d"], "label": [True, False]}
    if not kto:
        rows = {"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}
    settings = {
        "output_dir": scratch,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": None,
        "disable_tqdm": True,
        **case["settings"],
    }
    trainer, config = (KTOTrainer, KTOConfig) if kto else (DPOTrainer, DPOConfig)
    return trainer(
        model=policy,
        ref_model=reference,
        args=config(**settings),
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer,
    )


def computed(trainer: Any, case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Returns the mean loss of the batches, its gradients, and ln p of each response."""
    model, losses, log_probs = trainer.model, [], []
    model.train()
    size = case["batch_size"]
    batches = [case["examples"][start : start + size] for start in range(0, len(case["examples"]), size)]
    for rows in batches:
        inputs = trainer.data_collator(rows)
        loss = trainer.compute_loss(model, inputs)
        (loss / len(batches)).backward()
        losses.append(loss.detach())
        log_probs.append(torch.stack(trainer.compute_ref_log_probs(model, inputs), 1))
    gradients = {f"gradient {name}": value.grad for name, value in model.named_parameters()}
    return gradients | {"loss": torch.stack(losses).mean(), "log_probs": torch.cat(log_probs)}


if __name__ == "__main__":
    main()
