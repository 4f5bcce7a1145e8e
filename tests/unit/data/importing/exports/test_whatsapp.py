# ruff: noqa: RUF001 - letters of many languages
"""WhatsApp: every form of its lines, the order of day and month, and what is left out."""

import re
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convmodel.data.importing.exports import kakaotalk, line, plain, signal, whatsapp
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

FIXTURES = Path(__file__).parent / "fixtures"
LRM = "\u200e"  # the mark before what WhatsApp itself says


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes an export of some lines."""

    def write(*lines: str, name: str = "WhatsApp Chat with Ann.txt") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


def only(path: Path, problems: Problems | None = None) -> Chat:
    """The one chat of a file."""
    [chat] = whatsapp.read(path, problems or Problems())
    return chat


def said(path: Path) -> list[tuple[int, str, str, str]]:
    """Line, time, speaker and text of each message."""
    messages = only(path).messages
    return [(int(m.place.rpartition(":")[2]), f"{m.time:%Y-%m-%d %H:%M:%S}", m.speaker, m.text) for m in messages]


def test_an_iphone_export() -> None:
    path = FIXTURES / "whatsapp_ios.txt"

    assert said(path) == [
        (
            3,
            "2021-05-06 09:42:10",
            "Ann Lee",
            "Who waters the tomatoes?\nThey look thirsty:\n\n- the red ones\n- the yellow ones",
        ),
        (9, "2021-05-06 09:43:30", "Cem 🌻", "This one?"),
        (10, "2021-05-06 09:44:00", "+49 170 5550101", "I can, @Ann Lee"),
        (17, "2021-05-13 00:00:00", "Ann Lee", "Ratio of water to feed: 10:1"),
    ]
    assert only(path).dropped == {"system message": 4, "media": 2, "deleted message": 1}
    assert only(path).notes == ["dates read as month/day/year, as line 17 shows (05/13/21)"]
    assert only(path).entries == 11


def test_an_android_export() -> None:
    path = FIXTURES / "whatsapp_android.txt"

    assert said(path) == [
        (3, "2021-06-01 21:41:00", "Ann", "Shall we go?\nI found this:"),
        (7, "2021-06-02 00:05:00", "Bob", "The view from the hut"),
        (11, "2021-06-02 00:08:00", "Bob", "Yes!"),
        (17, "2021-06-13 08:00:00", "Ann", "We are off: see you"),
    ]
    assert only(path).dropped == {
        "system message": 4,
        "media": 2,
        "deleted message": 1,
        "empty message": 1,
        "pasted message": 1,
    }
    assert only(path).notes == [
        "dates read as day/month/year, as line 17 shows (13/06/2021)",
        "dates read as month/day/year, as line 5 shows (12/31/20)",
        "messages of another form than those around them were left out as pasted text: line 5",
    ]


def test_a_german_export() -> None:
    path = FIXTURES / "whatsapp_german.txt"

    assert said(path) == [
        (2, "2021-12-31 21:41:00", "Jörg", "Guten Rutsch!"),
        (5, "2021-12-31 21:44:00", "Jörg", "Unser Feuerwerk"),
        (8, "2022-01-01 00:01:00", "Anna Maria", "Frohes Neues"),
    ]
    assert only(path).dropped == {"system message": 1, "media": 2, "deleted message": 1}


def test_a_spanish_export() -> None:
    path = FIXTURES / "whatsapp_spanish.txt"

    assert said(path) == [
        (1, "2022-04-03 21:41:00", "Luz", "¿Vienes?"),
        (4, "2022-04-04 00:10:00", "Iñaki", "Ya llego"),
        (6, "2022-04-15 08:00:00", "Luz", "Buenos días"),
    ]
    assert only(path).dropped == {"media": 2, "deleted message": 1}


def test_places_name_the_file_and_the_line() -> None:
    path = FIXTURES / "whatsapp_german.txt"

    assert only(path).messages[0] == Message("Jörg", "Guten Rutsch!", datetime(2021, 12, 31, 21, 41), f"{path}:2")


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.txt")), ids=lambda path: path.stem)
def test_each_reader_knows_its_own_files(path: Path) -> None:
    readers = {"whatsapp": whatsapp, "line": line, "plain": plain, "signal": signal, "kakaotalk": kakaotalk}

    assert [name for name, reader in readers.items() if reader.matches(path)] == [path.stem.partition("_")[0]]


@pytest.mark.parametrize(
    ("head", "time"),
    [
        ("[31/12/2021, 21:41:07] ", "2021-12-31 21:41:07"),
        ("[31.12.21, 21:41:07] ", "2021-12-31 21:41:07"),
        ("[2021-12-31, 9:41:07 PM] ", "2021-12-31 21:41:07"),
        ("[12/31/21, 9:41:00\u202fPM] ", "2021-12-31 21:41:00"),
        ("[2021/12/31 21:41:07] ", "2021-12-31 21:41:07"),
        (f"{LRM}[31/12/2021, 21:41:07] ", "2021-12-31 21:41:07"),
        ("31/12/2021, 21:41 - ", "2021-12-31 21:41:00"),
        ("31-12-2021 21:41 - ", "2021-12-31 21:41:00"),
        ("31.12.2021 21.41 - ", "2021-12-31 21:41:00"),
        ("12/31/21, 9:41 PM - ", "2021-12-31 21:41:00"),
        ("12/31/21, 9:41 pm \u2013 ", "2021-12-31 21:41:00"),
        ("12/31/21, 12:41 AM - ", "2021-12-31 00:41:00"),
        ("12/31/21, 12:41 PM - ", "2021-12-31 12:41:00"),
        ("31/12/21, 9:41 p.\xa0m. - ", "2021-12-31 21:41:00"),
        ("31/12/21, 9:41 a. m. - ", "2021-12-31 09:41:00"),
        ("2021. 12. 31. du. 9:41 - ", "2021-12-31 21:41:00"),
        ("2021. 12. 31. de. 9:41 - ", "2021-12-31 09:41:00"),
        ("2021/12/31 下午9:41 - ", "2021-12-31 21:41:00"),
        ("2021-12-31, 21:41 - ", "2021-12-31 21:41:00"),
        ("٣١/١٢/٢٠٢١، ٢١:٤١ - ", "2021-12-31 21:41:00"),
    ],
)
def test_each_form_of_date_and_time(write: Callable[..., Path], head: str, time: str) -> None:
    path = write(f"{head}Ann: Hi")

    assert whatsapp.matches(path)
    assert said(path) == [(1, time, "Ann", "Hi")]


@pytest.mark.parametrize(
    ("dates", "days", "note"),
    [
        (["1/2/21", "13/2/21"], ["0201", "0213"], "day/month/year, as line 2 shows (13/2/21)"),
        (["1/2/21", "2/13/21"], ["0102", "0213"], "month/day/year, as line 2 shows (2/13/21)"),
        (["2021-02-01"], ["0201"], "year/month/day, as line 1 shows (2021-02-01)"),
        (["21-12-31", "22-01-01", "22-01-02"], ["1231", "0101", "0102"], "year/month/day, the order in which the few"),
        (["30/1/21", "1/2/21"], ["0130", "0201"], "day/month/year, as line 1 shows (30/1/21)"),
        (["5/1/21", "4/2/21"], ["0105", "0204"], "day/month/year, the order in which the fewest messages step back"),
        (
            ["1/5/21", "2/4/21", "2/5/21"],
            ["0105", "0204", "0205"],
            "month/day/year, the order in which the fewest messages step back",
        ),
        (["1/5/21", "1/6/21"], ["0105", "0106"], "month/day/year, the order in which the messages lie closest"),
        (["1.5.21", "1.6.21"], ["0501", "0601"], "day/month/year, as dates with dots are"),
        (["1/2/21"], ["0201"], "day/month/year, a guess from the kind of clock"),
        (["2/2/21", "3/3/21"], ["0202", "0303"], "day/month/year, a guess from the kind of clock"),
        (["1/2/21 PM"], ["0102"], "month/day/year, a guess from the kind of clock"),
        (["45/45/21", "1/2/21", "1/13/21"], ["0102", "0113"], "month/day/year, as line 3 shows (1/13/21)"),
    ],
)
def test_the_order_of_day_and_month(write: Callable[..., Path], dates: list[str], days: list[str], note: str) -> None:
    heads = [f"{date.removesuffix(' PM')}, 9:41{' PM' * date.endswith('PM')}" for date in dates]
    chat = only(write(*(f"{head} - Ann: Hi" for head in heads)), Problems("skip"))

    assert [f"{message.time:%m%d}" for message in chat.messages] == days
    assert chat.notes[0].startswith(f"dates read as {note}")


def test_dates_that_contradict_each_other_are_an_error_with_both_lines(write: Callable[..., Path]) -> None:
    path = write("1/2/2021, 9:41 - Ann: Hi", "31/12/2021, 9:41 - Bob: Hi", "Hm", "12/31/2021, 9:41 - Ann: Hi")

    with pytest.raises(ConversationError) as caught:
        only(path)

    assert str(caught.value) == (
        f"{path}:2: the date 31/12/2021 is not in the same order of day and month as 12/31/2021 in line 4: "
        "export the chat again, or split the file where the order changes"
    )
    problems = Problems("skip")
    assert list(whatsapp.read(path, problems)) == []
    assert problems.count == 3


@pytest.mark.parametrize("head", ["31/02/2021, 21:41", "28/02/2021, 25:41", "28/02/2021, 21:61", "0/0/2021, 21:41"])
def test_an_impossible_date_is_a_problem(write: Callable[..., Path], head: str) -> None:
    path = write("13/02/2021, 21:41 - Ann: Hi", f"{head} - Bob: Hello", "there", "14/02/2021, 21:41 - Ann: Bye")
    problems = Problems("skip")

    chat = only(path, problems)

    assert [message.text for message in chat.messages] == ["Hi", "Bye"]
    assert (chat.entries, chat.dropped.total(), problems.count) == (2, 0, 1)
    with pytest.raises(ConversationError, match=f"^{re.escape(str(path))}:2: there is no {head.split(',')[0]} "):
        only(path)


def test_a_file_without_a_date_is_an_error_that_shows_its_first_line(write: Callable[..., Path]) -> None:
    path = write("", "Dear diary", "today")

    assert not whatsapp.matches(path)
    with pytest.raises(ConversationError, match=r"WhatsApp, such as `31/12/2021, .*begins with 'Dear diary'"):
        list(whatsapp.read(path, Problems()))


def test_text_before_the_first_message_is_a_problem(write: Callable[..., Path]) -> None:
    path = write("the end of a message", "31/12/2021, 21:41 - Ann: Hi")
    problems = Problems("skip")

    assert len(only(path, problems).messages) == 1
    assert problems.messages[0].startswith(f"{path}:1: text before the first message")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<Media omitted>", "media"),
        (f"{LRM}image omitted", "media"),
        ("video omitted", "media"),
        (f"{LRM}GIF omitted", "media"),
        (f"{LRM}Contact card omitted", "media"),
        (f"{LRM}<attached: 0001-PHOTO.jpg>", "media"),
        ("<attached: 0001-PHOTO.jpg>", "media"),
        (f"{LRM}IMG-20210101-WA0001.jpg (file attached)", "media"),
        ("IMG-2021.jpg (Datei angehängt)", "media"),
        ("plan for May.pdf (file attached)", "media"),
        (f"plan.pdf • 2 pages {LRM}document omitted", "media"),
        ("Video weggelassen", "media"),
        ("imagen omitida", "media"),
        ("<Multimedia omitido>", "media"),
        ("<Médias omis>", "media"),
        ("<Mídia oculta>", "media"),
        ("<Media omessi>", "media"),
        (f"{LRM}immagine omessa", "media"),
        ("location: https://maps.google.com/?q=1.5,2.5", "media"),
        ("live location shared", "media"),
        ("This message was deleted", "deleted message"),
        (f"{LRM}You deleted this message.", "deleted message"),
        ("This message was deleted by admin Cem", "deleted message"),
        ("Du hast diese Nachricht gelöscht", "deleted message"),
        ("Ce message a été supprimé", "deleted message"),
        ("Mensagem apagada", "deleted message"),
        ("Questo messaggio è stato eliminato", "deleted message"),
        ("POLL:\nWhen?\nOPTION: now (1 vote)", "system message"),
        ("Missed voice call", "system message"),
        (f"{LRM}Voice call, {LRM}2 min", "system message"),
        ("Waiting for this message. This may take a while.", "system message"),
        ("", "empty message"),
        (LRM, "system message"),
    ],
)
def test_what_nobody_says_is_counted(write: Callable[..., Path], text: str, reason: str) -> None:
    chat = only(write(f"31/12/2021, 21:41 - Ann: {text}"))

    assert chat.messages == []
    assert chat.dropped == {reason: 1}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<Media omitted>\nOur door", "Our door"),
        ("<Multimedia omitido> ¿Vienes?", "¿Vienes?"),
        ("IMG-1.jpg (file attached)\nOur\ndoor", "Our\ndoor"),
        (f"Our door {LRM}<attached: 0001-PHOTO.jpg>", "Our door"),
        ("I wrote POLL: twice", "I wrote POLL: twice"),
        ("He says this message was deleted", "He says this message was deleted"),
        ("Missed voice call from my aunt", "Missed voice call from my aunt"),
        ("The image omitted him", "The image omitted him"),
        ("I have omitted it", "I have omitted it"),
        ("a <b> c: d", "a <b> c: d"),
        ("Yes <This message was edited.>", "Yes"),
    ],
)
def test_what_is_said_is_kept(write: Callable[..., Path], text: str, kept: str) -> None:
    [message] = only(write(f"31/12/2021, 21:41 - Ann: {text}")).messages

    assert message.text == kept


@pytest.mark.parametrize(
    ("written", "speaker"),
    [
        ("Ann", "Ann"),
        ("~ Ann", "Ann"),
        ("~Ann", "Ann"),
        ("~\u202fAnn", "Ann"),
        ("+49 170 5550101", "+49 170 5550101"),
        ("\u202a+49\xa0170\u202c", "+49 170"),
        ("Ann 🌻🎈", "Ann 🌻🎈"),
        ("12:30 Club", "12:30 Club"),
        ('Robert "Bob" Lee', 'Robert "Bob" Lee'),
    ],
)
def test_names(write: Callable[..., Path], written: str, speaker: str) -> None:
    [message] = only(write(f"[31/12/2021, 21:41:07] {written}: Hi: there")).messages

    assert (message.speaker, message.text) == (speaker, "Hi: there")


@pytest.mark.parametrize(
    "text",
    [
        "Ann added Bob",
        'Ann changed the subject from "Trip" to "Trip: the plan"',
        "Ann changed the subject to “Trip: the plan”",
        f"Garden Club: {LRM}Ann left",
        f"{LRM}Ann joined using this group's invite link",
    ],
)
def test_system_lines_are_counted_with_the_lines_that_continue_them(write: Callable[..., Path], text: str) -> None:
    chat = only(write(f"31/12/2021, 21:41 - {text}", "and so on", "31/12/2021, 21:42 - Ann: Hi"))

    assert [message.text for message in chat.messages] == ["Hi"]
    assert chat.dropped == {"system message": 1}


@pytest.mark.parametrize(
    ("name", "chat"),
    [
        ("WhatsApp Chat with Ann Lee.txt", "Ann Lee"),
        ("WhatsApp-Chat mit Jörg.txt", "Jörg"),
        ("Chat de WhatsApp con Luz.txt", "Luz"),
        ("WhatsApp Chat - Garden/_chat.txt", "Garden"),
        ("summer/_chat.txt", "summer"),
        ("export.txt", "export"),
    ],
)
def test_a_chat_is_named_after_its_file(write: Callable[..., Path], name: str, chat: str) -> None:
    assert only(write("31/12/2021, 21:41 - Ann: Hi", name=name)).name == chat


@pytest.mark.parametrize(
    ("archive", "member", "name"),
    [
        ("WhatsApp Chat - Garden.zip", "_chat.txt", "Garden"),
        ("WhatsApp Chat with Ann.zip", "WhatsApp Chat with Ann.txt", "Ann"),
        ("any.zip", "WhatsApp Chat with Ann.txt", "Ann"),
        ("any.zip", "export.txt", "export"),
    ],
)
def test_a_zip_is_read_without_unpacking(tmp_path: Path, archive: str, member: str, name: str) -> None:
    path = tmp_path / archive
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("00000012-PHOTO.jpg", b"\xff\xd8")
        file.writestr("__MACOSX/._chat.txt", b"\0")
        file.writestr(member, "[31/12/2021, 21:41:07] Ann: Hi")

    assert whatsapp.matches(path)
    chat = only(path)
    assert chat.name == name
    assert chat.messages == [Message("Ann", "Hi", datetime(2021, 12, 31, 21, 41, 7), f"{path}/{member}:1")]


def test_a_zip_of_something_else_is_no_export(tmp_path: Path) -> None:
    path = tmp_path / "texts.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("one.txt", "1")
        file.writestr("two.txt", "2")

    assert not whatsapp.matches(path)
    with pytest.raises(ConversationError, match=r"texts\.zip: 2 text files in the zip: unpack it"):
        only(path)


@pytest.mark.parametrize("position", range(0, 160, 8))
def test_a_damaged_zip_is_an_error_and_never_a_crash(tmp_path: Path, position: int) -> None:
    path = tmp_path / "chat.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("_chat.txt", "[31/12/2021, 21:41:07] Ann: Hi\n" * 50)
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)

    whatsapp.matches(path)
    with suppress(ConversationError):  # some bytes do not matter
        assert len(only(path).messages) == 50


@pytest.mark.parametrize("content", [b"", b"\0\1\2", b"PK\3\4", b"\x1f\x8bbroken", b"\xff\xfe[\0"])
@pytest.mark.parametrize("name", ["chat.txt", "chat.zip"])
def test_other_files_are_no_exports(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    assert not any(reader.matches(path) for reader in (whatsapp, line, plain))


def test_what_is_no_file_is_no_export(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.txt", tmp_path / "none.zip", Path("-")):
        assert not any(reader.matches(path) for reader in (whatsapp, line, plain))


def test_utf16_is_read(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    path.write_bytes("31/12/2021, 21:41 - Ann: Grüße".encode("utf-16"))

    assert whatsapp.matches(path)
    assert said(path) == [(1, "2021-12-31 21:41:00", "Ann", "Grüße")]


minutes = st.datetimes(datetime(2010, 1, 1), datetime(2030, 1, 1)).map(
    lambda time: time.replace(second=0, microsecond=0)
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=minutes,
    steps=st.lists(st.integers(0, 60 * 24 * 9), min_size=1, max_size=12),
    form=st.sampled_from(
        ["%d/%m/%Y, %H:%M - ", "%m/%d/%Y, %I:%M %p - ", "[%d.%m.%Y, %H:%M:%S] ", "%Y-%m-%d, %H:%M - "]
    ),
)
def test_a_chat_that_shows_a_late_day_is_read_back(
    tmp_path: Path, start: datetime, steps: list[int], form: str
) -> None:
    times = [start]
    for step in steps:
        times.append(times[-1] + timedelta(minutes=step))
    times.append((times[-1] + timedelta(days=31)).replace(day=28))
    path = tmp_path / "chat.txt"
    path.write_text("\n".join(f"{time.strftime(form)}Ann: message\nmore" for time in times), encoding="utf-8")

    messages = only(path).messages

    assert [message.time for message in messages] == times
    assert {message.text for message in messages} == {"message\nmore"}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(
        st.sampled_from(
            [
                "1/2/21, 9:41 - Ann: Hi",
                "14/2/21, 9:41 - Bob: <Media omitted>",
                "2/30/21, 9:41 - Bob: x",
                "31/02/21, 8:00 - B: y",
                "[1/2/21, 9:41:00] Ann: Hi",
                "",
                "text",
                "1/2/21, 9:41 - Ann left",
                "1/2/21, 29:41 - Ann: Hi",
                "1/2/21, 9:41 - : Hi",
            ]
        ),
        max_size=9,
    )
)
def test_every_entry_is_used_or_counted(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "chat.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    problems = Problems("skip")

    for chat in whatsapp.read(path, problems):
        dated = [line for line in lines if line[:1] in ("1", "2", "3", "[")]
        first = lines.index(dated[0])
        before = sum(line == "text" for line in lines[:first])
        assert chat.entries + problems.count == len(dated) + before
        assert not any(line in message.text for message in chat.messages for line in dated)
    assert whatsapp.matches(path) == any(line[:1] in ("1", "2", "3", "[") for line in lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\u2039省略多媒体文件\u203a", "media"),
        ("<Pominięto multimedia>", "media"),
        ("<Media tidak disertakan>", "media"),
        ("null", "media"),
        ("Данное сообщение удалено", "deleted message"),
        ("このメッセージは削除されました", "deleted message"),
        ("You deleted this message as admin", "deleted message"),
        ("Ta wiadomość została usunięta", "deleted message"),
        ("이 메시지는 삭제되었습니다", "deleted message"),
        ("आपने यह मैसेज मिटाया", "deleted message"),
        ("यह मैसेज हटा दिया गया था", "deleted message"),
        ("Διαγράψατε αυτό το μήνυμα", "deleted message"),
        ("Törölted ezt az üzenetet", "deleted message"),
        ("شما این پیام را حذف کردید", "deleted message"),
        ("मिस्ड वॉइस कॉल", "system message"),
        ("부재중 음성통화", "system message"),
        ("مكالمة صوتية فائتة", "system message"),
        ("Αναπάντητη βιντεοκλήση", "system message"),
        ("Cuộc gọi thoại nhỡ", "system message"),
        ("Пропущений голосовий виклик", "system message"),
        ("Zmeškaný videohovor", "system message"),
        ("Nieodebrane poł. głosowe", "system message"),
        ("שיחה קולית שלא נענתה", "system message"),
        ("Sprachanruf, 2 Min.", "system message"),
        ("Chamada de voz. Não atendida", "system message"),
        ("वॉइस कॉल, 2 मिनट", "system message"),
        ("изображение отсутствует", "media"),
        ("görüntü dahil edilmedi", "media"),
        ("이미지 생략됨", "media"),
        ("画像は含まれていません", "media"),
        ("圖片已略去", "media"),
        ("התמונה הושמטה", "media"),
        ("لم يتم إدراج الصورة", "media"),
        ("\u200fتم حذف هذه الرسالة", "deleted message"),
        ("εικόνα παραλείφθηκε", "media"),
        ("obraz pominięty", "media"),
        ("đã bỏ qua hình ảnh", "media"),
        ("gambar tidak disertakan", "media"),
        ("video vynecháno", "media"),
        ("वीडियो छोड़ा गया", "media"),
        ("Nem fogadott hanghívás", "system message"),
    ],
)
def test_placeholders_of_further_languages_are_no_speech(write: Callable[..., Path], text: str, reason: str) -> None:
    chat = only(write(f"13/02/2021, 21:41 - Ann: {text}", "13/02/2021, 21:42 - Bob: null and void"))

    assert chat.dropped == {reason: 1}
    assert [message.text for message in chat.messages] == ["null and void"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("IMG-20231025-WA0001.jpg (файл добавлен)", "media"),
        ("\u200eSTK-20231025-WA0001.webp (dosya ekli)", "media"),
        ("plan.pdf (тест)", "media"),
        ("Bob.vcf (wat)", "media"),
        ("<прикреплено: 00000012-PHOTO-2023-10-25-15-05-11.jpg>", "media"),
        ("konum: https://maps.google.com/?q=1.0,2.0", "media"),
        ("Tin nhắn này đã bị xóa", "deleted message"),
        ("ANKET:\nNe zaman?\nSEÇENEK: Cuma (2 oy)\nSEÇENEK: Pazar (0 oy)", "system message"),
        ("استطلاع رأي:\nمتى؟\nخيار: الاثنين (صوتان)\nخيار: الثلاثاء (صوت واحد)", "system message"),
        ("KURA:\nLini?\nCHAGUO: Jumatatu (kura 2)\nCHAGUO: Jumanne (kura 1)", "system message"),
        ("Voice call, 2 min", "system message"),
        ("Video call, No answer", "system message"),
        ("You received a view once photo. For added privacy, you can only open it on your phone", "system message"),
        ("Messages and calls are end-to-end encrypted. Only people in this chat can read them.", "system message"),
        ("Ann changed the group name to “Trip”", "system message"),
        ("Ann left", "system message"),
    ],
)
def test_what_whatsapp_writes_in_any_language_is_no_speech(write: Callable[..., Path], text: str, reason: str) -> None:
    shown = "13/02/2021, 21:40 - Bob: IMG-20210213-WA0001.jpg (тест)"  # shows the words of the phone's language
    chat = only(write(shown, f"13/02/2021, 21:41 - Ann: {text}", "13/02/2021, 21:42 - Bob: yes"))

    assert [message.text for message in chat.messages] == ["yes"]
    assert chat.dropped == Counter([reason, "media"])


@pytest.mark.parametrize(
    "text",
    [
        "see plan.pdf (page three)",
        "Video call me, please",
        "Videoanruf, 3 Leute waren dabei",
        "ビデオは含まれていませんでした",
        "Ann changed her mind",
        "Bob left",
        "send it to <your name>",
        "I use <b>",
        "so <Maybe>",
        "it is 2 <3",
        "Ratio:\nwhat?\nmine: two",
        "Plan:\nfor us\nday: Friday (late)",
        "Plan:\nfor us\nday: Friday (late)\nday: Sunday",
        "home: https://example.org",
    ],
)
def test_what_looks_like_whatsapps_text_is_speech(write: Callable[..., Path], text: str) -> None:
    [message] = only(write(f"13/02/2021, 21:41 - Ann: {text}")).messages

    assert message.text == text


def test_a_long_run_of_marks_before_a_text_is_no_medium(write: Callable[..., Path]) -> None:
    path = write(
        "13/02/2021, 21:41 - Ann: one",
        f"13/02/2021, 21:42 - Ann: {LRM * 500_000}two",
        f"13/02/2021, 21:42 - Ann: {LRM * 2}GIF omitted",
    )

    chat = only(path)

    assert [message.text for message in chat.messages] == ["one"]
    assert chat.dropped == {"system message": 1, "media": 1}


def test_marks_of_edited_messages_in_any_language_are_removed_and_listed(write: Callable[..., Path]) -> None:
    texts = ["two <Сообщение изменено>", "二つ <このメッセージは編集されました>", "du <Dit bericht is bewerkt>"]
    path = write(*(f"13/02/2021, 21:4{minute} - Ann: {text}" for minute, text in enumerate([*texts, texts[0]])))

    chat = only(path)

    assert [message.text for message in chat.messages] == ["two", "二つ", "du", "two"]
    assert chat.notes[-1].startswith("taken for marks of edited messages, and removed: <Сообщение изменено> (2), <")
