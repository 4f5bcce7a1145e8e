"""All readers of JSON exports: each knows its own format only, and none breaks on any JSON."""

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmodel.data.importing.exports import chatgpt, discord, google_chat, messenger, slack, telegram
from convmodel.data.importing.exports.archive import outline
from convmodel.data.importing.exports.text_lines import START
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

FIXTURES = Path(__file__).parent / "fixtures"
READERS = (chatgpt, discord, google_chat, messenger, slack, telegram)
EXPORTS: list[tuple[str, ModuleType]] = [
    ("chatgpt.json", chatgpt),
    ("claude.json", chatgpt),
    ("deepseek.json", chatgpt),
    ("discord.json", discord),
    ("discord_parts", discord),
    ("encrypted", messenger),
    ("encrypted/Lena_3.json", messenger),
    ("google_chat", google_chat),
    ("google_chat/Groups/DM 7/messages.json", google_chat),
    ("instagram", messenger),
    ("messenger", messenger),
    ("messenger/message_1.json", messenger),
    ("slack", slack),
    ("slack/general", slack),
    ("slack/general/2023-11-14.json", slack),
    ("telegram_account.json", telegram),
    ("telegram_chat.json", telegram),
]
SINGLE = [(name, reader) for name, reader in EXPORTS if name.endswith(".json")]

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
OTHERS: list[Any] = [
    [{"messages": MESSAGES}],
    {"messages": MESSAGES, "id": 7, "type": "chat"},
    [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "id": "1"}],
    [{"turns": ["Hi"], "speakers": ["Ann"]}],
    [["Hi", "Hello"]],
    {"chats": [MESSAGES]},
    {"participants": ["Ann"], "messages": MESSAGES},
    [{"instruction": "Hi", "output": "Hello"}],
    [],
    {},
    5,
    "mapping",
    None,
]


def found_by(path: Path) -> list[ModuleType]:
    return [reader for reader in READERS if reader.matches(path)]


@pytest.mark.parametrize(("name", "reader"), EXPORTS, ids=[name for name, _ in EXPORTS])
def test_each_export_is_known_by_its_reader_alone(name: str, reader: ModuleType) -> None:
    assert found_by(FIXTURES / name) == [reader]


@pytest.mark.parametrize("other", OTHERS, ids=repr)
@pytest.mark.parametrize("name", ["result.json", "message_1.json", "conversations.json", "users.json"])
def test_other_data_is_no_export_even_under_the_name_of_one(tmp_path: Path, other: Any, name: str) -> None:
    (tmp_path / name).write_text(json.dumps(other))

    assert found_by(tmp_path / name) == found_by(tmp_path) == []


def test_what_is_in_a_string_without_an_end_is_no_structure(tmp_path: Path) -> None:
    """Formats are recognised by the start of a file, which may end inside a long text."""
    file = tmp_path / "a.json"
    for text in ("}]} {[", '\\"a\\": 1 ' * START, "\\\\"):
        file.write_text('{"name": "x", "messages": [{"sender_name": "Ann", "timestamp_ms": 5, "content": "' + text)

        assert [keys for keys in outline(file) if keys] == [
            {"name", "messages"},
            {"sender_name", "timestamp_ms", "content"},
        ]
        assert found_by(file) == [messenger]


def test_one_object_a_line_is_no_export(tmp_path: Path) -> None:
    line = json.dumps(json.loads((FIXTURES / "telegram_chat.json").read_text(encoding="utf-8")))
    (tmp_path / "result.json").write_text(f"{line}\n{line}\n")

    assert found_by(tmp_path / "result.json") == []


def test_what_cannot_be_read_is_no_export(tmp_path: Path) -> None:
    (tmp_path / "bytes.json").write_bytes(bytes(range(256)))
    (tmp_path / "empty.json").touch()
    (tmp_path / "damaged.zip").write_bytes(b"PK\x03\x04" + bytes(40) + b"PK\x05\x06" + bytes(18))
    (tmp_path / "damaged.json.gz").write_bytes(b"\x1f\x8b\x08damaged")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "Hi")

    for path in (*tmp_path.iterdir(), tmp_path, Path("-"), Path("none"), Path("a" * 300), Path("a\0b")):
        assert found_by(path) == []


def test_a_zip_of_an_unknown_version_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("result.json", "{}")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 255  # the version that is needed to unpack
    path.write_bytes(data)

    with pytest.raises(ConversationError, match=r"export\.zip cannot be opened: copy the export again"):
        list(telegram.read(path, Problems()))


@pytest.mark.parametrize(("name", "reader"), SINGLE, ids=[name for name, _ in SINGLE])
def test_an_export_without_its_end_is_known(tmp_path: Path, name: str, reader: ModuleType) -> None:
    path = FIXTURES / name
    value = json.loads(path.read_text(encoding="utf-8"))
    target = value if isinstance(value, list) else value.get("messages", value.get("left_chats", {}).get("list"))
    target.append("x" * START)
    (tmp_path / path.name).write_text(json.dumps(value))

    assert found_by(tmp_path / path.name) == [reader]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", " ", "Hi", "\ud800", "1700000000", "2024-05-01T12:30:00Z", 10**400, 1714557600000, {}, []]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "text", "name", ""]), inner),
    max_leaves=4,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the way to every value inside a JSON value, and to the value itself."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Returns the value with another value at the end of a way, or without what is there if that is `...`."""
    if not path:
        return None if new is ... else new
    first, *rest = path
    copy = value.copy()
    if new is ... and not rest:
        del copy[first]
    else:
        copy[first] = replaced(value[first], tuple(rest), new)
    return copy


@pytest.mark.parametrize(("name", "reader"), SINGLE, ids=[name for name, _ in SINGLE])
@settings(max_examples=20)
@given(data=st.data())
def test_no_json_breaks_a_reader(
    tmp_path_factory: pytest.TempPathFactory, name: str, reader: ModuleType, data: st.DataObject
) -> None:
    value = json.loads((FIXTURES / name).read_text(encoding="utf-8"))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(paths(value))))
        value = replaced(value, path, data.draw(VALUES | st.just(...)))
    folder = tmp_path_factory.getbasetemp() / f"fuzz-{reader.__name__}"
    file = folder / ("general/2023-11-14.json" if reader is slack else "message_1.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))
    if reader is slack:
        for listed in ("users.json", "channels.json", "dms.json"):
            (folder / listed).write_text(json.dumps(data.draw(VALUES)))
    export = folder if reader is slack else file

    assert isinstance(reader.matches(export), bool)
    try:
        chats = list(reader.read(export, Problems("skip")))
    except ConversationError:
        return
    for message in (message for chat in chats for message in chat.messages):
        assert message.text.strip()
        assert message.speaker.strip()
        assert (message.text + message.speaker + message.place).encode()


@pytest.mark.parametrize(("name", "reader"), EXPORTS, ids=[name for name, _ in EXPORTS])
def test_every_message_says_something_in_order_of_time(name: str, reader: ModuleType) -> None:
    for chat in reader.read(FIXTURES / name, Problems()):
        times = [message.time for message in chat.messages]
        assert times == sorted(times)
        assert all(message.text == message.text.strip() != "" for message in chat.messages)
