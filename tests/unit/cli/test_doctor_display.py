"""What the doctor shows in a terminal."""

from io import StringIO

from rich.console import Console

from convmodel.cli.doctor_display import print_checks, print_statistics, print_tokens
from convmodel.training.doctor.checks import Check
from convmodel.training.doctor.statistics import Statistics


def screen() -> Console:
    return Console(file=StringIO(), width=80)


def shown(console: Console) -> str:
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


def test_checks_have_a_mark_and_the_fix_below_the_finding() -> None:
    console = screen()

    print_checks([Check("one", "pass", "fine"), Check("two", "fail", "[red]odd", "remove [it]")], console)

    lines = [line.rstrip() for line in shown(console).splitlines()]
    assert lines[1].split() == ["✓", "pass", "one", "fine"]
    assert lines[2].split() == ["✗", "fail", "two", "[red]odd"]  # text of users is never markup
    assert lines[3].strip() == "→ remove [it]"


def test_without_windows_it_says_so() -> None:
    console = screen()

    print_tokens([], console)

    assert shown(console) == "none of its turns is supervised\n"


def test_statistics_of_nothing_can_be_shown() -> None:
    console = screen()

    print_statistics(Statistics(), console)

    assert "turns per conversation" in shown(console)
