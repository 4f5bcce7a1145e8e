"""How the commands show their help: `-h` works, and a switch shows no type, since it takes no value."""

from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption

from convmodel.files.plugins import EXPORTS, METRICS, find_plugins

CONTEXT = {"help_option_names": ["-h", "--help"]}
"""Settings of the whole command line; commands inherit them."""

_GROUPS = {"import": EXPORTS, "evaluate": METRICS}
"""What installed packages may add to a command, by its name."""

_LONGEST_PAIR = 30  # characters of a switch and its negative form, in a terminal of 80 columns


class Command(TyperCommand):
    """A command."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Returns the parameters, with `--help`."""
        return _without_types_of_switches(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help, without the negative forms that would leave no room for names and texts.

        It ends with what installed packages add to the command, which is looked up only here.
        """
        options = [option for option in self.params if isinstance(option, TyperOption)]
        negatives = {id(option): option.secondary_opts for option in options}
        for option in options:
            if len("".join(option.opts + option.secondary_opts)) > _LONGEST_PAIR:
                option.secondary_opts = []
        own_epilog, self.epilog = self.epilog, _plugins_of(self.name) or self.epilog
        try:
            super().format_help(ctx, formatter)
        finally:
            self.epilog = own_epilog
            for option in options:
                option.secondary_opts = negatives[id(option)]


def _plugins_of(command: str | None) -> str:
    """Returns a line on what installed packages add to a command; empty if they add nothing."""
    group = _GROUPS.get(command or "")
    plugins = find_plugins(group) if group else []
    names = ", ".join(f"`{plugin.name}` ({plugin.problem or plugin.origin})" for plugin in plugins)
    return f"{group.kind.capitalize()}s of installed packages: {names}" if group and names else ""


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
