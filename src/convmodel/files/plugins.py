"""What installed packages add to convmodel: the entry points of a group, imported when they are first used.

Owns: finding them, and the errors about one that cannot be used. Does not know what an entry point must be: who uses a
group checks that.
"""

import logging
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from convmodel.errors import PluginError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Group:
    """A group of entry points: its name, what each of them is, and the page that describes their interface."""

    name: str
    kind: str
    page: str


EXPORTS = Group("convmodel.exports", "export reader", "docs/extend-exports.md")
METRICS = Group("convmodel.metrics", "metric", "docs/extend-metrics.md")

_warned: "set[Plugin]" = set()


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point of an installed package.

    Attributes:
        package: The package's name.
        problem: Why it cannot be used, known without importing it: its name is taken; empty if there is no such reason.
    """

    group: Group
    package: str
    version: str
    entry_point: EntryPoint
    problem: str = ""

    @property
    def name(self) -> str:
        """Its name for users: that of the entry point."""
        return self.entry_point.name

    @property
    def origin(self) -> str:
        """The package with its version."""
        return f"{self.package} {self.version}"

    def load(self) -> Any:
        """Imports it.

        Raises:
            PluginError: If its name is taken, or the import fails.
        """
        if self.problem:
            raise self.error(self.problem)
        value, failure = _imported(self.entry_point)
        if failure is not None:
            raise self.failed(f"cannot be imported from {self.entry_point.value}", failure)
        return value

    def failed(self, what: str, failure: BaseException) -> PluginError:
        """Returns the error for an exception of the package, which becomes the cause."""
        error = self.error(f"{what} ({type(failure).__name__}: {failure})")
        error.__cause__ = failure
        return error

    def error(self, what: str) -> PluginError:
        """Returns an error about it, which names the package and the fix."""
        return PluginError(
            f"the {self.group.kind} {self.name} of the package {self.origin} {what}: upgrade or uninstall "
            f"{self.package}; its interface is described in {self.group.page}"
        )


def find_plugins(group: Group, reserved: Collection[str] = ()) -> list[Plugin]:
    """Finds the plugins of a group by name, without importing them.

    One with a `reserved` name, or with the same name as another, is listed with its `problem`.
    """
    # A notebook may install a package while it runs, which changes the time of a folder.
    entries = _entry_points(group.name, tuple((folder, _changed_at(folder)) for folder in sys.path))
    count = Counter(entry_point.name for entry_point, _, _ in entries)

    def problem(name: str, package: str) -> str:
        if name in reserved:
            return f"is not used, since convmodel itself has the name {name}"
        others = sorted({other for entry_point, other, _ in entries if entry_point.name == name} - {package})
        if count[name] > 1:
            return f"is not used, since {' and '.join(others) or 'the same package'} has another of that name"
        return ""

    return [
        Plugin(group, package, version, entry_point, problem(entry_point.name, package))
        for entry_point, package, version in entries
    ]


def warn(plugin: Plugin, error: PluginError) -> None:
    """Logs why a plugin is left out, the first time: it may fail on each of many files."""
    if plugin not in _warned:
        _warned.add(plugin)
        logger.warning("%s", error)


def _changed_at(folder: str) -> float:
    """Returns the time of a folder's last change; 0 if there is none, or none that may be read."""
    try:
        return Path(folder or ".").stat().st_mtime
    except OSError:
        return 0.0


@lru_cache(maxsize=8)
def _entry_points(group: str, path: tuple[tuple[str, float], ...]) -> Sequence[tuple[EntryPoint, str, str]]:
    """Returns a group's entry points with their package and its version; `path` is where packages lie, with times."""
    packages = [(entry_point, entry_point.dist) for entry_point in entry_points(group=group)]
    entries = [(entry_point, dist.name, dist.version) for entry_point, dist in packages if dist is not None]
    return sorted(entries, key=lambda entry: (entry[0].name, entry[1]))


@cache
def _imported(entry_point: EntryPoint) -> tuple[Any, BaseException | None]:
    """Imports an entry point, or returns why that fails; neither is tried again."""
    try:
        return entry_point.load(), None
    except (Exception, SystemExit) as error:
        return None, error
