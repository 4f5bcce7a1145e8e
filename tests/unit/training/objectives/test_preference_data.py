"""Batches of judgements: what each window is, what is replayed when, and rows that only fill up."""

from typing import Any

import pytest

from convmodel import Conversation, ConversationModel, FitConfig
from convmodel.data.judgements.reader import JudgementReader
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.windows.encoding import encode_windows
from convmodel.data.windows.order import Blank
from convmodel.errors import ContextTooLongError, ConversationError
from convmodel.layout.sequence import IGNORED
from convmodel.training.fit_data import Sources
from convmodel.training.objectives import preference_data
from convmodel.training.objectives.preference_data import PreferenceData
from fine_tuning import TALKS

LINES: list[dict[str, Any]] = [
    {"context": ["Hello"], "chosen": "Hi there, friend", "rejected": "Go"},
    {"context": ["Hello"], "chosen": "Good day", "weight": 2},
    {"context": ["Why?"], "rejected": "Because"},
]


@pytest.fixture
def model(unigram_folder: Any) -> ConversationModel:
    return ConversationModel.from_pretrained(unigram_folder, device="cpu")


def data_of(model: ConversationModel, replay: Any = None, valid: Any = None, **options: Any) -> PreferenceData:
    others = (None if source is None else ConversationReader.of(source) for source in (valid, replay))
    sources = Sources(JudgementReader(LINES), *others)
    config = FitConfig(**{"objective": "kto", "batch_size": 3} | options)
    return PreferenceData.of(model.hf_model, model.tokenizer, sources, config)


@pytest.mark.parametrize("packing", [False, True])
def test_a_batch_says_what_each_window_is(model: ConversationModel, packing: bool) -> None:
    data = data_of(model, packing=packing, max_length=100)
    rows: list[Any] = [(0, 1), (2,)] if packing else [0, 1, 2]
    dataset = data.dataset(0)
    batch = data.collate(model.tokenizer, [dataset[row] for row in rows])

    judged = {name: value.tolist() for name, value in batch["judged"].items()}
    assert judged["numbers"] == [0, 1, 2, 3]
    assert judged["chosen"] == [0, 2, -1]
    assert judged["rejected"] == [1, -1, 3]
    assert judged["weights"] == [1, 2, 1]
    assert judged["sizes"] == [window.supervised_tokens for window in data.train.windows]
    for number, window in enumerate(data.train.windows):
        mine = batch["segments"] == number
        assert [i for i in batch["labels"][mine].tolist() if i != IGNORED] == [i for i in window.labels if i != IGNORED]
    assert batch["tokens"] == sum(data.train.lengths)


def test_a_row_that_fills_up_counts_nothing(model: ConversationModel) -> None:
    data = data_of(model, replay=TALKS[:3])
    batch = data.collate(model.tokenizer, [data.dataset(0)[Blank(0)]])

    assert batch["judged"]["weights"].tolist() == [0]
    assert batch["judged"]["sizes"].tolist() == [0, 0, 0]
    assert batch["tokens"] == 0
    assert (batch["labels"] == IGNORED).all()
    assert (batch["mismatched"]["labels"] == IGNORED).all()


@pytest.mark.parametrize("count", [3, 6, 7])
def test_all_conversations_are_replayed_before_any_comes_again(model: ConversationModel, count: int) -> None:
    data = data_of(model, replay=TALKS[:count])
    dataset = data.dataset(0)
    replayed: list[str] = []
    for epoch in range(2 * count):
        data.order.set_epoch(epoch)
        windows = [item.replayed for index in range(3) for item in dataset[index]]
        replayed += [window.source for window in windows if window]
    cycles = [tuple(replayed[start : start + count]) for start in range(0, len(replayed), count)]
    assert all(len({*cycle}) == count for cycle in cycles)
    assert len({*cycles}) > 1  # not the same beside each judgement every time

    batch = data.collate(model.tokenizer, [dataset[1]])
    assert batch["judged"]["numbers"].tolist() == [2, -1]


def test_packed_rows_have_room_for_what_is_replayed(model: ConversationModel) -> None:
    data = data_of(model, replay=TALKS, packing=True, max_length=100)
    dataset = data.dataset(0)
    rows = [data.collate(model.tokenizer, [dataset[row]]) for row in iter(data.order)]

    assert data.replay is not None
    longest = max(100, int((data.examples.lengths() + data.replay.lengths.max()).max()))
    assert len(rows) > 1
    assert all(int((row["position_ids"] >= 0).sum()) <= longest * 17 / 16 for row in rows)


def test_replayed_windows_are_short_beside_short_judgements(model: ConversationModel, monkeypatch: Any) -> None:
    monkeypatch.setattr(preference_data, "REPLAY_LENGTH", 12)
    data = data_of(model, replay=[["Hello there, how are you?"] * 20])

    assert data.replay is not None
    longest = int(data.train.lengths.max())
    assert 12 < longest < data.max_length
    assert longest - 12 < data.replay.lengths.max() <= longest


def test_pinned_turns_of_what_is_replayed_have_room(model: ConversationModel, monkeypatch: Any) -> None:
    monkeypatch.setattr(preference_data, "REPLAY_LENGTH", 12)
    rules = "Hello there, how are you? " * 5
    pinned = Conversation([rules, *["Good day"] * 20], ["system", *["user", "assistant"] * 10], pinned=1)
    data = data_of(model, replay=[TALKS[0], pinned])

    assert data.replay is not None
    taken = len(model.tokenizer.encode(rules)) + 1
    longest = int(data.train.lengths.max())
    assert longest < taken + longest < data.max_length
    assert taken + longest - 8 < data.replay.lengths.max() <= taken + longest
    with pytest.raises(ContextTooLongError, match="raise max_length"):
        data_of(model, replay=[TALKS[0], pinned], max_length=taken)


def targets(model: ConversationModel, loss_on: Any, talks: Any = TALKS) -> int:
    return encode_windows(map(Conversation.of, talks), model.tokenizer, max_length=128, loss_on=loss_on).tokens


@pytest.mark.parametrize(
    ("options", "loss_on"), [({}, "responses"), ({"loss_on": "all"}, "all"), ({"loss_on": "user"}, "user")]
)
def test_targets_of_conversations_are_those_of_the_models_training_unless_others_are_named(
    model: ConversationModel, options: dict[str, Any], loss_on: str
) -> None:
    model.tokenizer = model.tokenizer.with_layout(loss_on="responses")
    talks = [*map(Conversation.of, TALKS)]
    data = data_of(model, talks, talks, **options)

    assert data.valid is not None
    assert data.replay is not None
    assert data.valid.tokens == data.replay.tokens == targets(model, loss_on)


@pytest.mark.parametrize("own", ["Bob", ["Ann", "Bob"]])
def test_where_a_models_own_speakers_do_not_speak_all_turns_are_targets(
    model: ConversationModel, own: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model.tokenizer = model.tokenizer.with_layout(loss_on=own)
    named = [Conversation(talk, [("Cem", "Bob")[number % 2] for number in range(len(talk))]) for talk in TALKS]
    data = data_of(model, named, [*map(Conversation.of, TALKS)])

    assert data.valid is not None
    assert data.replay is not None
    assert data.valid.tokens == targets(model, "all")
    assert data.replay.tokens == targets(model, "Bob", named) < targets(model, "all", named)
    [message] = [text for text in caplog.messages if "none of its speakers" in text]
    assert message.startswith("validation data: none of its speakers is ")
    with pytest.raises(ConversationError, match="loss_on='Zoe' supervises"):
        data_of(model, valid=TALKS, loss_on="Zoe")


def test_only_kto_reads_mismatched_windows(model: ConversationModel) -> None:
    data = data_of(model, objective="dpo")

    assert data.examples.mismatched is None
    assert data.left_out() == "2 of 3 judgements have only one response"
    assert "mismatched" not in data.collate(model.tokenizer, [data.dataset(0)[0]])


def test_what_a_run_depends_on_is_more_than_its_windows(model: ConversationModel) -> None:
    assert data_of(model).identity() == data_of(model).identity()
    assert data_of(model).identity() != data_of(model, replay=TALKS[:3]).identity()
