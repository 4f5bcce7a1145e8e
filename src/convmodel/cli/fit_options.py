"""Command-line flags for the settings of a run, made from the fields of `FitConfig`.

Owns: one flag per setting, and the order of precedence: flag, then `--config` file, then default.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from convmodel.training.config import FitConfig, setting_types

GROUPS = {
    "Length and optimizer": (
        "epochs", "max_steps", "batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_steps",
        "weight_decay", "max_grad_norm", "optim",
    ),
    "Data": ("max_length", "packing", "loss_on", "seed"),
    "Learning from judgements": (
        "objective", "beta", "sft_weight", "label_smoothing", "max_regression", "replay_weight",
        "regeneration_weight",
    ),
    "Adapters and regularization": ("lora", "merge", "dropout"),
    "Speed and memory": ("precision", "gradient_checkpointing", "torch_compile"),
    "Validation and reports": ("eval_steps", "early_stopping_patience", "samples", "logging_steps", "report_to"),
    "Saving and resuming": ("output_dir", "save_steps", "save_minutes", "save_total_limit", "resume"),
}  # fmt: skip
"""The settings by group, as `--help` shows them."""
_SHORT = {"output_dir": ["-o"]}


def with_fit_options(
    command: Callable[..., None], *, only: Collection[str] = (), defaults: Mapping[str, Any] | None = None
) -> Callable[..., None]:
    """Adds one flag to a command for each field of `FitConfig`, and passes the values as its argument `settings`.

    `settings` holds only what the user set, in a file or by a flag. With `only`, other fields have no flag, but a file
    may have them. The help shows `defaults` in place of those of `FitConfig`; the command applies them.
    """
    signature = inspect.signature(command)
    order = [name for names in GROUPS.values() for name in names]
    flagged = [setting for setting in fields(FitConfig) if not only or setting.name in only]
    flagged.sort(key=lambda setting: order.index(setting.name) if setting.name in order else len(order))

    def run(**arguments: Any) -> None:
        flags = {setting.name: arguments.pop(setting.name) for setting in flagged}
        config: Path | None = arguments.pop("config")
        settings = FitConfig.read_toml(config) if config else {}
        set_flags = {name: _plain(value) for name, value in flags.items() if value not in (None, [])}
        # A flag only switches on; a table in the file stays.
        settings |= {name: value for name, value in set_flags.items() if not (value is True and settings.get(name))}
        command(**arguments, settings=settings)

    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "settings"]
    file = typer.Option(help="A TOML file of the settings below, such as `batch_size = 4`; flags take precedence.")
    parameters.append(_keyword("config", Annotated[Path | None, file]))
    parameters += [_flag(setting, (defaults or {}).get(setting.name, setting.default)) for setting in flagged]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    return run


def _flag(setting: Field[Any], value: Any) -> inspect.Parameter:
    kinds = setting_types()[setting.name]
    kind: Any = list[str] if list in kinds else kinds[0]
    default = "" if value is None else f" [default: {value}]"
    words = setting.metadata["choices"] if float in kinds else ()
    parsing: dict[str, Any] = {"parser": partial(_number, words), "metavar": "|".join(["N", *words])} if words else {}
    names = [] if kind is bool else [f"--{setting.name.replace('_', '-')}", *_SHORT.get(setting.name, ())]
    option = typer.Option(
        *names,
        help=setting.metadata["help"] + default,
        show_default=False,
        rich_help_panel=_group(setting.name),
        **parsing,
    )
    return _keyword(setting.name, Annotated[kind | None, option])


def _number(words: Collection[str], text: str) -> float | str:
    """Reads a number, or one of the words that may stand in its place."""
    if text in words:
        return text
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither a number nor {' or '.join(words)}.") from error


def _group(name: str) -> str:
    return next((title for title, names in GROUPS.items() if name in names), "Other settings")


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _plain(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value
