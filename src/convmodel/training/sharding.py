"""Weights that are spread over processes, so that a model may be larger than a device (FSDP2).

Owns: which ways of spreading there are, and gathering what is spread into plain tensors and back. A model that is not
spread passes through all of it as it is.
"""

import atexit
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from convmodel.errors import ConfigError
from convmodel.files.hub import ADAPTER_WEIGHTS
from convmodel.hf_model.lora import has_adapters, load_adapters
from convmodel.training.config import FitConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_sharded(model: torch.nn.Module) -> bool:
    """Tells whether a model is spread over processes, each of which holds a part of every weight."""
    return isinstance(model, FSDPModule)


def settle_sharding(accelerator: Any, hf_model: "PreTrainedModel", config: FitConfig) -> None:
    """Checks that a run can be spread in the way that the launcher asks for, if it asks; and settles its precision.

    Raises:
        ConfigError: If it cannot.
    """
    if getattr(accelerator.state, "deepspeed_plugin", None) is not None:
        raise ConfigError(
            "DeepSpeed is not supported: spread the model by accelerate launch --use_fsdp --fsdp_version 2"
        )
    plugin: Any = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    reasons = {
        "FSDP1 is not supported: give accelerate launch --fsdp_version 2": plugin.fsdp_version != 2,
        "FSDP has nowhere to leave the model, whose parts are in all processes: give output_dir": not config.output_dir,
        "FSDP of a model with adapters is not supported: leave lora out, or FSDP": has_adapters(hf_model),
        "FSDP that keeps parameters on the CPU is not supported: leave --fsdp_offload_params out": isinstance(
            plugin.cpu_offload, CPUOffloadPolicy
        ),
        "FSDP's own activation checkpointing is not supported: give gradient_checkpointing": (
            plugin.activation_checkpointing
        ),
        "FSDP does not go with adafactor: use adamw": config.optim == "adafactor",
        "FSDP does not go with precision fp16: use bf16 or fp32": accelerator.mixed_precision == "fp16",
        "FSDP does not go with torch_compile: leave one of them out": config.torch_compile,
    }
    for reason, applies in reasons.items():
        if applies:
            raise ConfigError(reason)
    if accelerator.mixed_precision == "bf16":
        # accelerate's own would also add gradients up, and round losses, in bf16.
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def whole(value: Any) -> Any:
    """Gathers each spread tensor of nested dictionaries and lists on the first process's CPU; all must call it.

    The others get empty tensors in their place. Everything else stays as it is.

    Example:
        >>> whole({"mean": torch.ones(2), "step": 3})
        {'mean': tensor([1., 1.]), 'step': 3}
    """
    if isinstance(value, DTensor):
        gathered = value.full_tensor()
        return gathered.cpu() if torch.distributed.get_rank() == 0 else gathered.new_empty(0)
    if isinstance(value, dict):
        return {name: whole(part) for name, part in value.items()}
    return [whole(part) for part in value] if isinstance(value, list) else value


def whole_weights(hf_model: "PreTrainedModel") -> dict[str, torch.Tensor] | None:
    """Gathers a spread model's weights as `whole` does, tied ones once; None of a model that has them at hand."""
    if not is_sharded(hf_model):
        return None
    reshard(hf_model)
    named = {name for name, _ in hf_model.named_parameters()}
    again = {name for name, _ in hf_model.named_parameters(remove_duplicate=False)} - named
    gathered: dict[str, torch.Tensor] = whole({k: v for k, v in hf_model.state_dict().items() if k not in again})
    return gathered


def put_weights(hf_model: "PreTrainedModel", weights: Mapping[str, torch.Tensor]) -> None:
    """Puts whole weights into a model; into a spread one those of the first process."""
    if not is_sharded(hf_model):
        hf_model.load_state_dict(weights)
        return
    reshard(hf_model)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(hf_model, dict(weights) if torch.distributed.get_rank() == 0 else {}, options=options)


def spread_optimizer_state(state: dict[str, Any], model: torch.nn.Module) -> dict[str, Any]:
    """Spreads what is of a parameter's shape, of an optimizer's state by names, as the parameter is."""
    parameters = dict(model.named_parameters())

    def spread(name: str, value: Any) -> Any:
        like = parameters[name]
        if not (isinstance(like, DTensor) and isinstance(value, torch.Tensor) and value.shape == like.shape):
            return value
        local = value.to(like.device)  # every process has read all of it
        return distribute_tensor(local, like.device_mesh, like.placements, src_data_rank=None)

    numbers = state["state"].items()
    return state | {"state": {name: {k: spread(name, v) for k, v in values.items()} for name, values in numbers}}


def exit_of_group() -> None:
    """Ends this process at once if others train with it, and has no effect otherwise.

    gloo's threads may outlive its group, and then abort an interpreter that shuts down (`terminate called without an
    active exception`), so that a run that succeeded would look as if it had failed.
    """
    if not torch.distributed.is_initialized():
        return
    torch.distributed.barrier()
    atexit._run_exitfuncs()  # what trackers and logging have to finish
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def reshard(model: torch.nn.Module) -> None:
    """Gives back the whole weights that a forward pass without a backward pass has left in a spread model."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def restore_weights(hf_model: "PreTrainedModel", folder: str | os.PathLike[str]) -> None:
    """Puts what `save_checkpoint` wrote back into the model in hand, whose parameters stay the same objects.

    Of a model with adapters these alone were written, and these alone come back.
    """
    place = Path(folder)
    if (place / ADAPTER_WEIGHTS).exists():
        load_adapters(hf_model, place)
        return
    saved = type(hf_model).from_pretrained(place, dtype=hf_model.dtype)
    put_weights(hf_model, saved.state_dict())
