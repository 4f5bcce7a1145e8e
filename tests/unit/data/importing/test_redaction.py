"""Redaction: what is masked, what only looks like it, and names that stay the same person's."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmodel.conversation import Conversation
from convmodel.data.importing.name_words import FUNCTION_WORDS, NAMES_AND_WORDS, ORDINARY_WORDS
from convmodel.data.importing.redaction import Redactor
from convmodel.errors import ConfigError


def redacted(text: str) -> str:
    return Redactor().redact(Conversation([text])).turns[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://example.org/a?b=c#d.", "see [URL]."),
        ("(www.example.org/x)", "([URL])"),
        ("HTTP://EXAMPLE.ORG, yes", "[URL], yes"),
        ("join example.com/abc123 now", "join [URL] now"),
        ("https://example.org/見て", "[URL]見て"),
        ("見てhttps://example.org/a。はい", "見て[URL]。はい"),
        ("ftp://ann@example.org/", "[URL]"),
        ("ann@example.org", "[EMAIL]"),
        ("ann.lee+news@mail.example.co.uk!", "[EMAIL]!"),
        ("mail:müller@exämple.de;", "mail:[EMAIL];"),
        ("メールはann@example.orgです", "メールは[EMAIL]です"),
        ("<ann@example.org>", "<[EMAIL]>"),
        ("DE89 3704 0044 0532 0130 00", "[IBAN]"),
        ("iban de89370400440532013000 thanks", "iban [IBAN] thanks"),
        ("NO93 8601 1117 947, GB29NWBK60161331926819", "[IBAN], [IBAN]"),
        ("DE89 3704 0044 0532 0130 00 BANK", "[IBAN] BANK"),
        ("4111 1111 1111 1111", "[CARD]"),
        ("card 5555-5555-5555-4444 ok", "card [CARD] ok"),
        ("378282246310005 and 3782 822463 10005", "[CARD] and [CARD]"),
        ("192.0.2.1:8080", "[IP]:8080"),
        ("from 203.0.113.77.", "from [IP]."),
        ("2001:db8::1 and fe80::1:", "[IP] and [IP]:"),
        ("2001:0db8:0000:0000:0000:ff00:0042:8329", "[IP]"),
    ],
)
def test_addresses_and_numbers_are_masked(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "number",
    [
        "+49 170 1234567",
        "+491701234567",
        "+49 (0) 170 123 45 67",
        "0049 170 1234567",
        "+1 (555) 010-9999",
        "+1-555-010-9999",
        "+33 6 12 34 56 78",
        "+48 123 456 789",
        "+81 90 1234 5678",
        "(555) 010-9999",
        "555-010-9999",
        "555.010.9999",
        "1-555-010-9999",
        "090-1234-5678",
        "03-1234-5678",
        "0170 1234567",
        "0171/1234567",
        "01701234567",
        "(030) 1234567",
        "06 12 34 56 78",
        "06.12.34.56.78",
        "(11) 91234-5678",
        "138 0013 8000",
        "13800138000",
    ],
)
@pytest.mark.parametrize("frame", ["{}", "Call {}!", "tel:{}, thanks", "電話は{}です", "on 01.02.2021 {}"])
def test_phone_numbers_are_masked(number: str, frame: str) -> None:
    assert redacted(frame.format(number)) == frame.format("[PHONE]")


@pytest.mark.parametrize(
    "text",
    [
        "in 1999 and 2021, 1990-2000",
        "2021-12-31 23:59:59",
        "2021-12-31T23:59:59",
        "31.12.2021 12:30, 01.02.2021 12:30",
        "01/02/2021 10 20 30",
        "31.12.21",
        "at 12:30:45, 09:00-17:30, 12.30",
        "$1,000,000 or 1.000.000 € or 1 000 000",
        "+1,000,000 and +10 000 000",
        "£12.50, 19,99 €, 0.123456789, 3.14159265358979",
        "version 1.2.3, v1.2.3.4, version 10.0.0.1, Python 3.11.10, Chrome 96.0.4664.45",
        "1617181723 and 1617181723000",
        "555-0199",
        "10-20-30 and 100 200 300",
        "75000-80000",
        "std::vector and abc::def and 12::30 ::",
        "4111 1111 1111 1112",
        "DE00 3704 1044 1532 1130 11",
        "999.999.999.999",
        "and/or, he/she, etc. 1/2, no.yes",
        "me @ home, @ann",
        "ISBN 978-3-16-148410-0",
        "8-800 points, 50-60%, 3x4",
    ],
)
def test_what_only_looks_like_personal_data_stays(text: str) -> None:
    assert redacted(text) == text


def test_speakers_have_the_same_pseudonym_in_every_conversation() -> None:
    redactor = Redactor()

    first = redactor.redact(Conversation(["Hi", "Hello"], ["Ann Lee", "Bob"]))
    second = redactor.redact(Conversation(["Hey", "Yes?", "Hi"], ["Cem", "bob", "ANN  LEE"]))

    assert first.speakers == ("Speaker 1", "Speaker 2")
    assert second.speakers == ("Speaker 3", "Speaker 2", "Speaker 1")


def test_given_names_come_first_and_numbers_follow() -> None:
    redactor = Redactor(["Robin", "Kim"])

    assert [redactor.pseudonym(name) for name in ("Ann", "Bob", "Cem", "Dan")] == [
        "Robin",
        "Kim",
        "Speaker 1",
        "Speaker 2",
    ]


def test_roles_keep_their_names_also_in_the_text() -> None:
    chat = Conversation(["Be a kind assistant.", "Hi, assistant", "Hello, user"], ["system", "user", "assistant"], 1)
    redactor = Redactor()

    assert redactor.redact(chat) == chat
    assert not redactor.counts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thanks, Ann Lee!", "Thanks, Speaker 1!"),
        ("thanks ann", "thanks Speaker 1"),
        ("@Ann: ANN's", "@Speaker 1: Speaker 1's"),
        ("Ann\nLee", "Speaker 1"),
        ("Annual, Joann, banned", "Annual, Joann, banned"),
        ("Lee went", "Lee went"),
        ("Will you ask Will? I will.", "Speaker 2 you ask Speaker 2? I will."),
        ("Al is here", "Al is here"),
        ("You and me", "You and me"),
        ("田中さん", "Speaker 5さん"),
        ("Zoe\u0308 and Zoë", "Speaker 6 and Speaker 6"),
        ("Groß, gross", "Speaker 7, Speaker 7"),
        ("url [URL] https://example.org", "Speaker 8 [URL] [URL]"),
        ("ann@example.org", "[EMAIL]"),
    ],
)
def test_mentions_of_speakers_are_replaced(text: str, expected: str) -> None:
    names = ["Ann Lee", "Will", "Al", "You", "田中", "Zoë", "Groß", "url"]

    assert Redactor().redact(Conversation([text] * 8, names)).turns[0] == expected


def test_each_word_is_of_one_kind() -> None:
    words = [word for text in (FUNCTION_WORDS, ORDINARY_WORDS, NAMES_AND_WORDS) for word in text.split()]

    assert {word for word, count in Counter(words).items() if count > 1} == set()


def mentioned(name: str, text: str) -> str:
    """The text once one speaker has a name."""
    return Redactor().redact(Conversation([text], [name])).turns[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("The Boss", "did you see the movie? The end, boss"),
        ("Our House", "our own, Our street"),
        ("Der Chef", "Der Hund und der Ball"),
        ("Les Filles", "tu as vu les photos"),
        ("Todos Juntos", "todos los días"),
        ("Мой Брат", "мой дом. Мой!"),
        ("Uncle Tom", "Uncle Sam and an uncle"),
        ("Dr. Ann Lee", "dr. Who"),
        ("Big Mike", "a big one. Big!"),
        ("The", "The end of the day"),
        ("Boss", "my boss said so"),
        ("Mom", "my mom"),
        ("assistant (2)", "an assistant"),
        ("User 7", "one user"),
        ("Deleted account", "I deleted it"),
        ("2024 Class", "in 2024"),
        ("+49 Ann", "dial +49"),
        ("우리 엄마", "우리는 우리의 집"),
        ("우리", "우리 집"),
        ("엄마", "우리 엄마가 왔어"),
        ("老师", "老师说"),
        ("私の 彼", "私の本"),
        ("พี่ แอน", "พี่ไป"),
        ("أبو محمد", "أبو علي"),
        ("मेरी जान", "मेरी किताब"),
        ("שלנו אבא", "הספר שלנו"),
    ],
)
def test_words_in_names_that_name_nobody_stay(name: str, text: str) -> None:
    assert mentioned(name, text) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("The Boss", "the boss"),
        ("The Boss", "THE\nBOSS"),
        ("My Love", "my love"),
        ("Will Smith", "will smith"),
        ("Uncle Tom", "uncle tom"),
        ("우리 엄마", "우리 엄마"),
        ("Boss", "Boss"),
        ("Will Smith", "Will"),
        ("Con O'Neill", "Con"),
        ("Ann Lee", "ann"),
        ("민수 김", "민수"),
        ("أمل علي", "أمل"),
        ("さくら", "さくら"),
        ("Nur", "Nur"),  # a word in German
        ("Uma", "Uma"),
        ("Till Schmidt", "Till"),
        ("Sem de Vries", "Sem"),
        ("Mitt Lee", "Mitt"),
        ("Zia Khan", "Zia"),
        ("Sunday Okoro", "Sunday"),
        ("שלי", "שלי"),
    ],
)
def test_full_names_and_first_names_are_replaced(name: str, text: str) -> None:
    assert mentioned(name, f"({text})") == "(Speaker 1)"


@pytest.mark.parametrize("name", ["Will Smith", "Con O'Neill", "Boss", "Rose"])
def test_names_that_are_words_stay_in_lower_case(name: str) -> None:
    word = name.split()[0].lower()

    assert mentioned(name, f"{word} it") == f"{word} it"


def test_the_full_name_of_one_wins_over_the_first_name_of_another() -> None:
    chat = Conversation(["Ann", "Ann Wu", "Ann Lee"], ["Ann Lee", "Ann Wu", "Ann"])

    assert Redactor().redact(chat).turns == ("Speaker 3", "Speaker 2", "Speaker 1")


def test_numbered_speakers_of_the_export_are_renamed_in_the_text_too() -> None:
    chat = Conversation(["A loud speaker", "Speaker 1 is right"], ["Speaker 2", "Speaker 1"])

    assert Redactor().redact(chat).turns == ("A loud speaker", "Speaker 2 is right")


def test_people_are_masked_who_do_not_speak() -> None:
    redactor = Redactor(people=["Dora Finch"])

    assert redactor.redact(Conversation(["Ask Dora", "Who is dora finch?"])).turns == (
        "Ask Speaker 1",
        "Who is Speaker 1?",
    )


def test_names_that_renamed_speakers_had_are_masked_in_their_conversation() -> None:
    redactor = Redactor()
    chat = Conversation(["Bob, where is Ann?", "Here, Cem"], ["user", "assistant"])

    assert redactor.redact(chat, ["Ann", "Bob"]).turns == ("Speaker 2, where is Speaker 1?", "Here, Cem")
    assert redactor.redact(chat, ["Cem"]).turns == ("Bob, where is Ann?", "Here, Speaker 3")


def test_everything_masked_is_counted() -> None:
    redactor = Redactor()

    redactor.redact(
        Conversation(
            ["ann@example.org, bob@example.org, 999.9.9.9", "Ann, see www.example.org; +49 170 1234567"], ["Bob", "Ann"]
        )
    )

    assert redactor.counts == {"email": 2, "url": 1, "phone": 1, "name": 1}


def test_all_but_turns_and_speakers_is_kept() -> None:
    chat = Conversation(["Be kind.", "ann@example.org"], ["system", "user"], pinned=1, id="talk-7")

    found = Redactor().redact(chat)

    assert (found.pinned, found.id, found.started_at) == (1, "talk-7", None)


@pytest.mark.parametrize("pseudonyms", [["Kim", "kim"], ["Kim", " "], ["user"], ["Speaker 2"]])
def test_pseudonyms_are_checked(pseudonyms: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^pseudonyms contain"):
        Redactor(pseudonyms)


texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
awkward = st.text("ann@example.org+49 170-(5)/:,01.Ä田", min_size=1, max_size=60).filter(str.strip)


@given(st.lists(st.tuples(texts | awkward, texts | awkward), min_size=1, max_size=5))
def test_no_turn_and_no_speaker_is_lost(said: list[tuple[str, str]]) -> None:
    chat = Conversation([text for text, _ in said], [name for _, name in said])

    found = Redactor().redact(chat)

    assert len(found.turns) == len(chat.turns)
    assert len(set(found.speaker_names)) <= len(set(chat.speaker_names))


@given(awkward)
def test_what_is_masked_stays_masked(text: str) -> None:
    once = redacted(text)

    assert redacted(once) == once


@pytest.mark.parametrize("text", ["a" * 20_000, "1 " * 10_000, "a." * 10_000, "0123456789-" * 2_000, "a:" * 10_000])
def test_long_turns_take_no_time(text: str) -> None:
    assert len(redacted(text)) <= len(text)
