"""YAML: ChatterBot's corpora, every scalar as the text it is, and the place of what is wrong."""

from pathlib import Path

import pytest

from convmodel.data.reading.reader import ConversationReader, read_conversations
from convmodel.data.reading.yaml_items import yaml_items
from convmodel.errors import ConversationError

CORPUS = """\
categories:
- Gespräche
conversations:
- - Guten Morgen, wie geht's?
  - Mir geht's gut.
- - "Wann war das?"
  - 1963
  - yes
- - Was ist "ai" ?
  - |
    Zwei
    Zeilen
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "talks.yml"


@pytest.mark.parametrize("name", ["talks.yml", "talks.yaml", "talks.YML", "talks.yml.gz"])
def test_a_chatterbot_corpus_with_the_line_of_each_conversation(tmp_path: Path, name: str) -> None:
    import gzip

    path = tmp_path / name
    path.write_bytes(gzip.compress(CORPUS.encode()) if name.endswith("gz") else CORPUS.encode())

    found = read_conversations(path)

    assert [one.turns for one in found] == [
        ("Guten Morgen, wie geht's?", "Mir geht's gut."),
        ("Wann war das?", "1963", "yes"),
        ('Was ist "ai" ?', "Zwei\nZeilen\n"),
    ]
    assert [one.id for one in found] == [f"{path}:{line}" for line in (4, 6, 9)]


@pytest.mark.parametrize(
    ("content", "conversations"),
    [
        ("[Hi, Yes]", [["Hi", "Yes"]]),
        ("- [Hi, Yes]\n- turns: [So, 007]\n", [["Hi", "Yes"], ["So", "007"]]),
        ("messages:\n- {role: user, content: Hi}\n- {role: assistant, content: no}\n", [["Hi", "no"]]),
        ("- &hi [Hi, Yes]\n- *hi\n", [["Hi", "Yes"], ["Hi", "Yes"]]),
        ("\ufeff- [Hi, 2018-01-01]\n", [["Hi", "2018-01-01"]]),
    ],
)
def test_the_usual_shapes_in_yaml(path: Path, content: str, conversations: list[list[str]]) -> None:
    path.write_text(content, encoding="utf-8")

    assert [list(one.turns) for one in read_conversations(path)] == conversations


def test_a_folder_of_corpora_is_read_as_one(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml"):
        (tmp_path / name).write_text(f"conversations:\n- [Hi, {name}]\n", encoding="utf-8")

    assert [one.turns[1] for one in read_conversations(tmp_path)] == ["a.yml", "b.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- [Hi, Yes", r":1:11: not YAML \(expected ',' or '\]', but got '<stream end>'\)"),
        ("- Hi\n\t- Yes", r":2:1: not YAML \(found character '\\t' that cannot start any token\)"),
        ("- {turns: [Hi], turns: [Yes]}", r":1:3: not YAML \(a key occurs twice\)"),
        ("- ? [Hi]\n  : Yes\n", r":1:5: not YAML \(found unhashable key\)"),
        ("- *nobody", r":1:3: not YAML \(found undefined alias 'nobody'\)"),
        ("--- [Hi]\n--- [Yes]\n", r":2:1: not YAML \(but found another document\)"),
        ("- [Hi, \x00]", r": not YAML \(unacceptable character #x0000"),
        ("[" * 5000, ": nested too deeply to be a conversation"),
        ("- [Hi, [Yes]]", ":1: "),
        ("", " has no conversation"),
        ("conversations: []", " has no conversation"),
        ("categories: [greetings]", ":1: neither turns nor messages"),
    ],
)
def test_bad_yaml_is_located(path: Path, content: str, message: str) -> None:
    path.write_text(content, encoding="utf-8")

    with pytest.raises(ConversationError, match=message):
        read_conversations(path)


def test_a_conversation_that_holds_itself_is_an_error(path: Path) -> None:
    path.write_text("- &a [Hi, *a]\n", encoding="utf-8")

    with pytest.raises(ConversationError, match=r"talks\.yml:1"):
        read_conversations(path)


def test_aliases_that_would_fill_memory_are_an_error(path: Path) -> None:
    lines = ["a0: &a0 [ha, ha]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    path.write_text("\n".join([*lines, "conversations:", "- *a11"]), encoding="utf-8")

    with pytest.raises(ConversationError, match=r"talks\.yml:12: "):
        read_conversations(path)


def test_a_bad_row_is_skipped_alone(path: Path) -> None:
    path.write_text("- [Hi, Yes]\n- [Hi, '']\n- [So, No]\n", encoding="utf-8")
    reader = ConversationReader(path, on_error="skip")

    assert [one.turns[0] for one in reader] == ["Hi", "So"]
    assert (reader.rows, reader.problems.count) == (3, 1)


def test_values_are_strings_lists_and_dictionaries(path: Path) -> None:
    path.write_text("- {turns: [1, ~, 1.5, true], id: !!int 7}", encoding="utf-8")

    assert yaml_items(path) == [(1, {"turns": ["1", "~", "1.5", "true"], "id": "7"})]
