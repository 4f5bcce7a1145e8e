"""`convmodel doctor MODEL --device DEVICE`: compares a device with the CPU.

Owns: what is compared and how the result is shown. The comparisons are `hf_model.device_check`'s and
`training.update_check`'s.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from convmodel.cli.console import print_json, print_table
from convmodel.data.progress import console
from convmodel.errors import ConfigError

if TYPE_CHECKING:
    from convmodel.hf_model.device_check import Comparison
    from convmodel.model import ConversationModel


def doctor_device(load: "Callable[..., ConversationModel]", device: str, *, as_json: bool) -> None:
    """Compares logits and one update of a model on a device with those on the CPU, and measures both speeds.

    The exit code is 1 if they differ by more than rounding.
    """
    model = load(device="cpu")
    with console.status(f"comparing {device} with the CPU ..."):
        comparisons, speeds = _compare(model, device)
    if as_json:
        print_json(
            {
                "device": device,
                "comparisons": [_to_dict(comparison) for comparison in comparisons],
                "seconds_per_token": speeds,
            }
        )
    else:
        _print(comparisons, speeds, device)
    if not all(comparison.is_right for comparison in comparisons):
        raise typer.Exit(1)


def _compare(model: "ConversationModel", device: str) -> tuple[list["Comparison"], dict[str, float]]:
    """Returns the comparisons, and the seconds per token on the CPU and, if it can compute logits, on the device."""
    from convmodel.hf_model.device_check import compare_logits, mover, seconds_per_token
    from convmodel.hf_model.devices import require_device
    from convmodel.training.update_check import compare_updates

    require_device(device)
    hf_model = model.hf_model
    speeds = {"cpu": seconds_per_token(hf_model)}
    update = compare_updates(hf_model, mover(device))  # of copies: the model itself stays on the CPU
    logits = compare_logits(hf_model, mover(device))
    if not logits.problem:
        speeds[device] = seconds_per_token(hf_model)
    return [logits, update], speeds


def _to_dict(comparison: "Comparison") -> dict[str, Any]:
    """Returns a comparison for JSON, which has no numbers that are not finite."""
    difference = comparison.difference if math.isfinite(comparison.difference) else None
    return asdict(comparison) | {"difference": difference, "is_right": comparison.is_right}


def _print(comparisons: "list[Comparison]", speeds: dict[str, float], device: str) -> None:
    screen = Console()
    rows = [
        (
            Text("✓ pass", "green") if comparison.is_right else Text("✗ fail", "bold red"),
            comparison.name,
            "-" if comparison.problem else f"{comparison.difference:.1e}",
            f"{comparison.bound:g}",
        )
        for comparison in comparisons
    ]
    print_table(
        ("", f"{device} and the CPU", "difference", "allowed"), rows, to=screen, left=(f"{device} and the CPU",)
    )
    for comparison in comparisons:
        if comparison.problem:
            screen.print(Text(str(comparison)), soft_wrap=True)
    screen.print()
    times = [(name, f"{1000 * seconds:.2f} ms") for name, seconds in speeds.items()]
    print_table(("32 tokens in one forward pass", "time per token"), times, to=screen)
    if not all(comparison.is_right for comparison in comparisons):
        screen.print()
        screen.print(Text(f"→ {_fix(comparisons)}", style="dim"), soft_wrap=True)


def _fix(comparisons: "list[Comparison]") -> str:
    from convmodel.hf_model.device_check import VARIABLE

    missing = any("not currently implemented" in comparison.problem for comparison in comparisons)
    fallback = "PYTORCH_ENABLE_MPS_FALLBACK=1 computes missing operations on the CPU; " * missing
    return f"{fallback}{VARIABLE}=cpu keeps all commands on the CPU; a newer torch may fix the device"


def require_alone(arguments: Mapping[str, object]) -> None:
    """Raises an error for arguments beside `--device` that it does not use, by name; those not given are falsy."""
    unused = [name for name, value in arguments.items() if value]
    if unused:
        names = ", ".join(unused)
        raise ConfigError(f"--device compares a device with the CPU on a model alone: leave out {names}")
