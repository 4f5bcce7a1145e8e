# ruff: noqa: RUF001 - letters and digits of many scripts
"""The beginnings of dated lines: every form is read back, mixed forms are never glued, and speech stays speech."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convmodel.data.importing.exports import whatsapp
from convmodel.data.importing.exports.heads import head_of, unknown_heads
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

Render = Callable[[datetime], str]

RLM, LRE, PDF = "\u200f", "\u202a", "\u202c"


def digits(text: str, zero: str) -> str:
    """Writes a text with the digits of another script, whose zero is given."""
    return "".join(chr(ord(zero) + int(letter)) if letter.isdecimal() else letter for letter in text)


def half(time: datetime, morning: str, afternoon: str) -> str:
    return morning if time.hour < 12 else afternoon


def clock(time: datetime, mark: str = ":") -> str:
    """The time of a clock of 12 hours, without a word."""
    return f"{time.hour % 12 or 12}{mark}{time:%M}"


def part_of_day(time: datetime) -> str:
    parts = ((5, "凌晨"), (8, "早上"), (12, "上午"), (13, "中午"), (19, "下午"), (24, "晚上"))
    return next(word for end, word in parts if time.hour < end)


FORMS: dict[str, Render] = {
    "iphone": lambda t: f"[{t:%d/%m/%Y, %H:%M:%S}] ",
    "iphone 12 hours": lambda t: f"[{t:%m/%d/%y}, {clock(t)}:{t:%S}\u202f{t:%p}] ",
    "iphone with marks": lambda t: f"\u200e[{RLM}{t:%d}{RLM}/{t:%m}{RLM}/{t:%Y, %H:%M:%S}] ",
    "android": lambda t: f"{t:%d/%m/%Y, %H:%M} - ",
    "dots": lambda t: f"{t:%d.%m.%y, %H.%M} - ",
    "hungarian": lambda t: f"{t:%Y. %m. %d.} {half(t, 'de.', 'du.')} {clock(t)} - ",
    "slovene": lambda t: f"{t:%d. %m. %Y}, {clock(t)} {half(t, 'dop.', 'pop.')} - ",
    "spanish": lambda t: f"{t:%d/%m/%y}, {clock(t)} {half(t, 'a.', 'p.')}\xa0m. - ",
    "greek": lambda t: f"{t:%d/%m/%y}, {clock(t)} {half(t, 'π.μ.', 'μ.μ.')} - ",
    "bulgarian": lambda t: f"{t:%d.%m.%y} г., {t:%H:%M} ч. - ",
    "finnish": lambda t: f"{t:%d.%m.%Y} klo {t:%H.%M} - ",
    "estonian": lambda t: f"{t:%d.%m.%Y}, kell {t:%H:%M} - ",
    "thai": lambda t: f"{t:%d/%m/%Y %H:%M} น. - ",
    "finnish 12 hours": lambda t: f"{t:%d.%m.%Y} klo {clock(t, '.')} {half(t, 'ap.', 'ip.')} - ",
    "french": lambda t: f"{t:%d/%m/%Y} à {t:%H:%M} - ",
    "french canadian": lambda t: f"{t:%Y-%m-%d %H} h {t:%M} - ",
    "swedish": lambda t: f"{t:%Y-%m-%d} {half(t, 'fm', 'em')} {clock(t)} - ",
    "turkish": lambda t: f"{t:%d.%m.%Y} {half(t, 'ÖÖ', 'ÖS')} {clock(t)} - ",
    "malay": lambda t: f"{t:%d/%m/%Y}, {clock(t)} {half(t, 'PG', 'PTG')} - ",
    "vietnamese": lambda t: f"{t:%H:%M, %d/%m/%Y} - ",
    "vietnamese 12 hours": lambda t: f"{t:%d/%m/%Y}, {clock(t)} {half(t, 'SA', 'CH')} - ",
    "arabic": lambda t: f"{t:%d}{RLM}/{t:%m}{RLM}/{t:%Y}\u060c {clock(t)} {half(t, 'ص', 'م')} - ",
    "arabic digits": lambda t: digits(f"{t:%d}{RLM}/{t:%m}{RLM}/{t:%Y}\u060c {clock(t)} {half(t, 'ص', 'م')} - ", "٠"),
    "persian digits": lambda t: digits(f"{t:%Y/%m/%d}\u060c {clock(t)} {half(t, 'ق.ظ.', 'ب.ظ.')} - ", "۰"),
    "devanagari digits": lambda t: digits(f"{t:%d/%m/%Y}, {clock(t)} {half(t, 'पूर्वाह्न', 'अपराह्न')} - ", "०"),
    "bengali digits": lambda t: digits(f"{t:%d/%m/%y}, {clock(t)} {t:%p} - ", "০"),
    "burmese digits": lambda t: digits(f"{t:%d/%m/%y} {half(t, 'နံနက်', 'ညနေ')} {clock(t)} - ", "၀"),
    "thai years": lambda t: f"{t:%d/%m}/{t.year + 543} {t:%H:%M} - ",
    "thai years of two digits": lambda t: f"[{t:%d/%m}/{(t.year + 543) % 100} {t:%H:%M:%S}] ",
    "minguo years": lambda t: f"[{t.year - 1911}/{t:%m/%d} {half(t, '上午', '下午')}{clock(t)}:{t:%S}] ",
    "minguo era": lambda t: f"民國{t.year - 1911}/{t:%m/%d} {half(t, '上午', '下午')}{clock(t)} - ",
    "japanese": lambda t: f"{t:%Y/%m/%d} {half(t, '午前', '午後')}{t.hour % 12}:{t:%M} - ",
    "chinese words": lambda t: f"{t:%Y年%m月%d日} {half(t, '上午', '下午')}{clock(t)} - ",
    "chinese parts of the day": lambda t: f"{t:%Y/%m/%d} {part_of_day(t)}{clock(t)} - ",
    "korean": lambda t: f"{t:%Y. %m. %d.} {half(t, '오전', '오후')} {clock(t)}, ".rstrip(", ") + " - ",
    "korean words": lambda t: f"{t:%Y년 %m월 %d일} {half(t, '오전', '오후')} {clock(t)} - ",
    "old iphone": lambda t: f"{t:%d/%m/%y, %H:%M:%S}: ",
    "old iphone 12 hours": lambda t: f"{t:%m/%d/%y}, {clock(t)}:{t:%S} {t:%p}: ",
    "brackets around the time": lambda t: f"{t:%Y/%m/%d (%H:%M)} - ",
}
TEXTS = [
    "Hi",
    "one\ntwo",
    "lunch?\n\n2023-10-25 was nice",
    "12:30 works for me",
    "so\n12:30 works for me, and you: no?",
    "plan:\n- 10:1 is the ratio: yes\n5/10 would do again: never",
    "see https://a.b: it",
]
TIMES = st.lists(st.integers(0, 60 * 24 * 9), min_size=1, max_size=8)

each_form = pytest.mark.parametrize("form", FORMS)
quick = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def times_of(steps: list[int]) -> list[datetime]:
    """Times with these minutes between them; the last one shows which number is the day."""
    times = [datetime(2015, 1, 30, 9, 41)]
    for step in steps:
        times.append(times[-1] + timedelta(minutes=step))
    return [*times, (times[-1] + timedelta(days=31)).replace(day=28)]


def read(path: Path, lines: list[str], problems: Problems | None = None) -> Chat:
    path.write_text("\n".join(lines), encoding="utf-8")
    assert whatsapp.matches(path)
    return next(whatsapp.read(path, problems or Problems()))


@each_form
@quick
@given(steps=TIMES, texts=st.lists(st.sampled_from(TEXTS), min_size=1))
def test_a_chat_in_each_form_is_read_back(tmp_path: Path, form: str, steps: list[int], texts: list[str]) -> None:
    written = [(time, "AB"[number % 2], texts[number % len(texts)]) for number, time in enumerate(times_of(steps))]

    chat = read(tmp_path / "chat.txt", [f"{FORMS[form](time)}{name}: {text}" for time, name, text in written])

    assert [(message.time, message.speaker, message.text) for message in chat.messages] == written


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.integers(1, 60 * 24 * 9), min_size=2, max_size=8),
    forms=st.lists(st.sampled_from(sorted(FORMS)), min_size=2, max_size=3, unique=True),
    cut=st.integers(1, 6),
)
def test_exports_one_after_another_are_never_glued(
    tmp_path: Path, steps: list[int], forms: list[str], cut: int
) -> None:
    written = [(time, f"Speaker {'AB'[number % 2]}", f"text {number}") for number, time in enumerate(times_of(steps))]
    forms_of = [forms[number // cut % len(forms)] for number in range(len(written))]
    problems = Problems("skip")

    chat = read(
        tmp_path / "chat.txt",
        [f"{FORMS[form](time)}{name}: {text}" for form, (time, name, text) in zip(forms_of, written, strict=True)],
        problems,
    )

    assert {(message.speaker, message.text) for message in chat.messages} <= {written[1:] for written in written}
    assert chat.entries + problems.count == len(written)


@pytest.mark.parametrize("first", ["iphone", "android", "greek", "old iphone"])
def test_exports_in_the_order_of_time_are_read_whole(tmp_path: Path, first: str) -> None:
    times = [datetime(2021, 5, day, 9, 41, 20) for day in range(13, 23)]
    for form in FORMS:
        heads = [*(FORMS[first](time) for time in times[:5]), *(FORMS[form](time) for time in times[5:])]

        chat = read(tmp_path / "chat.txt", [f"{head}{'AB'[at % 2]}: text {at}" for at, head in enumerate(heads)])

        assert [(message.speaker, message.text) for message in chat.messages] == [
            ("AB"[at % 2], f"text {at}") for at in range(10)
        ], form
        assert [message.time.date() for message in chat.messages if message.time] == [time.date() for time in times]


UNKNOWN = [
    "2023/10/25 拂曉3:05 - 小紅: hi",
    "25/10/2023, 3:05 xyz - Dan: hi",
    "25 Oct 2023, 15:05 - Dan: hi",
    "Oct 25, 2023, 3:05 PM - Dan: hi",
    "Wed, 25 Oct 2023 15:05 - Dan: hi",
    "25 de octubre de 2023, 15:05 - Ann: hola",
    "[12:30] Ann: hi",
    "12:30 Ann: hi",
    "12:30 - Ann: hi",
    "(15:05) Ann: hi",
    "٠٣:٠٥ - Ann: hi",
    "2023-10-25 15:05 Dan: hi",
    "2023-10-25T15:05:11Z Dan: hi",
    "2023-10-25 15:05 | Dan: hi",
    "25/10/2023 Ann: hi",
    "25.10. 15:05 Uhr - Bob Lee: hi",
    "25/10/2023; 15:05 - Dan: hi",
    "25/10/2023 | 15:05 | Ann | hi",
    "2023／10／25 15：05 - Dan：hi",
    "2023/10/25，15:05 - Dan：hi",
    "25-Oct-2023, 15:05 - Dan: hi",
    "25_10_2023, 15:05 - Ann: hi",
    "[25/10/2023][15:05] Dan: hi",
    "【25/10/2023, 15:05:11】Ann: hi",
    "15:05\tDan\thi",
    "下午3:05\tDan\thi",
]


@pytest.mark.parametrize("line", UNKNOWN)
@pytest.mark.parametrize("form", ["iphone", "android", "old iphone"])
def test_an_unknown_beginning_is_a_problem_with_its_line(tmp_path: Path, form: str, line: str) -> None:
    heads = [FORMS[form](datetime(2023, 10, 25, 15, minute)) for minute in range(3)]
    lines = [f"{heads[0]}Ann: one", line, "that goes on", f"{heads[1]}Bob Lee: two", f"{heads[2]}Ann: three"]
    problems = Problems("skip")

    chat = read(tmp_path / "chat.txt", lines, problems)

    assert [message.text for message in chat.messages] == ["one", "two", "three"]
    assert (problems.count, problems.messages[0].startswith(f"{tmp_path}/chat.txt:2: ")) == (1, True)
    with pytest.raises(ConversationError, match=r"chat\.txt:2: "):
        read(tmp_path / "chat.txt", lines)


@pytest.mark.parametrize(
    "line",
    [
        "2023-10-25 was nice",
        "2023-10-25 was nice: sun",
        "12:30 works for me",
        "12:30 works for me, Ann: no?",
        "12:30 - Lunch: pizza",
        "[12:30] lunch: pizza",
        "10:1 is the ratio: yes",
        "see 12:30 Ann: x",
        "1. Ann: x",
        "3 things: a",
        "5/10 would do again: never",
        "25.10.2023: dentist",
        "25.10.2023 15:00 Uhr: dentist",
        "10-12 eggs: yes",
        "1, 2, 3 - Ann: go",
        "2; 3; 4; 5 Bits: no",
        "https://x.org/1/2: hi",
        "",
    ],
)
def test_speech_that_begins_with_a_date_stays_speech(tmp_path: Path, line: str) -> None:
    assert not unknown_heads(["Ann", "Bob Lee"])(line)
    for form in ("iphone", "android", "old iphone"):
        heads = [FORMS[form](datetime(2023, 10, 25, 15, minute)) for minute in range(2)]

        chat = read(tmp_path / "chat.txt", [f"{heads[0]}Ann: one", line, "two", f"{heads[1]}Bob Lee: three"])

        assert [message.text for message in chat.messages] == [f"one\n{line}\ntwo", "three"]


@pytest.mark.parametrize(
    "line",
    [
        "2 onions, 3 tomatoes, 4 potatoes, 5 carrots, 6 apples, 7 lemons",
        "2 abcdefghijkl " * 100,
        "12/abcdefghijkl'" * 100,
        "a1 Bcdefgh Ijklmn " * 100,
    ],
)
def test_a_line_of_many_numbers_and_words_is_speech(line: str) -> None:
    """The ways to divide the words between numbers multiply: a pattern that tries all of them never ends."""
    assert not unknown_heads(["Ann", "Bob Lee"])(line)
    assert unknown_heads(["Ann", "Bob Lee"])(f"25 Oktober 2023, 15:05 Uhr - Ann: {line}")


@pytest.mark.parametrize("line", ["[31/12, 21:41] Dan: the plan", "[12/31, 9:41 PM] Dan: the plan"])
def test_messages_copied_from_a_chat_are_counted_as_pasted(tmp_path: Path, line: str) -> None:
    lines = ["13/02/2021, 21:41 - Ann: look", line, "and more of it", "13/02/2021, 21:42 - Bob: nice"]

    chat = read(tmp_path / "chat.txt", lines)

    assert [message.text for message in chat.messages] == ["look", "nice"]
    assert chat.dropped == {"pasted message": 1}
    assert chat.notes[0] == "messages of another form than those around them were left out as pasted text: line 2"


def test_an_older_export_after_a_newer_one_is_a_problem_that_names_its_first_line(tmp_path: Path) -> None:
    lines = ["13/02/2021, 21:41 - Ann: new", "[13/02/2020, 21:41:00] Ann: old", "[13/02/2020, 21:42:00] Bob: older"]
    problems = Problems("skip")

    chat = read(tmp_path / "chat.txt", lines, problems)

    assert [message.text for message in chat.messages] == ["new"]
    assert (chat.entries, problems.count) == (1, 2)
    assert problems.messages[0].startswith(f"{tmp_path}/chat.txt:2: this message has another form than those before it")


def test_marks_after_the_beginning_belong_to_the_text() -> None:
    head = head_of(f"\u200e[{RLM}31/12/2021, 21:41:07] {LRE}+49 170{PDF}: \u200eimage omitted", 3)

    assert head is not None
    assert head.rest == f"{LRE}+49 170{PDF}: \u200eimage omitted"
    assert (head.date.text, head.date.line, head.date.clock.time) == ("31/12/2021", 3, (21, 41, 7))
