"""Who speaks in WhatsApp's entries: names before a colon, and notices that hold one."""

import pytest

from convmodel.data.importing.exports.whatsapp_names import Speakers


def split(*entries: str, bare: bool = True) -> list[tuple[str, str]]:
    speakers = Speakers(enumerate(entries, 1), bare_notices=bare)
    return [speakers.split(entry) for entry in entries]


@pytest.mark.parametrize(
    "notice",
    [
        "Ann changed this group: description",
        "Ann started a call. Join: https://call.whatsapp.com/voice/x",
        "Carla started a call. Join: https://call.whatsapp.com/voice/x",
        "Carla changed the group description: be kind",
        'Ann changed the subject to "Trip: the plan"',
        "Ann changed the subject to “Trip: the plan”",
        "Ann hat die Gruppenbeschreibung geändert: neu",
        "花子がグループ「旅行: 京都」を作成しました",
        "花子がグループの説明を変更しました: 京都",
        "小明更改了群組的說明: 京都",
        "غيّرت سارة وصف المجموعة: سفر",
        "Ann added Bob",
        "Missed voice call at 12:30",
        "Join with https://chat.whatsapp.com/x",
    ],
)
def test_a_colon_in_a_notice_makes_no_speaker(notice: str) -> None:
    entries = [notice, "Ann: one", "花子: two", "小明: three", "سارة: four"]

    assert split(*entries) == [("", notice), ("Ann", "one"), ("花子", "two"), ("小明", "three"), ("سارة", "four")]


def test_a_repeated_notice_makes_no_speaker() -> None:
    notices = ["Ann changed this group: description", "Ann changed this group: icon"]

    assert split(*notices, "Ann: one")[:2] == [("", notice) for notice in notices]


@pytest.mark.slow  # so many names
def test_notices_are_found_among_many_names() -> None:
    """Comparing all pairs of so many names would not end within a test's time."""
    names = [f"User{number}" for number in range(60_000)]
    notices = ["User7 changed this group", "花子 が 田中 を追加"]

    speakers = Speakers(enumerate((f"{name}: x" for name in ("田中", *names, *notices)), 1), bare_notices=True)

    assert {*speakers} == {"田中", *names}


def test_notices_that_look_like_names_are_noted_with_their_lines() -> None:
    speakers = Speakers([(3, "Ann: one"), (7, "Ann changed this group: description")], bare_notices=True)

    assert speakers.notes == ["taken for WhatsApp's own text, not for names: Ann changed this group (line 7)"]


def test_speech_with_two_colons_is_not_noted_as_a_notice() -> None:
    speakers = Speakers([(1, "Ann: one"), (2, "Bob:it did: at noon"), (3, "Bob: yes")], bare_notices=True)

    assert (speakers.split("Bob:it did: at noon"), speakers.notes) == (("Bob", "it did: at noon"), [])


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["Ann: hi", "Bob:it did", "Bob: yes"], ("Bob", "it did")),
        (["Bob: hi", "Ann:."], ("Ann", ".")),
        (["Ann: hi", "Bob:see: it", "Bob: yes"], ("Bob", "see: it")),
        (["Ann: hi", "12:30 Club: Hi"], ("12:30 Club", "Hi")),
        (["Ann: hi", "+49 170 5550101:hi"], ("+49 170 5550101", "hi")),
        (["Ann: hi", "Bob\uff1ahi"], ("Bob", "hi")),
        (["Ann: hi", "~\u202fCem 🌻: Hi"], ("Cem 🌻", "Hi")),
        (["Ann: hi", "Ann Lee: Hi"], ("Ann Lee", "Hi")),
        (["Ann: hi", "Ann 2: Hi"], ("Ann 2", "Hi")),
        (["花: hi", "花ママ: Hi"], ("花ママ", "Hi")),
        (["Ann: hi", 'Robert "Bob" Lee: Hi'], ('Robert "Bob" Lee', "Hi")),
        (["Ann: hi", "🌻: Hi"], ("🌻", "Hi")),
    ],
)
def test_names(entries: list[str], expected: tuple[str, str]) -> None:
    assert split(*entries)[1] == expected


def test_on_an_iphone_a_name_may_be_a_sentence() -> None:
    assert split("Ann: hi", "Bob from the garden club: Hi", bare=False)[1] == ("Bob from the garden club", "Hi")
