"""Other programs' preference data, each row what it means there."""

from typing import Any

import pytest

from convmodel.conversation import Conversation
from convmodel.data.reading.judged_forms import form_of, judged_row
from convmodel.data.reading.judged_row import JudgedRow
from convmodel.errors import ConversationError

HI = {"role": "user", "content": "Hi"}
GOOD = {"role": "assistant", "content": "Hello"}
BAD = {"role": "assistant", "content": "Go"}
SYSTEM = {"role": "system", "content": "Be kind."}
PAIR = JudgedRow(Conversation(["Hi"]), "assistant", "Hello", "Go")
KIND = JudgedRow(Conversation(["Be kind.", "Hi"], ["system", "user"], pinned=1), "assistant", "Hello", "Go")
THUMB = {"kind": "thumb"}


def completions(*scores: Any, key: str = "overall_score") -> dict[str, Any]:
    texts = ["Hello", "Go", "Well"]
    items = [{"response": text, key: score, "model": text} for text, score in zip(texts, scores, strict=False)]
    return {"instruction": "Hi", "completions": items}


EXAMPLES: list[tuple[str, dict[str, Any], JudgedRow]] = [
    ("OpenAI", {"input": {"messages": [HI]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}, PAIR),
    (
        "OpenAI",
        {"input": {"messages": [SYSTEM, HI], "tools": [], "parallel_tool_calls": True},
         "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        KIND,
    ),
    ("preference", {"prompt": "Hi", "chosen": "Hello", "rejected": "Go", "id": 3}, PAIR),
    ("preference", {"prompt": [HI], "chosen": [GOOD], "rejected": [BAD]}, PAIR),
    ("preference", {"prompt": [SYSTEM, HI], "chosen": GOOD, "rejected": BAD}, KIND),
    ("preference", {"chosen": [HI, GOOD], "rejected": [HI, BAD]}, PAIR),
    ("preference", {"chosen": [SYSTEM, HI, GOOD], "rejected": [SYSTEM, HI, BAD]}, KIND),
    ("preference", {"prompt": "Hi", "chosen": [SYSTEM, HI, GOOD], "rejected": [SYSTEM, HI, BAD]}, KIND),
    ("preference", {"question": "Hi", "system": "Be kind.", "chosen": "Hello", "rejected": "Go"}, KIND),
    ("preference", {"prompt": "Hi", "chosen": "Hello", "rejected": None},
     JudgedRow(Conversation(["Hi"]), "assistant", "Hello")),
    ("preference", {"prompt": "Hi", "chosen": [HI, GOOD], "rejected": [HI, BAD], "score_chosen": 8.5,
                    "score_rejected": 2}, PAIR),
    ("preference", {"instruction": "Hi", "chosen": [HI, GOOD], "rejected": [HI, BAD], "score_chosen": 5.0,
                    "score_rejected": 5}, JudgedRow(Conversation(["Hi"]), "assistant", "Hello", "Go", undecided=True)),
    ("preference", {"prompt": "Hi", "chosen": [HI, GOOD], "rejected": [HI, GOOD]},
     JudgedRow(Conversation(["Hi"]), "assistant", "Hello", "Hello")),
    ("unpaired", {"prompt": "Hi", "completion": "Hello", "label": True},
     JudgedRow(Conversation(["Hi"]), "assistant", "Hello", facts=THUMB)),
    ("unpaired", {"prompt": [HI], "completion": [BAD], "label": False},
     JudgedRow(Conversation(["Hi"]), "assistant", rejected="Go", facts=THUMB)),
    ("unpaired", {"prompt": "Hi", "completion": "Go", "label": "False"},
     JudgedRow(Conversation(["Hi"]), "assistant", rejected="Go", facts=THUMB)),
    *(("unpaired", {"prompt": "Hi", "response": "Go", "label": label},
       JudgedRow(Conversation(["Hi"]), "assistant", rejected="Go", facts=THUMB)) for label in (0, 0.0, "0", "0.0")),
    *(("unpaired", {"prompt": "Hi", "completion": "Hello", "label": label},
       JudgedRow(Conversation(["Hi"]), "assistant", "Hello", facts=THUMB)) for label in (1, 1.0, " True", "1.0")),
    ("completions", completions(4.5, 1, 3), JudgedRow(Conversation(["Hi"]), "assistant", "Hello", "Go",
                                                      facts={"model": "Hello"})),
    ("completions", completions(1, 4.5, 3, key="fine-grained_score"),
     JudgedRow(Conversation(["Hi"]), "assistant", "Go", "Hello", facts={"model": "Go"})),
    ("completions", completions(2, 2), JudgedRow(Conversation(["Hi"]), "assistant", "Hello", "Go", undecided=True,
                                                 facts={"model": "Hello"})),
]  # fmt: skip


@pytest.mark.parametrize(("form", "value", "expected"), EXAMPLES)
def test_each_row_is_what_its_program_means(form: str, value: dict[str, Any], expected: JudgedRow) -> None:
    assert form_of(value) == form
    assert judged_row(value) == expected


@pytest.mark.parametrize("label", ["greeting", "", float("nan"), None, [], "nan"])
def test_the_name_of_a_class_and_a_gap_are_no_label(label: Any) -> None:
    assert form_of({"prompt": "Hi", "completion": "Hello", "label": label}) is None


def test_whole_conversations_share_several_turns() -> None:
    shared = [HI, GOOD, {"role": "user", "content": "Tea?"}]
    row = judged_row({"chosen": [*shared, {"role": "assistant", "content": "Yes"}], "rejected": [*shared, BAD]})

    assert row == JudgedRow(Conversation(["Hi", "Hello", "Tea?"]), "assistant", "Yes", "Go")


def test_what_is_not_text_is_counted() -> None:
    thinking = GOOD | {"reasoning_content": "They greet."}
    row = judged_row(
        {"input": {"messages": [HI], "tools": [{}]}, "preferred_output": [thinking], "non_preferred_output": [BAD]}
    )

    assert sorted(row.context.omitted) == ["reasoning_content", "tools"]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"preferred_output": [GOOD], "non_preferred_output": [BAD]}, r"no context: write {\"input\""),
        ({"input": {"messages": []}, "preferred_output": [GOOD]}, "input.messages is .*: write a list of messages"),
        ({"input": {"messages": [HI]}, "preferred_output": [CALL], "non_preferred_output": [BAD]},
         "chosen: message 1 calls a tool"),
        ({"input": {"messages": [HI]}, "preferred_output": [GOOD, HI], "non_preferred_output": [BAD]},
         "chosen has 2 messages after the context: keep one"),
        ({"input": {"messages": [HI]}, "preferred_output": []}, "chosen is .*: write a list of messages"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "there is no context: write a prompt"),
        ({"chosen": [HI, GOOD], "rejected": [BAD | {"role": "user"}, BAD]}, "conversations that begin with the same"),
        ({"chosen": [HI, GOOD], "rejected": [HI, GOOD, HI, BAD]}, "rejected has 3 messages after the context"),
        ({"prompt": "Hi", "chosen": [GOOD], "rejected": [HI]}, "several speakers, assistant, user"),
        ({"prompt": "Hi", "chosen": "a", "rejected": [BAD]}, "chosen is 'a': write a list of messages"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "neither text nor a list of messages"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "turn 1 is empty"),
        ({"prompt": [HI, GOOD], "chosen": [BAD], "rejected": [GOOD]}, "ends with a turn of assistant"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2},
         "score_chosen is 1, less than score_rejected, 2: exchange"),
        *(({"prompt": "Hi", "completion": "Hello", "label": label},
           f"label is {label}: a judgement's label is true or false; remove the column if it is a class")
          for label in (2, -1, 0.5, "3")),
        (completions(3), "there are 1 completions: two or more"),
        (completions(), "there are 0 completions"),
        (completions(3, None), "completion 2 has no score: write a number as overall_score"),
        (completions(3, "N/A"), "completion 2 has no score"),
        (completions(3, float("nan")), "completion 2 has no score"),
        ({"instruction": "Hi", "completions": ["a", "b"]}, "completion 1 has no score"),
        ({"instruction": "Hi", "completions": [{"overall_score": 1}, {"response": "a"}]}, "completion 1 has no text"),
    ],
)  # fmt: skip
def test_malformed_rows_are_errors_with_the_fix(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        judged_row(value)
