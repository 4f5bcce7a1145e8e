"""Plugins: found without an import, and each fault names the package and the fix."""

import sys
from pathlib import Path
from typing import Any

import pytest
from plugin_packages import install

from convmodel.errors import PluginError
from convmodel.files.plugins import EXPORTS, METRICS, Group, find_plugins, warn

TEAS = Group("convmodel_test.teas", "tea", "docs/teas.md")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_plugins_are_found_by_name_without_an_import(folder: Path) -> None:
    points = {"oolong": "teas_found:oolong", "assam": "teas_found:assam"}
    install(folder, "teas-found", {TEAS.name: points, "other": {"x": "y"}}, code="oolong, assam = 'blue', 'black'")

    assam, oolong = find_plugins(TEAS)

    assert (assam.name, oolong.name, oolong.origin) == ("assam", "oolong", "teas-found 1.0")
    assert "teas_found" not in sys.modules
    assert (oolong.load(), assam.load()) == ("blue", "black")


def test_a_group_without_packages_is_empty() -> None:
    assert find_plugins(Group("convmodel_test.nothing", "", "")) == []


def test_a_package_that_is_installed_later_is_found(folder: Path) -> None:
    assert find_plugins(TEAS) == []

    install(folder, "teas-later", {TEAS.name: {"mate": "teas_later:mate"}})

    assert [plugin.name for plugin in find_plugins(TEAS)] == ["mate"]


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("other = 1", "AttributeError: module 'teas_broken_"),
        ("green = (", "SyntaxError: '(' was never closed"),
    ],
)
def test_a_failing_import_names_the_package_and_the_fix(folder: Path, code: str, fault: str) -> None:
    name = f"teas-broken-{folder.name}"
    module = name.replace("-", "_")
    install(folder, name, {TEAS.name: {"green": f"{module}:green"}}, code=code)
    [plugin] = find_plugins(TEAS)

    with pytest.raises(PluginError) as error:
        plugin.load()

    message = str(error.value)
    assert message.startswith(
        f"the tea green of the package {name} 1.0 cannot be imported from {module}:green ({fault}"
    )
    assert message.endswith(f": upgrade or uninstall {name}; its interface is described in docs/teas.md")
    assert type(error.value.__cause__).__name__ == fault.partition(":")[0]


def test_a_failing_import_is_not_tried_again(folder: Path) -> None:
    code = f"with open({str(folder / 'log')!r}, 'a') as log:\n    log.write('tried ')\nraise OSError"
    install(folder, "teas-once", {TEAS.name: {"green": "teas_once:green"}}, code=code)
    [plugin] = find_plugins(TEAS)

    for _ in range(3):
        with pytest.raises(PluginError):
            plugin.load()

    assert (folder / "log").read_text() == "tried "


def test_a_reserved_name_is_refused(folder: Path) -> None:
    install(folder, "teas-reserved", {TEAS.name: {"water": "teas_reserved:water"}}, code="water = 1")

    [plugin] = find_plugins(TEAS, reserved=("water",))

    with pytest.raises(PluginError, match=r"of the package teas-reserved 1\.0 is not used, since convmodel itself has"):
        plugin.load()


def test_one_that_exits_when_it_is_imported_is_an_error(folder: Path) -> None:
    install(folder, "teas-exit", {TEAS.name: {"green": "teas_exit:green"}}, code="raise SystemExit(3)")

    [plugin] = find_plugins(TEAS)

    with pytest.raises(PluginError, match=r"the package teas-exit 1\.0 cannot be imported .*\(SystemExit: 3\)"):
        plugin.load()


def test_folders_that_cannot_be_read_are_no_obstacle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, "teas-hidden", {TEAS.name: {"green": "teas_hidden:green"}}, code="green = 1")
    stat = Path.stat

    def refuse(path: Path, **options: Any) -> Any:
        if path.name == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(sys, "path", [*sys.path, "/nowhere/private", "/nowhere/at-all"])

    assert [plugin.name for plugin in find_plugins(TEAS)] == ["green"]


def test_two_packages_with_one_name_are_both_refused(folder: Path) -> None:
    for name in ("teas-one", "teas-two"):
        install(folder, name, {TEAS.name: {"green": f"{name.replace('-', '_')}:green"}}, code="green = 1")

    one, two = find_plugins(TEAS)

    with pytest.raises(PluginError, match=r"teas-one 1\.0 is not used, since teas-two has another of that name"):
        one.load()
    with pytest.raises(PluginError, match=r"teas-two 1\.0 is not used, since teas-one has another of that name"):
        two.load()


def test_one_that_fails_again_and_again_is_logged_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(folder, "teas-warned", {TEAS.name: {"green": "teas_warned:green", "white": "teas_warned:white"}})

    for number in range(2):
        for plugin in find_plugins(TEAS):
            warn(plugin, plugin.error(f"failed in round {number}"))

    assert [message.partition(": ")[0] for message in caplog.messages] == [
        "the tea green of the package teas-warned 1.0 failed in round 0",
        "the tea white of the package teas-warned 1.0 failed in round 0",
    ]


@pytest.mark.parametrize("group", [EXPORTS, METRICS])
def test_the_page_of_a_group_names_it(group: Group) -> None:
    assert group.name in (Path(__file__).parents[3] / group.page).read_text(encoding="utf-8")
