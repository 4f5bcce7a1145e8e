"""How the commands show their help: `-h` works, and a switch shows no type, since it takes no value."""

from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption

CONTEXT = {"help_option_names": ["-h", "--help"]}
"""Settings of the whole command line; commands inherit them."""

_LONGEST_PAIR = 30  # characters of a switch and its negative form, in a terminal of 80 columns


class Command(TyperCommand):
    """A command."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Returns the parameters, with `--help`."""
        return _without_types_of_switches(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help, without the negative forms that would leave no room for names and texts."""
        options = [option for option in self.params if isinstance(option, TyperOption)]
        negatives = {id(option): option.secondary_opts for option in options}
        for option in options:
            if len("".join(option.opts + option.secondary_opts)) > _LONGEST_PAIR:
                option.secondary_opts = []
        try:
            super().format_help(ctx, formatter)
        finally:
            for option in options:
                option.secondary_opts = negatives[id(option)]


class Group(TyperGroup):
    """A command with commands of its own."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Returns the parameters, with `--help`."""
        return _without_types_of_switches(super().get_params(ctx))


def _without_types_of_switches(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.is_flag:
            parameter.metavar = ""
    return parameters
