"""Models whose weights are sharded over processes (FSDP2), so that they may be larger than a device.

Owns: which kinds of sharding are supported, and loading and gathering weights of a model, sharded or not. Does not know
what they are for.
"""

import atexit
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from convmodel.errors import ConfigError
from convmodel.files.hub import ADAPTER_WEIGHTS
from convmodel.hf_model.adapter_files import load_adapters
from convmodel.hf_model.lora import has_adapters
from convmodel.training.config import FitConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_sharded(model: torch.nn.Module) -> bool:
    """Returns whether a model is sharded: each process holds a part of every weight."""
    return isinstance(model, FSDPModule)


def settle_sharding(accelerator: Any, hf_model: "PreTrainedModel", config: FitConfig) -> None:
    """Checks that the sharding that the launcher requests, if any, is supported, and sets its precision."""
    if getattr(accelerator.state, "deepspeed_plugin", None) is not None:
        raise ConfigError(
            "DeepSpeed is not supported: shard the model with accelerate launch --use_fsdp --fsdp_version 2"
        )
    plugin: Any = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    reasons = {
        "FSDP1 is not supported: pass --fsdp_version 2 to accelerate launch": plugin.fsdp_version != 2,
        "FSDP needs a folder for the model, whose parts are in all processes: set output_dir": not config.output_dir,
        "FSDP of a model with adapters is not supported: leave out lora or FSDP": has_adapters(hf_model),
        "FSDP with parameters on the CPU is not supported: leave out --fsdp_offload_params": isinstance(
            plugin.cpu_offload, CPUOffloadPolicy
        ),
        "FSDP's own activation checkpointing is not supported: set gradient_checkpointing": (
            plugin.activation_checkpointing
        ),
        "FSDP does not support adafactor: use adamw": config.optim == "adafactor",
        "FSDP does not support precision fp16: use bf16 or fp32": accelerator.mixed_precision == "fp16",
        "FSDP does not support torch_compile: leave one of them out": config.torch_compile,
        "FSDP does not support samples, since no process has the whole model: leave samples out": config.samples,
    }
    for reason, applies in reasons.items():
        if applies:
            raise ConfigError(reason)
    if accelerator.mixed_precision == "bf16":
        # accelerate's default would also sum gradients and round losses in bf16.
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def whole(value: Any) -> Any:
    """Gathers each sharded tensor of nested dictionaries and lists on the first process's CPU; all must call it.

    The others get empty tensors instead. Everything else is returned unchanged.
    """
    if isinstance(value, DTensor):
        gathered = value.full_tensor()
        return gathered.cpu() if torch.distributed.get_rank() == 0 else gathered.new_empty(0)
    if isinstance(value, dict):
        return {name: whole(part) for name, part in value.items()}
    return [whole(part) for part in value] if isinstance(value, list) else value


def whole_weights(hf_model: "PreTrainedModel") -> dict[str, torch.Tensor] | None:
    """Gathers a sharded model's weights as `whole` does, tied ones once; returns None if the model is not sharded."""
    if not is_sharded(hf_model):
        return None
    reshard(hf_model)
    named = {name for name, _ in hf_model.named_parameters()}
    tied = {name for name, _ in hf_model.named_parameters(remove_duplicate=False)} - named
    gathered: dict[str, torch.Tensor] = whole({k: v for k, v in hf_model.state_dict().items() if k not in tied})
    return gathered


def spread_optimizer_state(state: dict[str, Any], model: torch.nn.Module) -> dict[str, Any]:
    """Shards the tensors of an optimizer's state that have their parameter's shape, as the parameter is sharded."""
    parameters = dict(model.named_parameters())

    def sharded(name: str, value: Any) -> Any:
        parameter = parameters[name]
        if not (isinstance(parameter, DTensor) and isinstance(value, torch.Tensor) and value.shape == parameter.shape):
            return value
        local = value.to(parameter.device)  # every process has read all of it
        return distribute_tensor(local, parameter.device_mesh, parameter.placements, src_data_rank=None)

    moments = state["state"].items()
    return state | {"state": {name: {k: sharded(name, v) for k, v in values.items()} for name, values in moments}}


def exit_of_group() -> None:
    """Ends this process at once if it is one of several, and has no effect otherwise.

    gloo's threads may outlive its group and abort the interpreter at shutdown (`terminate called without an active
    exception`), so that a successful run would look like a failed one.
    """
    if not torch.distributed.is_initialized():
        return
    torch.distributed.barrier()
    atexit._run_exitfuncs()  # of trackers and logging
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def allocate(hf_model: "PreTrainedModel") -> None:
    """Makes a sharded model allocate the buffers for whole weights in the way that training needs.

    If its first forward pass were a validation, in inference mode, training could not write to them.
    """
    if is_sharded(hf_model):
        with torch.no_grad():
            hf_model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=hf_model.device), use_cache=False)
        reshard(hf_model)


def reshard(model: torch.nn.Module) -> None:
    """Frees the whole weights that a forward pass without a backward pass leaves in a sharded model."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def restore_weights(hf_model: "PreTrainedModel", folder: str | os.PathLike[str]) -> None:
    """Loads what `save_checkpoint` wrote into the model, whose parameters stay the same objects.

    If the folder holds adapters, only these are loaded.
    """
    place = Path(folder)
    if (place / ADAPTER_WEIGHTS).exists():
        load_adapters(hf_model, place)
        return
    weights = type(hf_model).from_pretrained(place, dtype=hf_model.dtype).state_dict()
    if not is_sharded(hf_model):
        hf_model.load_state_dict(weights)
        return
    reshard(hf_model)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(hf_model, weights if torch.distributed.get_rank() == 0 else {}, options=options)
