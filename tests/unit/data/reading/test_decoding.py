"""Files: bytes packed or not, from disk, a zip or standard input; what is damaged is an error of ours."""

import gzip
import importlib
import io
import json
import re
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from convmodel.conversation import LONGEST_TURN, Conversation
from convmodel.data.reading import decoding
from convmodel.data.reading.decoding import json_reason, open_bytes, read_json, read_text
from convmodel.data.reading.reader import read_conversations
from convmodel.errors import ConversationError

TALK = [Conversation(["Hi", "Yes"])]
LINES = b'["Hi", "Yes"]\n'
TABLE = b"chat_id,speaker,text\n1,user,Hi\n1,assistant,Yes\n"


def zstd(data: bytes) -> bytes:
    """Packs bytes as zstd."""
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def table() -> bytes:
    """Makes a Parquet file."""
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([{"turns": ["Hi", "Yes"]}]), sink)
    return sink.getvalue()


PACKERS = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("kind", ["", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"])
def test_any_kind_may_be_packed(tmp_path: Path, kind: str, packed: str) -> None:
    data = {".csv": TABLE, ".tsv": TABLE.replace(b",", b"\t"), ".parquet": table(), ".json": b"[%s]" % LINES}
    path = tmp_path / f"talks{kind}{packed}"
    path.write_bytes(PACKERS[packed](data.get(kind, LINES)))

    assert read_conversations(path) == TALK


@pytest.mark.parametrize("pack", PACKERS.values())
def test_the_first_bytes_tell_the_packing_whatever_the_name(tmp_path: Path, pack: Any) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_bytes(pack(LINES * 3000))

    assert read_conversations(path) == TALK * 3000


def test_frames_of_zstd_are_read_one_after_another_and_a_truncated_last_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl.zst"
    skipped = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    path.write_bytes(zstd(LINES) + skipped + zstd(LINES * 2))
    assert read_conversations(path) == TALK * 3

    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConversationError, match=r"talks\.jsonl\.zst: the compressed file is truncated or damaged"):
        read_conversations(path)


def test_zstd_with_the_largest_window_is_read(tmp_path: Path) -> None:
    module = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    window = module.CompressionParameter.window_log
    compressor = module.ZstdCompressor(options={window: window.bounds()[1]})
    path = tmp_path / "talks.jsonl.zst"
    path.write_bytes(compressor.compress(LINES) + compressor.flush())

    assert read_conversations(path) == TALK


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_a_packed_file_that_is_cut_off_or_damaged_is_an_error(tmp_path: Path, kind: str, pack: Any) -> None:
    path = tmp_path / f"talks.{kind}"
    whole = pack(b"".join(b'["Hi %d"]\n' % n for n in range(5000)))
    for data in (whole[: len(whole) // 2], whole[:5], whole[:6] + b"\xff" * 20 + whole[26:]):
        path.write_bytes(data)
        with pytest.raises(ConversationError, match=str(path)):
            read_conversations(path)


@pytest.mark.parametrize("pack", PACKERS.values())
def test_standard_input_is_read_and_stays_open(monkeypatch: pytest.MonkeyPatch, pack: Any) -> None:
    buffer = io.BytesIO(pack(LINES))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(buffer))

    [read] = read_conversations("-")

    assert (read.turns, read.id) == (("Hi", "Yes"), "-:1")
    assert not buffer.closed


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_inside_a_zip_is_read(tmp_path: Path, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        archive.writestr("in/a.json", '{"a": "caf\u00e9"}')
        archive.writestr("in/b.json", "[")
    inside: Any = zipfile.Path(str(tmp_path / "a.zip"))

    assert read_json(inside / "in" / "a.json") == {"a": "caf\u00e9"}
    with pytest.raises(ConversationError, match=r"a\.zip.in.b\.json:1:2: not JSON"):
        read_json(inside / "in" / "b.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("9" * 5000, ": a number has thousands of digits: write it as a string"),
        ("[" * 100_000, ": nested too deeply to be a conversation"),
        ('{"a": 1,\n}', ":2:1: not JSON"),
        ("", ":1:1: not JSON"),
        ('["\0"]', ":1:3: not JSON"),
    ],
)
def test_bad_json_is_located(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ConversationError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        ("\ufeffcaf\u00e9".encode(), "caf\u00e9"),
        ("caf\u00e9\r\n".encode("utf-16"), "caf\u00e9\n"),
        (b"\xfe\xff" + "caf\u00e9".encode("utf-16-be"), "caf\u00e9"),
        (b"", ""),
    ],
)
def test_text_is_read_however_it_was_saved(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)

    assert read_text(path) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\ncaf\xe9", ":2:4: not UTF-8: save the file as UTF-8"),
        (b"\xef\xbb\xbfcaf\xe9", ":1:4: not UTF-8"),
        (b"\xff\xfea", ": not whole UTF-16"),
    ],
)
def test_text_that_is_no_unicode_is_located(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(ConversationError) as caught:
        read_text(path)
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize("name", ["none.jsonl", "a\0b", "\ud800\udfff", "x" * 5000])
def test_a_name_that_no_file_has_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConversationError, match="there is no file"), open_bytes(tmp_path / name):
        pass


def test_the_parsers_words_are_kept_where_they_say_enough() -> None:
    assert json_reason(ValueError("the key stands twice")) == "the key stands twice"


@settings(max_examples=80)
@given(
    st.binary(max_size=80), st.sampled_from([b"", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"[", b"\xef\xbb\xbf"])
)
def test_any_bytes_are_json_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(start + data)
    with suppress(ConversationError):
        json.dumps(read_json(path))


@settings(max_examples=60)
@given(st.data())
def test_damaged_packing_is_read_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    content = bytearray(data.draw(st.sampled_from([gzip.compress(LINES * 20, mtime=0), zstd(LINES * 20)])))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    with suppress(ConversationError):
        read_conversations(path)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LONGEST_LINE", 1000)
    monkeypatch.setattr(decoding, "LARGEST_TEXT", 100_000)
    monkeypatch.setattr(decoding, "_SMALL_TEXT", 5000)
    monkeypatch.setattr(decoding, "_PIECE", 64)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.jsonl.gz"])
def test_a_line_that_is_too_long_is_named_and_the_others_are_read(tmp_path: Path, name: str) -> None:
    data = b'["Hi", "Hello"]\n["' + b"x" * 3000 + b'"]\n["Bye", "See you"]\n'
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)

    with pytest.raises(ConversationError, match=rf"{re.escape(name)}:2: the line is longer than 64 MiB: write one"):
        read_conversations(path)
    assert [each.turns for each in read_conversations(path, on_error="skip")] == [("Hi", "Hello"), ("Bye", "See you")]


@pytest.mark.usefixtures("small_limits")
def test_a_table_with_a_line_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("conversation_id,speaker,text\n1,a,Hi\n1,b," + "x" * 3000 + "\n")

    with pytest.raises(ConversationError, match=r"a\.csv:3: the line is longer than 64 MiB"):
        read_conversations(path)


@pytest.mark.usefixtures("small_limits")
def test_a_file_that_unpacks_to_far_more_than_text_does_is_refused(tmp_path: Path) -> None:
    bomb = b"\0" * 90_000
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(bomb))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("chat.txt", bomb)
        archive.writestr("good.txt", "Hello\n" * 100)
        member = cast(Path, zipfile.Path(archive, "chat.txt"))
        with pytest.raises(ConversationError, match=r"chat\.txt: it has more than .* the limit for its size: split it"):
            read_text(member)
        assert read_text(cast(Path, zipfile.Path(archive, "good.txt"))) == "Hello\n" * 100
    with pytest.raises(ConversationError, match=r"a\.json\.gz: it has more than"):
        read_text(tmp_path / "a.json.gz")
    (tmp_path / "plain.txt").write_bytes(bomb + b"x" * 20_000)
    with pytest.raises(ConversationError, match=r"plain\.txt: it has more than"):
        read_text(tmp_path / "plain.txt")


def test_a_turn_that_is_too_long_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('["Hi", "Hello"]\n["Hi", "' + "x" * (LONGEST_TURN + 1) + '"]\n')

    with pytest.raises(ConversationError, match=r"a\.jsonl:2: turn 2 has 4,194,305 characters, more than 4,194,304"):
        read_conversations(path)
    assert len(read_conversations(path, on_error="skip")) == 1
