"""Rows: JSON, tables, folders and data sets, the place of each row, and an account that adds up."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from convmodel.conversation import Conversation
from convmodel.data.reading.reader import ConversationReader, read_conversations
from convmodel.data.reading.rows import Row, data_files, file_rows
from convmodel.errors import ConversationError

TWO = [Conversation(["Hi", "Yes"]), Conversation(["So?"])]
Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of some name."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def places(path: Path) -> list[str]:
    """The rows' places behind the file's name."""
    return [row.place.removeprefix(str(path)) for row in file_rows(path)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a", "A.JSONL", "a.data.jsonl"])
def test_lines_of_json_whatever_the_file_is_called(write: Write, name: str) -> None:
    path = write(name, '["Hi", "Yes"]\n\n["So?"]\n')

    assert read_conversations(path) == TWO
    assert places(path) == [":1", ":3"]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ('[\n  ["Hi", "Yes"],\n  [\n"So?"]\n]\n', [":2", ":3"]),
        ('\ufeff[["Hi", "Yes"],\r\n ["So?"]]', [":1", ":2"]),
        ('{"a": ["Hi", "Yes"],\n "b": {"turns": ["So?"]}}', [": a", ": b"]),
        ('{"train": [["Hi", "Yes"]], "valid": [["So?"]]}', [": train[0]", ": valid[0]"]),
    ],
)
def test_a_json_file_of_several(write: Write, content: str, where: list[str]) -> None:
    path = write("a.json", content)

    assert read_conversations(path) == TWO
    assert places(path) == where


@pytest.mark.parametrize(
    "content",
    [
        '["Hi",\n "Yes"]',
        '[{"role": "user", "content": "Hi"}, {"from": "gpt", "value": "Yes"}]',
        '{"turns":\n["Hi","Yes"]}',
    ],
)
def test_a_json_file_of_one(write: Write, content: str) -> None:
    path = write("a.json", content)

    assert read_conversations(path) == TWO[:1]
    assert read_conversations(path)[0].id == f"{path}:1"


def test_a_name_in_the_file_is_the_id(write: Write) -> None:
    assert [
        one.id for one in read_conversations(write("a.json", '{"k7": {"messages": [[{"sender": "a", "text": "Hi"}]]}}'))
    ] == ["k7"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[["Hi"], ["Yes"', r":1:16: not JSON"),
        ('[["Hi"]\n["Yes"]]', r":2:1: not JSON"),
        ('[["Hi"],]', r":1:9: not JSON"),
        ('[["Hi"]] x', r":1:10: not JSON"),
        ("nonsense", r":1:1: not JSON"),
        ("[\n" + "[" * 100_000, ":2: nested too deeply"),
        ('{"turns": ' + "9" * 5000 + "}", ": a number has thousands of digits"),
        ('{"turns": ["Hi"], "turns": ["Yes"]}', ": the key 'turns' occurs twice"),
        ("", " has no conversation"),
        ("[]", " has no conversation"),
        ("{}", ":1: neither turns nor messages|has no conversation"),
        ('{"version": 1}', ":1: neither turns nor messages in an object with version"),
        (b'[["caf\xe9"]]', ":1:7: not UTF-8"),
    ],
)
def test_a_bad_json_file_is_located(write: Write, content: str | bytes, message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        read_conversations(write("a.json", content))


@pytest.mark.parametrize("item", ['{"turns": ["Hi"], "turns": []}', '["Hi", ' + "9" * 5000 + "]", '["Hi", ""]'])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_bad_item_is_skipped_alone(write: Write, item: str, name: str) -> None:
    lines = ['["Hi", "Yes"]', item, '["So?"]']
    path = write(name, "\n".join(lines) if name == "a.jsonl" else "[\n" + ",\n".join(lines) + "]")
    reader = ConversationReader(path, on_error="skip")

    assert list(reader) == TWO
    assert (reader.rows, reader.problems.count) == (3, 1)
    assert reader.problems.messages[0].startswith(f"{path}:{2 if name == 'a.jsonl' else 3}: ")


CSV = [Conversation(["Hi,\nyou", "NA"], ["Ann", "007"]), Conversation(['say "x"'], ["Ann"])]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff", "\ufeff\n"])
def test_tables_by_any_delimiter(write: Write, delimiter: str, end: str, mark: str) -> None:
    lines = ["Conversation ID,Speaker,Text,,", '1,Ann,"Hi,\nyou",,', "1,007,NA,,", "", '2,Ann,"say ""x""",,']
    text = end.join(line.replace(",", delimiter) for line in lines).replace(f"Hi{delimiter}", "Hi,")
    path = write("a.tsv" if delimiter == "\t" else "a.csv", mark + text)

    assert read_conversations(path) == CSV
    assert [int(place[1:]) - mark.count("\n") for place in places(path)] == [2, 4, 6]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"1,Ann", "3: 2 values, but the header has 3 columns: quote"),
        (b"1,Ann,Hi,Ho", "3: 4 values, but"),
        (b"1,Ann,caf\xe9", "3: not UTF-8: save the file as UTF-8"),
        (b"1,Ann,\0", "3: a null byte"),
        (b'1,Ann,"a"b', "3: not CSV"),
        (b"1,Ann,", "3: turn 1 is empty"),
    ],
)
def test_a_bad_row_of_a_table_is_located_or_counted(write: Write, bad: bytes, message: str) -> None:
    path = write("a.csv", b"chat_id,speaker,text\n0,Ann,Hi\n" + bad + b"\n2,Bob,Yes\n")
    with pytest.raises(ConversationError) as caught:
        read_conversations(path)
    assert str(caught.value).startswith(f"{path}:{message}")

    reader = ConversationReader(path, on_error="skip")
    assert [one.id for one in reader] == ["0", "2"]
    assert (reader.rows, reader.shapes.total(), reader.problems.count) == (3, 2, 1)


def test_an_open_quotation_mark_is_found_where_it_opens(write: Write) -> None:
    path = write("a.csv", 'chat_id,speaker,text\n0,Ann,Hi\n1,Ann,"Hi\n2,Bob,Yes\n')
    with pytest.raises(ConversationError, match=r":3: not CSV .*is a quotation mark open"):
        read_conversations(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [(b"id,text,Text", "a column occurs twice: id, text, text"), (b"caf\xe9", "not UTF-8"), (b"a\0b", "a null byte")],
)
def test_a_bad_header_is_an_error(write: Write, header: bytes, message: str) -> None:
    with pytest.raises(ConversationError, match=f":1: the header cannot be read: {message}"):
        read_conversations(write("a.csv", header + b"\n1,2,3\n"), on_error="skip")


def write_parquet(path: Path, rows: list[Any]) -> Path:
    """Writes a table of rows."""
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_parquet_gives_every_row_all_columns(tmp_path: Path) -> None:
    rows = [{"turns": ["Hi", "Yes"], "messages": None}, {"messages": [{"role": "user", "content": "So?"}]}]
    path = write_parquet(tmp_path / "a[1].parquet", [*rows, {"turns": None, "messages": None}])
    reader = ConversationReader(path, on_error="skip")

    assert list(reader) == TWO
    assert reader.problems.messages == [f"{path}: row 3: messages are not a list"]


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"turns": ["Hi"]}])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConversationError, match="cannot be read as Parquet"):
        read_conversations(path)


def test_a_folder_is_read_in_order_of_names(write: Write, tmp_path: Path) -> None:
    write("b.json", '[["So?"]]')
    first = write("a/z.jsonl", '["Hi", "Yes"]')
    for ignored in (".hidden.jsonl", ".git/x.jsonl", "notes.txt", "README"):
        write(ignored, "nonsense")

    assert read_conversations(tmp_path) == TWO
    assert data_files(tmp_path) == [first, tmp_path / "b.json"]


def test_a_folder_without_a_file_of_conversations_is_an_error(write: Write, tmp_path: Path) -> None:
    write("notes.txt", "x")
    with pytest.raises(ConversationError, match=r"has no file of conversations: it takes \.csv, \.json"):
        read_conversations(tmp_path)


def test_numbers_of_conversations_begin_anew_in_every_file(write: Write, tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write(name, f"chat_id,speaker,text\n0,Ann,{name}\n")

    assert [one.turns for one in read_conversations(tmp_path)] == [("a.csv",), ("b.csv",)]


def test_one_bad_file_of_several_is_a_problem(write: Write, tmp_path: Path) -> None:
    bad = write("a.json", "nonsense")
    write("b.json", '["Hi", "Yes"]')
    reader = ConversationReader(tmp_path, on_error="skip")

    assert list(reader) == TWO[:1]
    assert reader.problems.messages == [f"{bad}:1:1: not JSON (Expecting value)"]
    with pytest.raises(ConversationError, match=r"a.json:1:1: not JSON"):
        read_conversations(tmp_path)


def test_datasets_are_read() -> None:
    import datasets

    data = datasets.Dataset.from_list([{"turns": ["Hi", "Yes"], "id": None}, {"turns": ["So?"], "id": "b"}])

    assert read_conversations(data) == read_conversations(data.to_iterable_dataset()) == TWO
    with pytest.raises(ConversationError, match="not DatasetDict: choose one of its splits: train, test"):
        read_conversations(datasets.DatasetDict(train=data, test=data))


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing:test", "no.body/no-thing_2.0"])
def test_a_dataset_of_the_hub_that_cannot_be_had_is_an_error(name: str) -> None:
    with pytest.raises(ConversationError, match=f"there is no file {name}, and no such data set could be loaded"):
        read_conversations(name)


@pytest.mark.parametrize(
    "name", ["./nothing", "../nothing", "nobody/nothing.jsonl", "nobody/x.csv.gz", "a\0b", "/no/x"]
)
def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(ConversationError, match=r"^there is no file [^,]*$"):
        read_conversations(name)


GOOD_LINES = ['["Hi"]', '{"turns": ["Hi", "Yes"]}', '{"prompt": "Hi", "response": "Yes"}', '{"dialog": ["a", "b"]}']
ROW_LINES = [json.dumps({"chat_id": n, "speaker": "Ann", "text": "Hi"}) for n in range(3)]
BAD_LINES = [
    "{",
    "5",
    "[]",
    '{"x": 1}',
    '["Hi", ""]',
    "[" * 2000,
    '{"id": 1, "id": 2}',
    "\0",
    '{"chat_id": 1, "speaker": null, "text": "x"}',
]


@settings(max_examples=80)
@given(st.lists(st.sampled_from([*GOOD_LINES, *ROW_LINES, *BAD_LINES]), min_size=1, max_size=12))
def test_every_row_is_used_or_reported(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "mixed.jsonl"
    path.write_text("\n".join([*lines, '["last"]']))
    reader = ConversationReader(path, on_error="skip")
    made = list(reader)

    assert made[-1].turns == ("last",)
    assert reader.rows == len(lines) + 1 == reader.shapes.total() + reader.problems.count
    assert reader.conversations == len(made)


SEEDS = {
    "fuzz.jsonl": b'["Hi", "Yes"]\n{"turns": ["Hi"], "id": 7}\n' + "\n".join(ROW_LINES).encode(),
    "fuzz.yml": b'conversations:\n- [Hi, Yes]\n- - &a "x"\n  - |\n    y\n  - *a\n- {turns: [Hi], ? id : 7}\n',
    "fuzz.json": b'[["Hi", "Yes"], {"turns": ["Hi"], "started_at": "2024-01-31"}, {"dialog": ["a"]}]',
    "fuzz.csv": b'chat_id,speaker,text,time\n1,Ann,"Hi, you",5\n1,Bob,Yes,6\n2,Ann,So?,\n',
    "fuzz.parquet": b"",
}


@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=60)
@given(data=st.data())
def test_only_errors_of_ours_escape(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / name
    seed = SEEDS[name] or write_parquet(path, [{"turns": ["Hi", "Yes"], "id": 3}] * 3).read_bytes()
    if data.draw(st.booleans()):
        content = bytearray(seed)
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content)))
            content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    else:
        content = bytearray(data.draw(st.binary(max_size=60)))
    path.write_bytes(content)
    for on_error in ("fail", "skip"):
        reader = ConversationReader(path, on_error=on_error)
        try:
            list(reader)
        except ConversationError:
            continue
        assert reader.rows == reader.shapes.total() + reader.problems.count


@pytest.mark.slow
def test_large_conversations_are_read_fast(write: Write) -> None:
    start = time.perf_counter()
    turns = ["Hi"] * 100_000
    assert len(read_conversations(write("many.jsonl", json.dumps(turns)))[0].turns) == len(turns)
    table = "chat_id,speaker,text\n" + "".join(f"1,{'ab'[n % 2]},Hi\n" for n in range(20_000))
    assert len(read_conversations(write("many.csv", table))[0].turns) == 20_000
    keys = ",".join(f'"k{n}": 1' for n in range(50_000))
    with pytest.raises(ConversationError, match="the key 'z' occurs twice"):
        read_conversations(write("keys.jsonl", f'{{{keys}, "z": 1, "z": 2}}'))
    [long] = read_conversations(write("long.jsonl", b'["' + b"x" * 4_000_000 + b'"]'))
    assert len(long.turns[0]) == 4_000_000
    assert time.perf_counter() - start < 10  # about one second; a machine may be busy


def test_a_row_knows_its_place(write: Write) -> None:
    path = write("a.jsonl", '["Hi"]\n')

    assert list(file_rows(path)) == [Row(f"{path}:1", ["Hi"])]
