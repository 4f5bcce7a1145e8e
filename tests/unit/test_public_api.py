"""The public names: complete, sorted, and loaded only when they are used."""

import subprocess
import sys

import pytest

import convmodel

HEAVY = ("torch", "transformers", "tokenizers", "accelerate", "numpy", "typer", "rich")


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running some code."""
    show = "; import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    shown = subprocess.run([sys.executable, "-c", code + show], check=True, capture_output=True, text=True)
    return set(shown.stdout.split())


def test_the_public_names_are_these() -> None:
    assert convmodel.__all__ == [
        "Chat",
        "ChatSession",
        "ConvModelError",
        "Conversation",
        "ConversationModel",
        "ConversationModelOutput",
        "ConversationReader",
        "ConversationTokenizer",
        "EvaluationResult",
        "Exchange",
        "ExportReader",
        "FitConfig",
        "FitResult",
        "Message",
        "Problems",
        "ResponseMetric",
        "TurnMetric",
        "TurnStatistics",
        "train_vocabulary",
    ]


def test_the_public_names_are_sorted_and_nothing_else_is_public() -> None:
    assert convmodel.__all__ == sorted(convmodel.__all__)
    modules = {name for name, value in vars(convmodel).items() if isinstance(value, type(sys))}
    public = {name for name in vars(convmodel) if not name.startswith("_")} - modules
    assert public - set(convmodel.__all__) <= {"TYPE_CHECKING", "Any", "import_module"}


def test_dir_shows_the_public_names_and_no_others() -> None:
    show = "import convmodel; before = dir(convmodel); convmodel.FitConfig; print(*before, '/', *dir(convmodel))"
    shown = subprocess.run([sys.executable, "-c", show], check=True, capture_output=True, text=True).stdout.split()
    assert shown == [*convmodel.__all__, "/", *convmodel.__all__]


@pytest.mark.parametrize("name", convmodel.__all__)
def test_a_public_name_is_the_thing_of_its_module(name: str) -> None:
    value = getattr(convmodel, name)

    assert value.__name__ == name
    assert value.__module__.startswith("convmodel.")
    assert value.__doc__
    assert getattr(sys.modules[value.__module__], name) is value


def test_names_are_imported_as_from_any_package() -> None:
    scope: dict[str, object] = {}

    exec("from convmodel import *", scope)

    assert set(scope) - {"__builtins__"} == set(convmodel.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'convmodel' has no attribute 'Trainer'"):
        convmodel.Trainer  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import convmodel",
        "from convmodel import Conversation; Conversation(['Hi'])",
        "from convmodel import FitConfig; FitConfig(seed=0)",
        "from convmodel import ConversationTokenizer, ConversationModelOutput, ConversationReader, ConvModelError",
        "from convmodel import train_vocabulary",
    ],
)
def test_light_names_load_nothing_heavy(code: str) -> None:
    assert modules_after(code).isdisjoint(HEAVY)


def test_commands_load_no_models_before_they_run() -> None:
    modules = ", ".join(f"convmodel.cli.{name}" for name in ("chat", "doctor", "evaluate", "fit", "generate", "serve"))
    assert modules_after(f"import {modules}").isdisjoint(("torch", "transformers"))
