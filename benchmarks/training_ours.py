"""convmodel's side of `training.py`, and the matrix products that no training can do without.

`training.py` starts this file, as it starts `training_peers.py`, with a JSON file that says what to do.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SQUARE = 4096
REPEATS = 5


def train(job: dict[str, Any]) -> None:
    from training_peers import Watch

    from convmodel import ConversationModel, FitConfig

    watch = Watch()
    model = ConversationModel.from_pretrained(job["folder"], device="cpu")
    model.fit(job["conversations"], config=FitConfig(**job["settings"]), callbacks=[watch])
    if job["save"]:
        model.save_pretrained(job["save"])
    watch.write(job["result"])


def measure_products(job: dict[str, Any]) -> None:
    """Times the products of a step's tokens with each linear layer's weights, and nothing else.

    That is the forward product and those for the gradients by the input and by the weights. Those inside attention
    are left out: with rows of 512 they are a tenth as much.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    from convmodel.training.step.runtime import PRECISIONS, choose_precision

    precision = choose_precision("auto", torch.device("cpu"))
    dtype = PRECISIONS[precision]

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape).to(dtype)

    left, right, out = some(SQUARE, SQUARE), some(SQUARE, SQUARE), some(SQUARE, SQUARE)
    square = seconds(lambda: torch.mm(left, right, out=out))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(job["folder"]))
    layers = []
    for layer in model.modules():
        if isinstance(layer, Conv1D | torch.nn.Linear):
            weight, by_weight = some(*layer.weight.shape), some(*layer.weight.shape)
            if not isinstance(layer, Conv1D):  # which keeps its weights the other way round
                weight, by_weight = weight.t(), by_weight.t()
            given, made = some(job["per_update"], weight.shape[0]), some(job["per_update"], weight.shape[1])
            layers.append((given, weight, made, some(*given.shape), by_weight))

    def update() -> None:
        for given, weight, made, _, _ in layers:
            torch.mm(given, weight, out=made)
        for given, weight, made, by_input, by_weight in reversed(layers):
            torch.mm(made, weight.t(), out=by_input)
            torch.mm(given.t(), made, out=by_weight)

    alone = seconds(update)
    flops = 6 * job["per_update"] * sum(weight.numel() for _, weight, _, _, _ in layers)
    measured = {
        "precision": precision,
        "parameters": model.num_parameters(),
        "square_gflops": 2 * SQUARE**3 / square / 1e9,
        "model_gflops": flops / alone / 1e9,
        "tokens_per_second": job["per_update"] / alone,
    }
    Path(job["result"]).write_text(json.dumps(measured))


def seconds(work: Callable[[], object]) -> float:
    """Returns the median of a few, after two that warm up."""
    found = []
    for _ in range(REPEATS + 2):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return statistics.median(found[2:])


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    {"convmodel": train, "products": measure_products}[job["worker"]](job)
