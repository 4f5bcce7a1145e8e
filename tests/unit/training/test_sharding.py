"""What may be spread over processes; that it is spread rightly is shown by `tests/integration/test_fsdp.py`."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

from convmodel.errors import ConfigError
from convmodel.training.config import FitConfig
from convmodel.training.sharding import reshard, settle_sharding, spread_optimizer_state, whole_weights

MODEL: Any = torch.nn.Linear(2, 3)
FSDP2 = {"fsdp_version": 2, "cpu_offload": OffloadPolicy(), "activation_checkpointing": False}


def settle(plugin: dict[str, Any], precision: str = "no", model: Any = MODEL, **options: Any) -> Any:
    """Settles a run that accelerate was told to spread; returns the plugin as it is then."""
    spread = SimpleNamespace(**FSDP2 | {"mixed_precision_policy": None} | plugin)
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=spread), mixed_precision=precision)
    settle_sharding(accelerator, model, FitConfig.from_options({"output_dir": "model"} | options))
    return spread


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"plugin": {"fsdp_version": 1}}, "FSDP1 is not supported: pass --fsdp_version 2 to accelerate launch"),
        ({"plugin": {"cpu_offload": CPUOffloadPolicy()}}, "parameters on the CPU is not supported"),
        ({"plugin": {"activation_checkpointing": True}}, "own activation checkpointing .*: set gradient_checkpoint"),
        ({"output_dir": None}, "needs a folder for the model, .*: set output_dir"),
        ({"optim": "adafactor"}, "does not support adafactor: use adamw"),
        ({"precision": "fp16"}, "does not support precision fp16: use bf16 or fp32"),
        ({"torch_compile": True}, "does not support torch_compile"),
        ({"samples": 1}, "does not support samples, since no process has the whole model: leave samples out"),
        ({"model": SimpleNamespace(_hf_peft_config_loaded=True)}, "with adapters is not supported"),
    ],
)
def test_what_is_not_supported_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settle(**{"plugin": {}} | given)


def test_deepspeed_is_refused() -> None:
    accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=object()))
    with pytest.raises(ConfigError, match="DeepSpeed is not supported: shard the model with accelerate launch"):
        settle_sharding(accelerator, MODEL, FitConfig())


def test_gradients_are_added_up_in_float32() -> None:
    assert settle({}).mixed_precision_policy is None
    policy = settle({}, "bf16").mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, None)


def test_a_model_that_is_not_spread_passes_as_it_is() -> None:
    settle_sharding(SimpleNamespace(state=SimpleNamespace()), MODEL, FitConfig(optim="adafactor"))
    state = {"state": {"weight": {"step": torch.tensor(1.0), "exp_avg": torch.ones(3, 2)}}, "param_groups": []}
    kept = spread_optimizer_state(state, MODEL)

    assert whole_weights(MODEL) is None
    assert kept["state"]["weight"]["exp_avg"] is state["state"]["weight"]["exp_avg"]
    reshard(MODEL)
