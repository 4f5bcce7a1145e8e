"""Readers of installed packages: used as the built-in ones are, and no fault of one passes unnoticed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_packages import install

from convmodel.data.importing.exports.formats import FORMATS, find_format, format_names, recognised
from convmodel.data.importing.pipeline import ImportOptions, import_conversations
from convmodel.data.reading.problems import Problems
from convmodel.data.reading.reader import read_conversations
from convmodel.errors import ConfigError, ConversationError, PluginError

READER = """
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from convmodel import Chat, Message, Problems

def matches(path: Path) -> bool:
    with path.open(encoding="utf-8") as file:
        return file.read(4) == "TEA\\n"

def read(path: Path, problems: Problems) -> Iterable[Chat]:
    chat = Chat(path.stem)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[1:], 2):
        name, colon, text = line.partition(": ")
        if not colon:
            problems.add(f"{path}:{number}: there is no name: add one")
        elif not text:
            chat.dropped["silence"] += 1
        else:
            chat.messages.append(Message(name, text, None, f"{path}:{number}"))
    return [chat]
"""
LOG = "TEA\nann: Black?\nbob: Green\nann: \n"

Add = Callable[..., str]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Installs a reader under a name, in a package that only this test has, and returns the package's name."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def add(name: str = "tea", code: str = READER, entry_point: str = "") -> str:
        package = f"reader-{len(list(folder.iterdir()))}-{tmp_path.name}"
        module = package.replace("-", "_")
        install(folder, package, {"convmodel.exports": {name: module + entry_point}}, code=code)
        return package

    return add


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "kettle.tea"
    path.write_text(LOG)
    return path


def broken(body: str) -> str:
    """A reader that matches all files, and reads them in a way of its own."""
    imports = "from datetime import UTC, datetime\nfrom convmodel import Chat, Message\n"
    return f"{imports}def matches(path):\n    return path.is_file()\n\ndef read(path, problems):\n    {body}\n"


def one_message(fields: str) -> str:
    return broken(f"return [Chat('x', [Message({fields})])]")


def test_an_export_is_recognised_and_read(add: Add, log: Path, tmp_path: Path) -> None:
    add()

    summary = import_conversations([log], tmp_path / "data", ImportOptions(shares=(1, 0, 0)))

    assert summary.formats == {"tea": 1}
    assert (summary.entries, summary.dropped_entries) == (3, {"silence": 1})
    assert [talk.turns for talk in read_conversations(tmp_path / "data/train.jsonl")] == [("Black?", "Green")]


def test_a_folder_of_exports_is_read_by_name(add: Add, log: Path, tmp_path: Path) -> None:
    add()
    (tmp_path / "logs").mkdir()
    log.rename(tmp_path / "logs/kettle.tea")
    (tmp_path / "logs/other.txt").write_text("nothing")

    summary = import_conversations(
        [tmp_path / "logs"], tmp_path / "data", ImportOptions(format="tea", shares=(1, 0, 0))
    )

    assert summary.formats == {"tea": 1}


def test_a_malformed_entry_is_an_error_or_counted(add: Add, log: Path, tmp_path: Path) -> None:
    add()
    log.write_text(LOG + "whistle\n")

    with pytest.raises(ConversationError, match=r"kettle\.tea:5: there is no name: add one"):
        import_conversations([log], tmp_path / "data")
    summary = import_conversations([log], tmp_path / "data", ImportOptions(on_error="skip", shares=(1, 0, 0)))

    assert (summary.problems, summary.entries) == (1, 4)


def test_built_in_formats_come_first_and_plain_text_last(add: Add, tmp_path: Path) -> None:
    add(code=broken("return []"))
    chat, transcript = tmp_path / "chat.txt", tmp_path / "plain.txt"
    chat.write_text("31/12/2021, 21:41 - Ann: Hi\n31/12/2021, 21:42 - Bob: Hello\n")
    transcript.write_text("Ann: Hi\nBob: Hello\nAnn: Bye\nBob: Bye\n")

    assert recognised(chat) is FORMATS["whatsapp"]
    tea = recognised(transcript)
    assert tea is not None
    assert tea.name == "tea"


def test_nothing_is_imported_where_a_built_in_format_matches(add: Add, tmp_path: Path) -> None:
    add(code="raise SystemExit('imported')")
    chat = tmp_path / "chat.txt"
    chat.write_text("31/12/2021, 21:41 - Ann: Hi\n31/12/2021, 21:42 - Bob: Hello\n")

    assert recognised(chat) is FORMATS["whatsapp"]
    assert find_format("whatsapp") is FORMATS["whatsapp"]
    assert find_format("turns") is None
    assert "tea" in format_names()


def test_an_unknown_format_lists_the_installed_ones(add: Add) -> None:
    add()

    with pytest.raises(ConfigError, match=r"there is no format coffee; there are auto, .*, plain, tea, turns, "):
        ImportOptions(format="coffee")
    assert ImportOptions(format="tea").format == "tea"


def test_files_that_cannot_be_read_match_no_reader(add: Add, tmp_path: Path) -> None:
    add()
    binary = tmp_path / "binary.tea"
    binary.write_bytes(b"\xff\xfe\xfa")

    assert recognised(binary) is None
    assert recognised(tmp_path) is None
    assert recognised(tmp_path / "missing.tea") is None


def test_an_export_that_is_not_utf_8_is_an_error_of_the_file(add: Add, log: Path) -> None:
    add()
    log.write_bytes(LOG.encode() + b"ann: caf\xe9\n")
    tea = find_format("tea")
    assert tea is not None

    with pytest.raises(ConversationError, match=r"kettle\.tea cannot be read: copy the export again"):
        list(tea.read(log, Problems()))


def test_a_broken_reader_is_left_out_with_a_warning(
    add: Add, log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package = add("other", "import nothing_of_this_name")
    add()

    summary = import_conversations([log, log], tmp_path / "data", ImportOptions(shares=(1, 0, 0)))

    assert summary.formats == {"tea": 2}
    [message] = caplog.messages
    assert f"the export reader other of the package {package} 1.0 cannot be imported" in message
    assert f"upgrade or uninstall {package}" in message


@pytest.mark.parametrize("name", ["whatsapp", "turns", "auto"])
def test_a_name_of_convmodel_itself_is_not_given_away(
    add: Add, log: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    package = add(name)

    assert recognised(log) is None
    assert f"of the package {package} 1.0 is not used, since convmodel itself has the name {name}" in caplog.text
    assert find_format(name) is FORMATS.get(name)


@pytest.mark.parametrize(
    ("code", "entry_point", "fault"),
    [
        ("import nothing_of_this_name", "", "cannot be imported from reader_"),
        ("matches = 1", "", "has no function matches in reader_"),
        ("def matches(path): ...", "", "has no function read in reader_"),
        ("class Tea:\n def matches(self, path): ...\n def read(self, path, problems): ...", ":Tea", "is the class rea"),
        ("def matches(path): raise KeyError('kettle')\ndef read(path, problems): ...", "", r"\(KeyError: 'kettle'\)"),
        (broken("raise KeyError('kettle')"), "", r"failed on .*kettle\.tea \(KeyError: 'kettle'\)"),
        (broken("return None"), "", r"failed on .*kettle\.tea \(TypeError: 'NoneType'"),
        (broken("return [{}]"), "", "returned a dict instead of a Chat"),
        (
            broken("return [Chat('x', dropped={'media': 3})]"),
            "",
            "returned a Chat whose dropped is a dict, not a Counter",
        ),
        (broken("return [Chat('x', iter([]))]"), "", "returned a Chat whose messages are a list_iterator, not a list"),
        (broken("return [Chat('x', notes='odd')]"), "", "returned a Chat whose notes are a str, not a list"),
        (one_message("'ann', 'Hi', None, 'f:1', 'quote'"), "", "whose without is a str, not a tuple"),
        (broken("return [Chat('x', ['Hi'])]"), "", "returned a str instead of a Message"),
        (one_message("'ann', ' ', None, 'f:1'"), "", r"returned a message whose text is empty \(f:1\)"),
        (one_message("'', 'Hi', None, 'f:1'"), "", "whose speaker is empty"),
        (one_message("'ann', 'Hi', None, ''"), "", "whose place is empty"),
        (one_message("'ann', b'Hi', None, 'f:1'"), "", "whose text is bytes, not text"),
        (one_message(r"'ann', '\ud800', None, 'f:1'"), "", "half a surrogate pair"),
        (one_message("'ann', 'Hi', '12:00', 'f:1'"), "", "whose time is str, not datetime"),
        (one_message("'ann', 'Hi', datetime.now(UTC), 'f:1'"), "", "time has a zone, instead of being in UTC without"),
    ],
)
def test_each_fault_of_a_reader_names_its_package(
    add: Add, log: Path, tmp_path: Path, code: str, entry_point: str, fault: str
) -> None:
    package = add(code=code, entry_point=entry_point)

    with pytest.raises(
        PluginError, match=f"(?s)^the export reader tea of the package {package} 1.0 .*{fault}"
    ) as error:
        import_conversations([log], tmp_path / "data", ImportOptions(format="tea", on_error="skip"))

    assert f"upgrade or uninstall {package}; its interface is described in docs/extend-exports.md" in str(error.value)
    assert not (tmp_path / "data").exists()


def test_messages_with_times_may_come_in_any_order(add: Add, log: Path) -> None:
    messages = ", ".join(f"Message('ann', '{day}', datetime(2024, 1, {day}), 'f:1')" for day in (2, 3, 1))
    add(code=broken(f"return [Chat('x', [{messages}])]"))
    tea = find_format("tea")
    assert tea is not None

    [chat] = tea.read(log, Problems())

    assert [message.text for message in chat.messages] == ["1", "2", "3"]


def test_an_object_can_be_a_reader(add: Add, log: Path) -> None:
    methods = READER.replace("def matches(path", "def matches(self, path").replace(
        "def read(path", "def read(self, path"
    )
    head, _, functions = methods.partition("\ndef ")
    body = "\n".join(f"    {line}" for line in f"def {functions}".splitlines())
    add(code=f"{head}\nclass Tea:\n{body}\n\ntea = Tea()\n", entry_point=":tea")
    tea = recognised(log)

    assert tea is not None
    assert [len(chat.messages) for chat in tea.read(log, Problems())] == [2]
