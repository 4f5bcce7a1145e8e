"""Windows on disk: the same as in memory, made once, and none lost."""

import ast
import json
import logging
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_templates import FORMS, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from convmodel import Conversation, ConversationTokenizer
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.writing import write_jsonl
from convmodel.data.windows import encoding, store, workers
from convmodel.data.windows.encoding import WindowSet, encode_windows
from convmodel.data.windows.store import StoredWindows, cache_folder, prepare_windows
from convmodel.errors import ContextTooLongError, ConversationError, SaveError
from convmodel.layout.sequence import IGNORED

OPTIONS = {"max_length": 24, "loss_on": "all"}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Makes a few conversations count as many, and keeps the cache apart."""
    monkeypatch.setattr(encoding, "CHUNK", 3)
    monkeypatch.setattr(workers, "IN_THIS_PROCESS", 2)
    monkeypatch.setattr(store, "SMALL", 6)
    monkeypatch.setenv("CONVMODEL_CACHE", str(tmp_path / "cache"))


def talks(number: int) -> list[list[str]]:
    return [
        [f"Hello, I am number {i}", "Hi " * (i % 9 + 1), "Well? " * (i % 17)][: 2 + (i % 17 > 0)] for i in range(number)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps(talk) + "\n" for talk in talks(40)))
    return path


def in_memory(tokenizer: ConversationTokenizer, number: int = 40) -> WindowSet:
    return encode_windows(map(Conversation.of, talks(number)), tokenizer, **OPTIONS)


def test_stored_windows_are_those_in_memory(gpt2_tokenizer: ConversationTokenizer, path: Path) -> None:
    expected = in_memory(gpt2_tokenizer)

    made = prepare_windows(ConversationReader(path), gpt2_tokenizer, **OPTIONS)

    assert isinstance(made.windows, StoredWindows)
    assert list(made.windows) == expected.windows
    assert made.lengths.tolist() == expected.lengths.tolist() == [len(window.input_ids) for window in made.windows]
    assert made.summary == expected.summary
    assert made.summary.cut > 0
    assert made.windows[-1] == expected.windows[-1]
    assert made.windows[2:5] == expected.windows[2:5]
    with pytest.raises(IndexError):
        made.windows[len(made.windows)]


def test_a_generator_is_stored_for_the_time_of_its_use(
    gpt2_tokenizer: ConversationTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = prepare_windows(map(Conversation.of, talks(40)), gpt2_tokenizer, **OPTIONS)

    assert isinstance(made.windows, StoredWindows)
    assert list(made.windows) == in_memory(gpt2_tokenizer).windows
    assert not cache_folder().exists()
    [folder] = Path(tempfile.gettempdir()).glob("convmodel-windows-*")
    del made
    assert not folder.exists()


@pytest.mark.parametrize("few", [1, 5])
def test_few_conversations_stay_in_memory(gpt2_tokenizer: ConversationTokenizer, few: int) -> None:
    made = prepare_windows(iter(talks(few)), gpt2_tokenizer, **OPTIONS)

    assert made.windows == in_memory(gpt2_tokenizer, few).windows


def test_a_list_is_in_memory_already(gpt2_tokenizer: ConversationTokenizer) -> None:
    assert isinstance(prepare_windows(talks(40), gpt2_tokenizer, **OPTIONS).windows, list)


def test_datasets_reads_the_file_too(gpt2_tokenizer: ConversationTokenizer, path: Path) -> None:
    import datasets

    made = prepare_windows(ConversationReader(path), gpt2_tokenizer, **OPTIONS)
    [file] = cache_folder().rglob("*.arrow")

    table = datasets.Dataset.from_file(str(file))

    assert table.column_names == ["input_ids", "types", "supervised", "text_bytes", "cut", "weights", "source"]
    assert table["input_ids"][:] == [window.input_ids for window in made.windows]


@pytest.mark.parametrize("named", [True, False])
def test_stored_windows_know_their_conversation(
    gpt2_tokenizer: ConversationTokenizer, path: Path, tmp_path: Path, named: bool
) -> None:
    given = ConversationReader(path) if named else ConversationReader(map(Conversation.of, talks(40)))

    made = prepare_windows(given, gpt2_tokenizer, **OPTIONS)

    assert isinstance(made.windows, StoredWindows)
    numbers = [window.source for window in in_memory(gpt2_tokenizer).windows]
    assert set(numbers) == {f"conversation {number}" for number in range(1, 41)}
    expected = [source.replace("conversation ", f"{path}:") for source in numbers] if named else numbers
    assert [window.source for window in made.windows] == expected


def test_stored_windows_keep_their_weights(gpt2_tokenizer: ConversationTokenizer, path: Path) -> None:
    # The first chunks have none at all; a third of the others have some that are neither 0 nor 1.
    weights = [[1] * 3 if number < 10 else [[1, 0, 1], [0.1, 2, 1], [1] * 3][number % 3] for number in range(40)]
    given = [Conversation(talk, weights=weight[: len(talk)]) for talk, weight in zip(talks(40), weights, strict=True)]
    write_jsonl(path, given)

    made = prepare_windows(ConversationReader(path), gpt2_tokenizer, **OPTIONS)
    expected = encode_windows(given, gpt2_tokenizer, **OPTIONS)

    assert isinstance(made.windows, StoredWindows)
    assert list(made.windows) == expected.windows
    assert made.summary == expected.summary
    assert 0 < sum(window.weights is not None for window in made.windows) < len(made.windows) / 2


@pytest.mark.slow
def test_what_was_made_is_used_again_until_something_changes(
    gpt2_tokenizer: ConversationTokenizer,
    bytelevel_tokenizer: ConversationTokenizer,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    monkeypatch.setattr(store, "_write", lambda *args, write=store._write: made.append(write(*args)))

    def prepare(tokenizer: ConversationTokenizer = gpt2_tokenizer, **changes: object) -> int:
        prepare_windows(ConversationReader(path), tokenizer, **(OPTIONS | changes))
        return len(made)

    assert (prepare(), prepare()) == (1, 1)
    assert prepare(loss_on="last") == 2
    assert prepare(max_length=32) == 3
    assert prepare(tokenizer=bytelevel_tokenizer) == 4
    assert prepare() == 4
    path.write_text(path.read_text().replace("number 3", "number three"))
    assert prepare() == 5


def test_windows_of_edited_rows_are_never_those_of_the_file_or_of_another_edit(
    gpt2_tokenizer: ConversationTokenizer, path: Path
) -> None:
    def prepare(reader: ConversationReader) -> list[str]:
        windows = prepare_windows(reader, gpt2_tokenizer, **OPTIONS).windows
        return [gpt2_tokenizer.decode(window.input_ids) for window in windows]

    def adding(text: str) -> ConversationReader:
        return ConversationReader(path, edit=lambda row: replace(row, value=[f"{text} {turn}" for turn in row.value]))

    unedited = prepare(ConversationReader(path))
    for text in ("First", "Second"):
        assert all(text in window for window in prepare(adding(text)))
    assert prepare(ConversationReader(path)) == unedited
    assert len(list(cache_folder().rglob("*.arrow"))) == 1


def test_in_a_template_the_assistant_of_the_training_data_is_part_of_the_key() -> None:
    form = FORMS["chatml"]
    tokenizer = ConversationTokenizer(make_tokenizer(form.template, form.specials))
    changes: list[dict[str, Any]] = [{}, {"loss_on": "Bob"}, {"speakers": ("Ann", "Bob")}, {"names": "prefix"}]
    assert len({store._key("", tokenizer.with_layout(**change), {}) for change in changes}) == len(changes)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's sources, which decides the key of the cache."""
    package = tmp_path / "convmodel"
    shutil.copytree(store._PACKAGE, package, ignore=shutil.ignore_patterns("assets", "static", "__pycache__"))
    monkeypatch.setattr(store, "_PACKAGE", package)
    return package


@pytest.mark.parametrize(
    ("file", "old", "new", "again"),
    [
        ("layout/windows.py", "CONTEXT_SHARE = 0.5", "CONTEXT_SHARE = 0.6", True),
        ("layout/sequence.py", "    return", "    pass\n    return", True),
        ("data/windows/encoding.py", "CHUNK = 500", "CHUNK = 501", True),
        ("data/reading/shapes.py", '"dialog"', '"dialogs"', True),
        ("conversation.py", "import", "import json\nimport", True),
        ("layout/windows.py", '"""', '"""Once more: ', False),
        ("layout/windows.py", "\n\n\n", "\n\n\n# A note.\n", False),
        ("training/fit.py", "import", "import json\nimport", False),
        ("generation/session.py", '"""', '"""Once more: ', False),
        ("data/importing/pipeline.py", "import", "import json\nimport", False),
    ],
)
def test_only_code_that_decides_the_windows_renews_the_cache(
    gpt2_tokenizer: ConversationTokenizer, path: Path, package: Path, file: str, old: str, new: str, again: bool
) -> None:
    prepare_windows(ConversationReader(path), gpt2_tokenizer, **OPTIONS)
    changed = (package / file).read_text().replace(old, new, 1)
    assert changed != (package / file).read_text()
    (package / file).write_text(changed)

    prepare_windows(ConversationReader(path), gpt2_tokenizer, **OPTIONS)

    assert len(list(cache_folder().rglob("*.arrow"))) == 1 + again


def test_the_key_ignores_blank_lines_comments_and_docstrings_alone() -> None:
    files = [path for pattern in store._DECIDING for path in store._PACKAGE.glob(pattern)]
    assert {path.parent.name for path in files} == {"convmodel", "reading", "windows", "layout"}
    for file in files:
        source = file.read_bytes()
        texts = {
            line
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            for line in range(node.lineno, (node.end_lineno or 0) + 1)
        }
        code = [
            line
            for number, line in enumerate(source.splitlines(keepends=True), 1)
            if number not in texts and line.strip() and not line.lstrip().startswith(b"#")
        ]

        assert store._IDLE_LINES.sub(b"", source) == b"".join(code), file


@pytest.mark.slow
def test_windows_not_used_for_long_make_room(
    gpt2_tokenizer: ConversationTokenizer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CACHE_BYTES", 60_000)
    folders = []
    for length in (16, 20, 24, 28):
        prepare_windows(ConversationReader(path), gpt2_tokenizer, max_length=length, loss_on="all")
        new = [account.parent for account in cache_folder().rglob("account.json") if account.parent not in folders]
        for folder in new:
            os.utime(folder / "account.json", (time.time() - 1000 + length, time.time() - 1000 + length))
        folders += new

    kept = sorted((cache_folder() / "windows").iterdir())
    assert sum((folder / "windows.arrow").stat().st_size for folder in kept) <= 60_000
    assert folders[-1] in kept
    assert folders[0] not in kept


def test_rows_left_out_in_reading_are_remembered_with_the_windows(
    gpt2_tokenizer: ConversationTokenizer, path: Path, tmp_path: Path
) -> None:
    path.write_text('["cut\n' + path.read_text())

    for _ in range(2):
        made = prepare_windows(ConversationReader(path, on_error="skip"), gpt2_tokenizer, **OPTIONS)
        assert made.summary.skipped == 1
        assert f"{path}:1:2: not JSON" in made.summary.left_out()


def test_a_conversation_that_cannot_be_laid_out_is_named_or_left_out(
    bytelevel_tokenizer: ConversationTokenizer, path: Path
) -> None:
    three = json.dumps({"turns": ["a", "b", "c"], "speakers": ["Ann", "Bob", "Cem"]})
    path.write_text(path.read_text() + three + "\n" + three + "\n")

    with pytest.raises(ConversationError, match=r"^conversation .*talks.jsonl:41: 3 speakers"):
        prepare_windows(ConversationReader(path), bytelevel_tokenizer, **OPTIONS)
    made = prepare_windows(ConversationReader(path, on_error="skip"), bytelevel_tokenizer, **OPTIONS)

    assert (made.summary.conversations, made.summary.skipped) == (42, 2)
    assert "2 could not be used, the first because of: conversation" in made.summary.left_out()
    assert list(made.windows) == in_memory(bytelevel_tokenizer).windows


def test_a_failure_leaves_nothing_behind(gpt2_tokenizer: ConversationTokenizer, path: Path) -> None:
    path.write_text(path.read_text() + json.dumps({"turns": ["long " * 60, "Hi"], "pinned": 1}) + "\n")

    with pytest.raises(ContextTooLongError, match="the pinned turns take"):
        prepare_windows(ConversationReader(path), gpt2_tokenizer, **OPTIONS)

    assert not list(cache_folder().rglob("*.arrow"))
    assert not list(cache_folder().rglob(".convmodel-*"))


def test_a_half_made_folder_is_made_anew(
    gpt2_tokenizer: ConversationTokenizer, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare_windows(ConversationReader(path), gpt2_tokenizer, **OPTIONS)
    [file] = cache_folder().rglob("*.arrow")
    file.unlink()

    made = prepare_windows(ConversationReader(path), gpt2_tokenizer, **OPTIONS)
    with caplog.at_level(logging.INFO):
        prepare_windows(ConversationReader(path), gpt2_tokenizer, **OPTIONS)

    assert list(made.windows) == in_memory(gpt2_tokenizer).windows
    assert "using the cached windows" in caplog.text


def test_nothing_to_learn_from_is_an_error_on_disk_too(gpt2_tokenizer: ConversationTokenizer, path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ConversationError, match="none of 40 conversations has a turn that loss_on='Zoe' superv"):
            prepare_windows(ConversationReader(path), gpt2_tokenizer, max_length=24, loss_on="Zoe")


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=12), min_size=1, max_size=5),
    st.sampled_from(["all", "responses", "last"]),
    st.integers(4, 40),
)
def test_every_supervised_turn_is_supervised_exactly_once(
    gpt2_tokenizer: ConversationTokenizer, lengths: list[list[int]], loss_on: str, max_length: int
) -> None:
    """Each turn is a word of its own, so that a target tells its turn; only turns longer than a window lose targets."""
    words = [[f" {chr(97 + i % 26)}" * n for i, n in enumerate(turns)] for turns in lengths]
    conversations = [Conversation(turns) for turns in words]
    try:
        made = encode_windows(conversations, gpt2_tokenizer, max_length=max_length, loss_on=loss_on)
    except ConversationError:
        assert loss_on == "responses"
        assert all(len(turns) == 1 for turns in lengths)
        return

    step = {"all": range(0, 12), "responses": range(1, 12, 2)}
    chosen = [
        turns[i] + 1  # its tokens and the separator that closes it
        for turns in lengths
        for i in (step[loss_on] if loss_on != "last" else [len(turns) - 1])
        if i < len(turns)
    ]
    assert made.tokens + made.summary.cut == sum(chosen)
    assert made.summary.cut == sum(turn - min(turn - 1, max_length - 1) for turn in chosen if turn > max_length - 1)
    assert made.tokens == sum(label != IGNORED for window in made.windows for label in window.labels)
    assert all(len(window.input_ids) <= max_length for window in made.windows)


def test_a_cache_that_cannot_be_written_names_its_setting(
    gpt2_tokenizer: ConversationTokenizer, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONVMODEL_CACHE", str(tmp_path / "file"))

    with pytest.raises(SaveError, match=r"cannot be written: .*; CONVMODEL_CACHE names the folder for it"):
        prepare_windows(ConversationReader(path), gpt2_tokenizer, **OPTIONS)
