"""A device in Python that computes on the CPU, to test what other devices than the CPU and NVIDIA's GPUs refuse.

`start()` registers it in this process as the device `pretend`. As an Apple GPU, it has no float64, and its tensors are
not the CPU's: an operation on both, and `numpy()`, are errors.
"""

import os
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
MISSING: set[str] = set()
"""Names of operations that the device lacks, such as `aten::mm`."""

FACTORS: dict[str, float] = {}
"""By the name of an operation, what its results are multiplied with: a device that computes wrongly."""


class Pretend(torch.Tensor):
    """A tensor of the device; `value` is what it holds."""

    value: torch.Tensor

    @staticmethod
    def __new__(cls, value: torch.Tensor) -> "Pretend":
        """Wraps a tensor of the CPU."""
        if value.dtype == torch.float64:
            raise TypeError(f"Cannot convert a {NAME} tensor to float64 dtype as the framework doesn't support float64")
        tensor: Pretend = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, value.shape, strides=value.stride(), storage_offset=value.storage_offset(), dtype=value.dtype,
            device=torch.device(NAME, 0), requires_grad=False,
        )  # fmt: skip
        tensor.value = value
        return tensor

    def __getitem__(self, index: Any) -> Any:
        """Indexes with lists, too, of which torch makes tensors in C++."""
        return super().__getitem__(_places(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        """Assigns at such an index."""
        super().__setitem__(_places(index), value)

    def tolist(self) -> Any:
        """Returns the values as lists."""
        return self.value.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Computes an operation that has such a tensor among its arguments."""
        return compute(func, *args, **(kwargs or {}))


def _places(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(map(_places, index))
    return torch.tensor(index).to(NAME) if isinstance(index, list) else index


def compute(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Computes an operation on the CPU; its results are on the device, unless it moves them to the CPU."""
    name = func._schema.name
    if name in MISSING:
        raise NotImplementedError(f"The operator '{name}' is not currently implemented for the {NAME} device")
    inputs: list[Any] = []
    tree_map(lambda value: inputs.append(value) if isinstance(value, torch.Tensor) else None, (args, kwargs))
    foreign = [value for value in inputs if not isinstance(value, Pretend) and value.dim()]
    if foreign and len(foreign) < len(inputs) and name not in ("aten::copy_", "aten::_to_copy", "aten::_copy_from"):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cpu and {NAME} in {name}")
    wrappers = {id(value.value): value for value in inputs if isinstance(value, Pretend)}
    on_device = bool(wrappers)
    if kwargs.get("device") is not None:
        on_device = torch.device(kwargs["device"]).type == NAME
        kwargs = kwargs | {"device": torch.device("cpu")}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in wrappers:  # changed in place
            return wrappers[id(value)]
        if any(value is given for given in inputs):
            return value
        return Pretend(value) if on_device else value

    args, kwargs = tree_map(lambda value: value.value if isinstance(value, Pretend) else value, (args, kwargs))
    result = func(*args, **kwargs)
    if name in FACTORS:
        result = tree_map(lambda v: v * FACTORS[name] if isinstance(v, torch.Tensor) else v, result)
    return tree_map(wrapped, result)


class _Module:
    """What torch asks of a device's module."""

    def is_initialized(self) -> bool:
        return True

    is_available = is_initialized

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self) -> None:
        pass

    def get_rng_state(self, device: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any) -> None:
        pass


_kept: list[Any] = []


def start() -> None:
    """Registers the device in this process, once."""
    if _kept:
        return
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(compute, "PrivateUse1")
    torch.__future__.set_swap_module_params_on_conversion(True)  # keeps tied weights tied
    _kept.append(library)
    _patch_torch()


def _patch_torch() -> None:
    """Replaces what torch can do only on devices that are written in C++."""
    make = torch.tensor

    def tensor(data: Any, **options: Any) -> torch.Tensor:
        device = options.pop("device", None)
        result = make(data, **options)
        return result if device is None else result.to(device)

    def no_inference_mode(mode: Any = True) -> Any:
        return torch.no_grad()(mode) if callable(mode) else torch.no_grad() if mode else nullcontext()

    from transformers import PreTrainedModel

    move: Any = PreTrainedModel.to

    def to(self: PreTrainedModel, *args: Any, **options: Any) -> PreTrainedModel:
        is_there = bool(args) and torch.device(args[0]).type == self.device.type
        if is_there:  # weights cannot be swapped while gradients are kept
            return self
        try:
            return move(self, *args, **options)
        except RuntimeError:  # nor while a run has weak references to them
            torch.__future__.set_swap_module_params_on_conversion(False)
            move(self, *args, **options)
            torch.__future__.set_swap_module_params_on_conversion(True)
            self.tie_weights()
            return self

    PreTrainedModel.to = to  # type: ignore[assignment]
    torch.tensor = tensor  # type: ignore[assignment]
    torch.Generator = _Generator  # type: ignore[misc]
    torch.inference_mode = no_inference_mode  # type: ignore[assignment, misc]


class _Generator(torch.Generator):
    def __new__(cls, device: Any = "cpu") -> "_Generator":
        return super().__new__(cls, "cpu")


def train_there() -> None:
    """Makes `Trainer` use the device if the model is on it, as it uses an Apple GPU where there is one."""
    from accelerate.state import AcceleratorState

    from convmodel.training import fit

    make = fit.training_arguments

    def training_arguments(config: Any, hf_model: Any) -> Any:
        AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier training on the other device
        os.environ.pop("ACCELERATE_TORCH_DEVICE", None)
        if hf_model.device.type == NAME:
            os.environ["ACCELERATE_TORCH_DEVICE"] = f"{NAME}:0"
        return make(config, hf_model)

    fit.training_arguments = training_arguments
