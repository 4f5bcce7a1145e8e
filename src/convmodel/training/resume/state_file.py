"""The state of training, in two files without pickle.

Owns: storing nested dictionaries and lists as safetensors (their tensors) and JSON (everything else), and an
optimizer's state by parameter name, which is such a dictionary. Does not know what else the state holds.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

TENSORS, REST = "training_state.safetensors", "training_state.json"

_POINTER = "tensor:"


def write_state(state: dict[str, Any], folder: Path) -> None:
    """Writes a nested dictionary whose leaves are tensors or JSON values; tuples become lists.

    Floats are read back bit for bit: Python writes the shortest text that parses to the same float.
    """
    tensors: dict[str, torch.Tensor] = {}
    rest = _without_tensors(state, "", tensors)
    (folder / REST).write_text(json.dumps(rest), encoding="utf-8", newline="\n")
    try:
        save_file(tensors, folder / TENSORS)
    except SafetensorError as error:  # raised on a full disk
        raise OSError(str(error)) from error


def read_state(folder: Path) -> dict[str, Any]:
    """Reads what `write_state` wrote; its tensors are on the CPU."""
    tensors = load_file(folder / TENSORS)
    state: dict[str, Any] = _with_tensors(json.loads((folder / REST).read_text(encoding="utf-8")), tensors)
    return state


def _without_tensors(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return _POINTER + name
    if isinstance(value, dict):
        return {key: _without_tensors(part, f"{name}/{key}", tensors) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(part, f"{name}/{number}", tensors) for number, part in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, str) and value.startswith(_POINTER):
        return tensors[value.removeprefix(_POINTER)]
    if isinstance(value, dict):
        return {key: _with_tensors(part, tensors) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_tensors(part, tensors) for part in value]
    return value


def optimizer_state(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[str, Any]:
    """Returns an optimizer's state with parameters' names instead of their numbers."""
    names = _numbered_names(optimizer, model)
    state = optimizer.state_dict()
    groups = [group | {"params": [names[number] for number in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[number]: value for number, value in state["state"].items()}, "param_groups": groups}


def load_optimizer_state(optimizer: torch.optim.Optimizer, model: torch.nn.Module, state: dict[str, Any]) -> None:
    """Restores what `optimizer_state` returned, into an optimizer of the same parameters in any order."""
    names = _numbered_names(optimizer, model)
    saved = {name: group for group in state["param_groups"] for name in group["params"]}
    groups = [
        (saved[names[group["params"][0]]] if group["params"] else group) | {"params": group["params"]}
        for group in optimizer.state_dict()["param_groups"]
    ]
    numbered = {number: state["state"][name] for number, name in names.items() if name in state["state"]}
    optimizer.load_state_dict({"state": numbered, "param_groups": groups})


def _numbered_names(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[int, str]:
    """Maps the numbers that `Optimizer.state_dict` gives parameters, their positions over all groups, to names."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {number: names[id(parameter)] for number, parameter in enumerate(parameters)}
