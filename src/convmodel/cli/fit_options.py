"""Flags of `convmodel fit`, and of whatever looks at a run before it begins, made from `FitConfig`.

Owns: one flag a setting, and the order of precedence: flag, then `--config` file, then default.
"""

import inspect
from collections.abc import Callable, Collection
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from convmodel.training.config import FitConfig

_TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "LossOn": list[str],
    "bool": bool,
    "bool | dict[str, Any]": bool,
}


def with_fit_options(command: Callable[..., None], *, only: Collection[str] = ()) -> Callable[..., None]:
    """Gives a command one flag for each field of `FitConfig`, and passes them on as its argument `settings`.

    `settings` holds only what the user gave, in a file or by a flag.

    Args:
        command: It.
        only: The fields that get a flag, where not all are of use; a file may have all of them.
    """
    own = inspect.signature(command)
    flagged = [setting for setting in fields(FitConfig) if not only or setting.name in only]

    def run(**arguments: Any) -> None:
        flags = {setting.name: arguments.pop(setting.name) for setting in flagged}
        config: Path | None = arguments.pop("config")
        settings = FitConfig.read_toml(config) if config else {}
        given = {name: _plain(value) for name, value in flags.items() if value not in (None, [])}
        # A flag can only say that a table is wanted, which the file may have.
        settings |= {name: value for name, value in given.items() if not (value is True and settings.get(name))}
        command(**arguments, settings=settings)

    parameters = [parameter for parameter in own.parameters.values() if parameter.name != "settings"]
    file = typer.Option(help="A TOML file of the settings below, as `batch_size = 4`; flags win over it.")
    parameters.append(_keyword("config", Annotated[Path | None, file]))
    parameters += [_flag(setting) for setting in flagged]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    return run


def _flag(setting: Field[Any]) -> inspect.Parameter:
    kind = _TYPES[str(setting.type).removesuffix(" | None")]
    default = setting.default
    shown = f" [default: {default}]"
    option = typer.Option(
        help=setting.metadata["help"] + (shown if default is not None else ""),
        show_default=False,
        rich_help_panel="Settings",
    )
    return _keyword(setting.name, Annotated[kind | None, option])


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _plain(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value
