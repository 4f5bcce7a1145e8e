"""Importing: what comes in goes out or is counted, whatever it is mixed of."""

import gzip
import json
import os
import re
import shutil
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from convmodel.conversation import LONGEST_TURN, Conversation
from convmodel.data.importing.cleaning import CleaningRules
from convmodel.data.importing.pipeline import ImportOptions, import_conversations
from convmodel.data.importing.segmenting import Segmenting
from convmodel.data.importing.splitting import require_no_leakage
from convmodel.data.reading.reader import read_conversations
from convmodel.errors import ConfigError, ConversationError, SaveError

WORDS = ["river", "stone", "lamp", "bread", "cloud", "winter", "garden", "letter", "music", "bridge"]


def whatsapp(folder: Path, name: str = "WhatsApp Chat with Bob.txt", days: int = 30) -> Path:
    """Writes a chat with one conversation a day, each about something else."""
    begin = datetime(2024, 1, 15, 20, 0)
    lines = []
    for day in range(days):
        topic = f"{WORDS[day % 10]} {WORDS[day // 10 % 10]} number {day}"
        said = [
            ("Ann", f"Bob, did you see the {topic} yesterday?"),
            ("Bob", f"No, what about the {topic}, Ann?"),
            ("Ann", f"Call {day} times"),
            ("Ann", "or write to ann@example.org"),
        ]
        for minute, (who, text) in enumerate(said):
            time = begin + timedelta(days=day, minutes=minute)
            lines.append(f"{time:%d/%m/%Y, %H:%M} - {who}: {text}")
    path = folder / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def read(folder: Path) -> dict[str, list[Conversation]]:
    return {path.stem: read_conversations(path) for path in sorted(folder.glob("*.jsonl"))}


def test_a_chat_becomes_training_data(tmp_path: Path) -> None:
    summary = import_conversations([whatsapp(tmp_path)], tmp_path / "data")

    parts = read(tmp_path / "data")
    assert {name: len(part) for name, part in parts.items()} == {"train": 27, "valid": 2, "test": 1}
    assert summary.written == {"train.jsonl": 27, "valid.jsonl": 2, "test.jsonl": 1}
    assert (summary.entries, summary.conversations, summary.turns) == (120, 30, 90)
    assert summary.speakers == {"Ann": 90, "Bob": 30}
    first = parts["train"][0]
    assert first.turns == (
        "Bob, did you see the river river number 0 yesterday?",
        "No, what about the river river number 0, Ann?",
        "Call 0 times\nor write to ann@example.org",
    )
    assert (first.turn_speakers, first.started_at) == (("Ann", "Bob", "Ann"), datetime(2024, 1, 15, 20, 0))
    newest = min(conversation.started_at for conversation in parts["test"] if conversation.started_at)
    assert all(one.started_at < newest for name in ("train", "valid") for one in parts[name] if one.started_at)
    assert any("day/month/year" in note for note in summary.notes)
    assert any("pause of more than" in note for note in summary.notes)


def test_me_is_learned_and_personal_data_is_masked(tmp_path: Path) -> None:
    options = ImportOptions(segmenting=Segmenting(me="Bob"), cleaning=CleaningRules(redact=True))

    summary = import_conversations([whatsapp(tmp_path)], tmp_path / "data", options)

    text = "".join(path.read_text() for path in (tmp_path / "data").iterdir())
    assert "Ann" not in text
    assert "Bob" not in text
    assert "ann@example.org" not in text
    assert summary.masked == {"email": 30, "name": 60}
    parts = read(tmp_path / "data")
    assert all(one.turn_speakers == ("user", "assistant", "user") for part in parts.values() for one in part)
    assert sorted(one.id or "" for part in parts.values() for one in part) == [f"{n:06d}" for n in range(1, 31)]


def test_names_beside_roles_are_masked_in_their_own_conversations(tmp_path: Path) -> None:
    named = {"role": "user", "name": "Ann Lee", "content": "It is Ann here. Ask Cem about the river."}
    talks = [
        [named, {"role": "assistant", "content": "I will, Ann Lee, said the robot."}],
        [{"role": "user", "content": "Is Ann a name?"}, {"role": "assistant", "content": "Yes, Ann is one."}],
        [named | {"name": "Cem", "content": "Cem again"}, {"role": "assistant", "content": "Hello Cem, and Ann Lee?"}],
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps({"messages": talk}) for talk in talks))
    options = ImportOptions(cleaning=CleaningRules(redact=True, near_duplicates=None), shares=(1, 0, 0))

    summary = import_conversations([tmp_path / "chats.jsonl"], tmp_path / "data", options)

    assert [one.turns for one in read(tmp_path / "data")["train"]] == [
        ("It is Speaker 1 here. Ask Cem about the river.", "I will, Speaker 1, said the robot."),
        ("Is Ann a name?", "Yes, Ann is one."),
        ("Speaker 2 again", "Hello Speaker 2, and Ann Lee?"),
    ]
    assert summary.masked == {"name": 4}


@pytest.mark.parametrize("merged", [False, True])
def test_names_of_speakers_are_masked_alike_in_chats_and_other_data(tmp_path: Path, merged: bool) -> None:
    said = [("Ann Lee", "Did you see Cem and the {}, Bob?"), ("Bob", "No, ann. Ask Cem"), ("Cem", "I saw the {}, Bob")]
    names = [name for name, _ in said]
    talks = [[text.format(word) for _, text in said] for word in WORDS]
    plain = ["\n".join(f"{name}: {text}" for name, text in zip(names, talk, strict=True)) + "\n---\n" for talk in talks]
    (tmp_path / "chat.txt").write_text("".join(plain))
    lines = [json.dumps({"turns": talk, "speakers": names}) for talk in talks]
    (tmp_path / "talks.jsonl").write_text("\n".join(lines))
    rows = [
        f'{number},{name},"{text}"' for number, talk in enumerate(talks) for name, text in zip(names, talk, strict=True)
    ]
    (tmp_path / "table.csv").write_text("\n".join(["conversation_id,speaker,text", *rows]))
    options = ImportOptions(
        segmenting=Segmenting(me="Bob", merge_others=merged),
        cleaning=CleaningRules(redact=True, near_duplicates=None),
        shares=(1, 0, 0),
    )

    for name in ("chat.txt", "talks.jsonl", "table.csv"):
        summary = import_conversations([tmp_path / name], tmp_path / name[:4], options)

        assert read(tmp_path / name[:4])["train"] == [
            Conversation(
                [
                    f"Did you see Speaker 3 and the {word}, Speaker 2?",
                    "No, Speaker 1. Ask Speaker 3",
                    f"I saw the {word}, Speaker 2",
                ],
                ["user", "assistant", "user"] if merged else ["Speaker 1", "assistant", "Speaker 3"],
            )
            for word in WORDS
        ]
        assert summary.masked == {"name": 50}


def test_every_source_is_recognised_and_added_up(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "deep").mkdir(parents=True)
    whatsapp(inbox)
    whatsapp(inbox / "deep", "copy.txt")
    rows = [{"conversation_id": n // 2, "speaker": "AB"[n % 2], "text": f"{WORDS[n % 10]} {n}"} for n in range(20)]
    (inbox / "table.csv").write_text(
        "conversation_id,speaker,text\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows)
    )
    (inbox / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "Hello there my friend", "response": "Oh hello"}\n')

    summary = import_conversations([inbox, pairs], tmp_path / "data")

    assert summary.formats == {"whatsapp": 2, "rows": 20, "pairs": 1}
    assert summary.entries == 120 + 120 + 20 + 1
    assert summary.conversations == 30 + 30 + 10 + 1
    assert summary.dropped == {"exact duplicate": 30}
    assert sum(summary.written.values()) == 41
    assert f"1 files in {inbox} have no known format and were ignored" in summary.notes


def test_the_summary_adds_up(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    lines = [json.dumps([f"{WORDS[i % 10]} {i}", f"yes {i}"]) for i in range(20)]
    lines[3:3] = ["not json", '["only one turn"]', lines[0], '{"turns": ["a"], "speaker": "b"}']
    path.write_text("\n".join(lines))

    summary = import_conversations([path], tmp_path / "data", ImportOptions(on_error="skip"))

    assert summary.entries == 24
    assert summary.problems == 2
    assert [message.partition(": ")[0] for message in summary.first_problems] == [f"{path}:4:1", f"{path}:7"]
    assert summary.conversations == 22
    assert summary.dropped == {"fewer than 2 turns": 1, "exact duplicate": 1}
    assert summary.entries == summary.problems + summary.dropped.total() + sum(summary.written.values())


def openai(*turns: tuple[str, str, float | None]) -> str:
    """A line of OpenAI's fine-tuning file."""
    messages = [
        {"role": role, "content": text} | ({} if weight is None else {"weight": weight}) for role, text, weight in turns
    ]
    return json.dumps({"messages": messages})


def test_turns_that_cannot_be_joined_are_a_problem_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "openai.jsonl"
    lines = [openai(("user", f"Hi {word}", None), ("assistant", f"Oh {word}", 0)) for word in WORDS]
    differing = ("user", "Hi", None), ("assistant", "Hello", 0), ("assistant", "How are you?", 1)
    lines.insert(4, openai(*differing))
    path.write_text("\n".join(lines))

    with pytest.raises(
        ConversationError,
        match=r"openai\.jsonl:5: turns 2 to 3, all by 'assistant', are joined, but their weights differ \(0, 1\): give",
    ):
        import_conversations([path], tmp_path / "data")
    summary = import_conversations([path], tmp_path / "data", ImportOptions(on_error="skip"))
    kept = import_conversations([path], tmp_path / "kept", ImportOptions(segmenting=Segmenting(keep_messages=True)))

    assert (summary.entries, summary.problems, summary.conversations, sum(summary.written.values())) == (11, 1, 10, 10)
    assert summary.first_problems[0].startswith(f"{path}:5: turns 2 to 3")
    assert (summary.carried.rows, len(summary.carried.places["weights"])) == (10, 10)
    assert sum(kept.written.values()) == 11


def test_turns_of_merged_speakers_are_joined_or_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "group.jsonl"
    names = ["Ann", "Cem", "Bob"]
    talks = [{"turns": [f"{word} a", f"{word} b", f"{word} c"], "speakers": names} for word in WORDS]
    unequal = {"turns": ["a", "b", "c"], "speakers": names, "weights": [1, 0, 1]}
    silent = {"turns": ["a", "b", "c"], "speakers": ["Ann", "Ann", "Cem"], "weights": [1, 0, 1]}
    path.write_text("\n".join(map(json.dumps, [*talks, unequal, silent])))
    merged = Segmenting(me="Bob", merge_others=True)

    with pytest.raises(ConversationError, match=r"group\.jsonl:11: turns 1 to 2, all by 'user', are joined, but"):
        import_conversations([path], tmp_path / "data", ImportOptions(segmenting=merged))
    summary = import_conversations([path], tmp_path / "data", ImportOptions(segmenting=merged, on_error="skip"))

    assert (summary.problems, summary.dropped, sum(summary.written.values())) == (1, {"Bob has no turn": 1}, 10)
    assert import_conversations([path], tmp_path / "all", ImportOptions(segmenting=Segmenting(me="Bob"))).problems == 0


@pytest.mark.slow  # long texts
def test_turns_that_are_too_long_are_a_problem_with_their_place(tmp_path: Path) -> None:
    half = "word " * (LONGEST_TURN // 8)
    talks = tmp_path / "talks.jsonl"
    talks.write_text(
        json.dumps({"turns": [half, half, "Hi"], "speakers": ["Ann", "Ann", "Bob"]}) + '\n["Hi", "Hello"]\n'
    )
    chat = whatsapp(tmp_path)
    with chat.open("a") as file:
        file.write(f"\n29/03/2024, 08:00 - Ann: {half}{half}")

    for path, place in (
        (talks, f"{talks}:1: turn 1"),
        (chat, f"{chat}:121: in the conversation that begins here, turn 1"),
    ):
        with pytest.raises(ConversationError, match=rf"^{re.escape(place)} has [\d,]+ characters, more than"):
            import_conversations([path], tmp_path / "data")
    summary = import_conversations([talks, chat], tmp_path / "data", ImportOptions(on_error="skip"))

    assert (summary.problems, sum(summary.written.values())) == (2, 31)


def test_one_file_without_conversations_does_not_end_an_import_that_skips(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "a.jsonl").write_text("")
    (inbox / "b.jsonl").write_text("broken\n" * 7)
    (inbox / "c.jsonl").write_text("".join(f'["{word}", "yes {word}"]\n' for word in WORDS))

    with pytest.raises(ConversationError, match=r"a\.jsonl has no conversation"):
        import_conversations([inbox], tmp_path / "data")
    summary = import_conversations([inbox], tmp_path / "data", ImportOptions(on_error="skip"))

    assert (summary.entries, summary.problems, sum(summary.written.values())) == (18, 8, 10)
    assert len(summary.first_problems) == 5


def test_a_bad_line_ends_the_import_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('["Hi", "Yes"]\n["No"')

    with pytest.raises(ConversationError, match=r"bad.jsonl:2:6: not JSON"):
        import_conversations([path], tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_conversations_without_me_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    talks: list[Any] = [{"turns": [f"{w} a", f"{w} b"], "speakers": ["Ann", "Bob"]} for w in WORDS]
    talks.append({"turns": ["one two", "three"], "speakers": ["Cem", "Dan"]})
    path.write_text("\n".join(map(json.dumps, talks)))

    summary = import_conversations([path], tmp_path / "data", ImportOptions(segmenting=Segmenting(me="Bob")))

    assert summary.dropped == {"Bob has no turn": 1}
    assert summary.conversations == 11
    assert any("22 turns in the data as read, of which 20 were written" in note for note in summary.notes)


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text('["Hi"]\n["Yes"]')

    with pytest.raises(ConversationError, match=r"none of 2 conversations is left \(2 fewer than 2 turns\): relax"):
        import_conversations([path], tmp_path / "data")


def test_ids_hold_the_names_of_files_not_where_they_are(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "deep").mkdir(parents=True)
    whatsapp(inbox / "deep")
    (inbox / "talks.jsonl").write_text('["Is the boat in?", "It is"]\n["And the ferry?", "Late"]\n')
    options = ImportOptions(shares=(1, 0, 0))

    import_conversations([inbox], tmp_path / "all", options)
    import_conversations([inbox / "talks.jsonl", inbox / "deep"], tmp_path / "parts", options)

    ids = [[one.id or "" for one in read(tmp_path / name)["train"]] for name in ("all", "parts")]
    assert ids[0][0] == "inbox/deep/WhatsApp Chat with Bob.txt:1"
    assert ids[0][-1] == "inbox/talks.jsonl:2"
    assert (ids[1][0], ids[1][-1]) == ("deep/WhatsApp Chat with Bob.txt:1", "talks.jsonl:2")


def test_small_parts_are_reported(tmp_path: Path) -> None:
    path = whatsapp(tmp_path)

    few = import_conversations([path], tmp_path / "few")
    train_only = import_conversations([path], tmp_path / "train", ImportOptions(shares=(1, 0, 0)))

    assert any(
        "valid has 2 conversations and test 1: you can train, but comparing models" in note for note in few.notes
    )
    assert not any("comparing models" in note for note in train_only.notes)


def test_speakers_are_counted_under_their_own_names(tmp_path: Path) -> None:
    talks = tmp_path / "talks.jsonl"
    talks.write_text('{"messages": [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi there"},'
                     ' {"role": "assistant", "content": "Hello"}]}\n')  # fmt: skip

    summary = import_conversations(
        [whatsapp(tmp_path), talks], tmp_path / "data", ImportOptions(segmenting=Segmenting(me="Bob"))
    )

    assert summary.speaker_turns == {"Ann": 60, "Bob": 30, "user": 1, "assistant": 1}
    assert summary.first_words["Bob"] == "No, what about the river river number 0, Ann?"


@pytest.mark.parametrize("keep", [False, True])
def test_turns_of_speakers_are_those_written_unless_some_are_left_out(tmp_path: Path, keep: bool) -> None:
    """Ann ends one conversation and begins the next: the pause between them divides her turns, too."""
    options = ImportOptions(segmenting=Segmenting(keep_messages=keep))

    summary = import_conversations([whatsapp(tmp_path)], tmp_path / "data", options)

    assert summary.speaker_turns == {"Ann": 90 if keep else 60, "Bob": 30}
    assert summary.speaker_turns.total() == summary.turns
    assert not any("as read" in note for note in summary.notes)


def test_a_name_that_continues_another_one_is_pointed_out(tmp_path: Path) -> None:
    chat = tmp_path / "chat.txt"
    lines = ["Ann: Is it late?", "Bob: It is", "Ann: Then home", "Bob: Yes", "Ann Trip: Oslo"]
    chat.write_text("".join(f"31/12/2021, 21:4{minute} - {line}\n" for minute, line in enumerate(lines)))

    summary = import_conversations([chat], tmp_path / "data", ImportOptions(shares=(1, 0, 0)))

    assert any("perhaps not people" in note and "'Ann Trip'" in note for note in summary.notes)


def test_other_shares_leave_no_part_of_an_earlier_import(tmp_path: Path) -> None:
    path = whatsapp(tmp_path)
    import_conversations([path], tmp_path / "data")

    summary = import_conversations([path], tmp_path / "data", ImportOptions(shares=(1, 0, 0)))

    assert summary.written == {"train.jsonl": 30}
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["train.jsonl"]


def test_a_gap_may_be_given(tmp_path: Path) -> None:
    summary = import_conversations(
        [whatsapp(tmp_path)], tmp_path / "data", ImportOptions(gap=timedelta(days=2), shares=(1, 0, 0))
    )

    assert summary.conversations == 1
    assert not any("pause" in note for note in summary.notes)


def test_too_few_conversations_for_the_parts_name_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text('["Hi", "Yes"]')

    with pytest.raises(ConversationError, match="too few for 3 parts; add conversations, or set the share"):
        import_conversations([path], tmp_path / "data")


def test_a_file_that_is_nothing_known_names_what_is(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("Dear diary, it rained.")

    with pytest.raises(ConversationError, match=r"diary.txt is not a known chat export \(signal, whatsapp, "):
        import_conversations([tmp_path / "diary.txt"], tmp_path / "data")


def test_a_pipe_is_read_from_its_beginning(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines = "".join(f'["Did you see the {a} and the {b}?", "The {b}, yes"]\n' for a in WORDS for b in WORDS)
    writer = threading.Thread(target=pipe.write_text, args=(lines,), daemon=True)
    writer.start()

    summary = import_conversations([pipe], tmp_path / "data", ImportOptions(cleaning=CleaningRules(deduplicate=False)))

    assert summary.entries == sum(summary.written.values()) == 100


def test_a_file_that_cannot_be_read_is_not_called_unknown(tmp_path: Path) -> None:
    chat = tmp_path / "chat.txt.gz"
    chat.write_bytes(gzip.compress(whatsapp(tmp_path).read_bytes())[:-20])

    with pytest.raises(ConversationError, match=r"chat\.txt\.gz: the compressed file is truncated or damaged"):
        import_conversations([chat], tmp_path / "data")


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SaveError):
        import_conversations([whatsapp(tmp_path)], tmp_path / "file" / "data")


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="there is no format icq; there are auto, signal, whatsapp"):
        ImportOptions(format="icq")
    with pytest.raises(ConfigError, match="merge_others needs the speaker to learn"):
        ImportOptions(segmenting=Segmenting(merge_others=True))


def test_a_folder_of_several_exports_is_read_whole(tmp_path: Path) -> None:
    """One JSON export in a folder does not make the whole folder one."""
    fixtures = Path(__file__).parent / "exports" / "fixtures"
    everything = CleaningRules(min_turns=1, min_speakers=1, deduplicate=False)

    summary = import_conversations([fixtures], tmp_path / "data", ImportOptions(cleaning=everything, shares=(1, 0, 0)))

    assert summary.formats == {
        "whatsapp": 4, "messenger": 3, "chatgpt": 3, "telegram": 2, "discord": 2, "line": 2, "kakaotalk": 2,
        "google-chat": 1, "slack": 1, "plain": 1,
    }  # fmt: skip
    assert not any("no known format" in note for note in summary.notes)


def test_what_is_inside_an_export_is_not_read_again(tmp_path: Path) -> None:
    fixtures = Path(__file__).parent / "exports" / "fixtures"
    for folder in ("inbox/slack", "inbox/slack-2", "inbox/deep/slack"):
        shutil.copytree(fixtures / "slack", tmp_path / folder)
    whatsapp(tmp_path / "inbox")

    summary = import_conversations([tmp_path / "inbox"], tmp_path / "data", ImportOptions(shares=(1, 0, 0)))

    assert summary.formats == {"slack": 3, "whatsapp": 1}


def test_a_format_may_be_named_for_a_folder(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    whatsapp(inbox)
    (inbox / "notes.txt").write_text("nothing")

    summary = import_conversations([inbox], tmp_path / "data", ImportOptions(format="whatsapp"))

    assert summary.formats == {"whatsapp": 1}
    with pytest.raises(ConversationError, match="inbox holds no export of the format line"):
        import_conversations([inbox], tmp_path / "data", ImportOptions(format="line"))


def test_an_account_is_json(tmp_path: Path) -> None:
    summary = import_conversations([whatsapp(tmp_path)], tmp_path / "data")

    assert json.loads(json.dumps(summary.to_dict()))["speakers"] == {"Ann": 90, "Bob": 30}


def test_a_truncated_file_is_reported_even_beside_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl.gz"
    lines = "".join(f'["{random_word} {i}", "yes {i}"]\n' for i in range(2000) for random_word in WORDS[i % 10 :][:1])
    path.write_bytes(gzip.compress(("broken\n" + lines).encode())[:-40])

    summary = import_conversations([path], tmp_path / "data", ImportOptions(on_error="skip"))

    assert summary.problems == 2
    assert "not JSON" in summary.first_problems[0] or "not JSON" in summary.first_problems[1]
    assert any("is truncated or damaged" in message for message in summary.first_problems)


def test_nothing_readable_says_what_was_wrong(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("Ann,Hi\nBob,Yes\n")

    with pytest.raises(ConversationError, match=r"1 rows could not be read, the first because of: .*rows\.csv:2"):
        import_conversations([path], tmp_path / "data", ImportOptions(on_error="skip"))


def test_somebody_called_assistant_is_not_taken_for_me(tmp_path: Path) -> None:
    path = tmp_path / "group.jsonl"
    talks = [
        {"turns": [f"{word} a", f"{word} b", f"{word} c"], "speakers": ["Ann", "assistant", "Cem"]} for word in WORDS
    ]
    path.write_text("\n".join(map(json.dumps, talks)))

    import_conversations([path], tmp_path / "data", ImportOptions(segmenting=Segmenting(me="Ann"), shares=(1, 0, 0)))

    assert read(tmp_path / "data")["train"][0].turn_speakers == ("assistant", "assistant (2)", "Cem")


def test_nobody_of_the_name_is_no_import(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}\n' * 2)

    with pytest.raises(ConversationError, match=r"\(2 Nobody has no turn\).*; nobody is called Nobody; there"):
        import_conversations([path], tmp_path / "data", ImportOptions(segmenting=Segmenting(me="Nobody")))


def test_valid_and_test_share_nothing_either() -> None:
    same = Conversation(["Hello there", "Hi, how are you doing today?"], id="one")

    with pytest.raises(ConversationError, match="is in valid and in another part"):
        require_no_leakage([same], {"test": [same]}, near=None, name="valid")


CHAT = "".join(
    f"0{day}/01/2026, 18:0{n} - {who}: Words of {day}\n" for day in range(1, 9) for n, who in enumerate("AB")
)


def test_the_name_of_a_file_need_not_be_unicode(tmp_path: Path) -> None:
    try:
        (tmp_path / "WhatsApp Chat mit J\udcf6rg.txt").write_text(CHAT, encoding="utf-8")
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")

    summary = import_conversations([tmp_path], tmp_path / "data")

    assert summary.conversations == 8
    assert r"J\\udcf6rg" in (tmp_path / "data/train.jsonl").read_text(encoding="utf-8")
    json.dumps(summary.to_dict(), ensure_ascii=False).encode()


def test_an_unreadable_chat_in_a_folder_is_a_problem_like_others(tmp_path: Path) -> None:
    (tmp_path / "WhatsApp Chat with B.txt").write_text(CHAT, encoding="utf-8")
    bad = tmp_path / "WhatsApp Chat with J.txt"
    bad.write_bytes("01/01/2026, 18:00 - Jörg: Hello\n".encode("latin-1"))

    with pytest.raises(ConversationError, match=r"with J\.txt:1:\d+: not UTF-8"):
        import_conversations([tmp_path], tmp_path / "none")
    summary = import_conversations([tmp_path], tmp_path / "data", ImportOptions(on_error="skip"))

    assert (summary.conversations, summary.problems) == (8, 1)
    assert "with J.txt:1:" in summary.first_problems[0]
    with pytest.raises(ConversationError, match="not UTF-8"):  # nothing else is there
        import_conversations([bad], tmp_path / "alone", ImportOptions(on_error="skip"))
