"""Batching: padding that never matters, every window once, and an account of what was left out."""

import pytest
import torch

from convmodel import Conversation, ConversationModel, ConversationTokenizer
from convmodel.data.windows.collate import WindowDataset, by_length, pack, pad
from convmodel.data.windows.encoding import CHUNK, encode_windows
from convmodel.errors import ConfigError, ContextTooLongError, ConversationError
from convmodel.layout.sequence import IGNORED, Window
from convmodel.training.doctor.checks import check_cut

LONG = Window([5, 7, 8, 5], [0, 0, 0, 1], [IGNORED, 7, 8, 5])
SHORT = Window([5, 9], [1, 1], [IGNORED, 9])
PINNED_TOO_LONG = Conversation(["a long persona " * 60, "Hi"], ["persona", "user"], pinned=1)


def windows_of_lengths(*lengths: int) -> list[Window]:
    return [Window([number] * length, [0] * length, [IGNORED] * length) for number, length in enumerate(lengths)]


def test_padding_is_masked_and_never_a_label() -> None:
    batch = pad([LONG, SHORT], pad_id=3, use_token_types=True)

    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 7, 8, 5], [5, 9, 3, 3]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]],
        "labels": [[-100, 7, 8, 5], [-100, 9, -100, -100]],
        "token_type_ids": [[0, 0, 0, 1], [1, 1, 0, 0]],
    }
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_a_model_without_token_types_is_given_none() -> None:
    assert pad([LONG], pad_id=0, use_token_types=False).keys() == {"input_ids", "attention_mask", "labels"}


def test_a_label_that_equals_the_padding_stays_a_target() -> None:
    batch = pad([LONG, SHORT], pad_id=5, use_token_types=False)

    assert batch["labels"].tolist() == [[-100, 7, 8, 5], [-100, 9, -100, -100]]


@pytest.mark.parametrize("folder", ["unigram_folder", "bytelevel_folder"])
def test_what_fills_the_padding_does_not_change_the_logits(folder: str, request: pytest.FixtureRequest) -> None:
    model = ConversationModel.from_pretrained(request.getfixturevalue(folder), device="cpu")
    types = model.tokenizer.layout.use_token_types
    conversations = [["Good morning!"], ["Did you sleep well?", "Not really, the neighbours had a party.", "Oh"]]
    windows = encode_windows(map(Conversation.of, conversations), model.tokenizer, max_length=64, loss_on="all").windows

    def logits(batch: list[Window], pad_id: int) -> list[torch.Tensor]:
        inputs = pad(batch, pad_id, use_token_types=types)
        inputs.pop("labels")
        with torch.no_grad():
            rows = model.hf_model(**inputs, use_cache=False).logits
        return [row[mask.bool()] for row, mask in zip(rows, inputs["attention_mask"], strict=True)]

    alone = [row for window in windows for row in logits([window], 0)]
    for pad_id in (0, 7, model.tokenizer.sep_token_id):
        together = logits(windows, pad_id)
        for row, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_batches_by_length_hold_every_window_once_and_the_longest_first(batch_size: int) -> None:
    windows = windows_of_lengths(3, 9, 1, 9, 4, 2, 8)

    batches = list(by_length(windows, batch_size))

    lengths = [len(window.input_ids) for batch in batches for window in batch]
    assert sorted(window.input_ids[0] for batch in batches for window in batch) == list(range(7))
    assert lengths == sorted(lengths, reverse=True)
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_a_set_of_windows_counts_what_it_supervises(gpt2_tokenizer: ConversationTokenizer) -> None:
    conversations = [Conversation(["Hello", "How are you"]), Conversation(["Hello"])]

    data = encode_windows(conversations, gpt2_tokenizer, max_length=64, loss_on="all")

    assert (data.summary.conversations, len(data.windows), data.tokens) == (2, 2, 6 + 2)
    assert (data.summary.unsupervised, data.summary.cut, data.summary.left_out()) == (0, 0, "")


def test_conversations_without_a_supervised_turn_are_counted(gpt2_tokenizer: ConversationTokenizer) -> None:
    conversations = [Conversation(["Hello"])] * 1200 + [Conversation(["Hello", "How are you"])]

    data = encode_windows(conversations, gpt2_tokenizer, max_length=64, loss_on="responses")

    assert (data.summary.conversations, data.summary.unsupervised, len(data.windows)) == (1201, 1200, 1)
    assert data.summary.left_out() == "1,200 of 1,201 conversations have no supervised turn"


def test_tokens_cut_off_long_turns_are_counted(gpt2_tokenizer: ConversationTokenizer) -> None:
    conversations = [Conversation(["Hello" + " you" * 1009]), Conversation(["Hello"] * 2)]

    data = encode_windows(conversations, gpt2_tokenizer, max_length=8, loss_on="all")

    # A window of 8 holds a separator and 7 of the 1,010 tokens, and no closing separator, since the text goes on;
    # 1,003 tokens and that separator are cut.
    assert [window.supervised_tokens for window in data.windows] == [7, 4]
    assert (data.summary.cut, data.summary.left_out()) == (1004, "1,004 tokens of turns longer than a window were cut")


def test_both_accounts_make_one_sentence(gpt2_tokenizer: ConversationTokenizer) -> None:
    conversations = [Conversation(["Hello"]), Conversation(["Hello", " you" * 20])]

    data = encode_windows(conversations, gpt2_tokenizer, max_length=8, loss_on="responses")

    unsupervised, cut = data.summary.left_out().split("; ")
    assert unsupervised == "1 of 2 conversations have no supervised turn"
    assert cut.endswith("tokens of turns longer than a window were cut")


def test_contexts_that_do_not_fit_are_counted_and_named(gpt2_tokenizer: ConversationTokenizer) -> None:
    long = [Conversation([" you" * (20 + number), "It did come"]) for number in range(12)]
    full = Conversation(["Hello", " you" * 14])
    short = [Conversation(["Hello", "It did come"])] * 12

    data = encode_windows([*long, full, *short], gpt2_tokenizer, max_length=16, loss_on="responses")

    assert (data.summary.shortened, data.summary.bare, data.summary.cut) == (12, 1, 0)
    assert data.summary.left_out() == (
        "12 supervised turns have only the end of the turn before as context, since both do not fit in a window; "
        "1 supervised turns have no context, since they fill a window"
    )
    assert {len(window.input_ids) for window in data.windows[:13]} == {16}
    assert data.windows[0].types[0] == 0
    check = check_cut(data.summary)
    assert (check.status, check.finding) == ("warn", data.summary.left_out())


def test_a_set_without_any_supervised_turn_is_refused(gpt2_tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConversationError, match="none of 2 conversations has a turn that loss_on='Bob' supervises"):
        encode_windows([Conversation(["Hi"])] * 2, gpt2_tokenizer, max_length=64, loss_on="Bob")


def test_a_loss_on_that_names_nobody_lists_who_speaks(gpt2_tokenizer: ConversationTokenizer) -> None:
    conversations = [Conversation(["Be kind", "Hi", "Oh"], ["system", "user", "assistant"], pinned=1)] * CHUNK
    message = r"supervises: nobody is called gpt; there are system \(501\), user"

    with pytest.raises(ConversationError, match=message):
        encode_windows(
            [*conversations, Conversation(["a", "b"], ["system", "user"])], gpt2_tokenizer, max_length=64, loss_on="gpt"
        )


def test_a_loss_on_that_is_no_name_is_refused(gpt2_tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConfigError, match=r"loss_on is \[\]: use all, responses, last, or speakers' names"):
        encode_windows([Conversation(["Hi"])], gpt2_tokenizer, max_length=64, loss_on=[])


@pytest.mark.parametrize(("name", "shown"), [(None, "conversation 2: "), ("talk-7", "conversation talk-7: ")])
def test_a_conversation_that_cannot_be_laid_out_is_named(
    bytelevel_tokenizer: ConversationTokenizer, name: str | None, shown: str
) -> None:
    three = Conversation(["a", "b", "c"], ["Ann", "Bob", "Cem"], id=name)

    with pytest.raises(ConversationError, match=f"^{shown}3 speakers"):
        encode_windows([Conversation(["Hi"]), three], bytelevel_tokenizer, max_length=64, loss_on="all")


def test_a_conversation_whose_pinned_turns_leave_no_room_is_named(gpt2_tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ContextTooLongError, match=r"^conversation 2: the pinned turns take"):
        encode_windows([Conversation(["Hi"]), PINNED_TOO_LONG], gpt2_tokenizer, max_length=64, loss_on="all")


def test_a_dataset_gives_its_windows_by_index() -> None:
    dataset = WindowDataset([LONG, SHORT])

    assert len(dataset) == 2
    assert dataset[1] == [SHORT]
    assert dataset[(1, 0)] == [SHORT, LONG]


WEIGHTED = Window([5, 6, 5, 7], [0, 0, 1, 1], [IGNORED, 6, 5, 7], weights=[0.0, 0.5, 0.5, 3.0])


def test_weights_come_along_if_a_window_has_any() -> None:
    batch = pad([SHORT, WEIGHTED], pad_id=3, use_token_types=True)

    assert batch["weights"].dtype == torch.float32
    assert batch["weights"].tolist() == [[0, 1, 0, 0], [0, 0.5, 0.5, 3]]
    assert ((batch["weights"] > 0) == (batch["labels"] != IGNORED)).all()
    assert "weights" not in pad([SHORT, LONG], pad_id=3, use_token_types=True)


def test_packed_windows_keep_their_weights() -> None:
    opening = Window([8, 9], [0, 0], [8, 9], weights=[2.0, 2.0])  # its first token is a target, but of no window here
    batch = pack([[LONG, WEIGHTED], [SHORT, opening]], use_token_types=False)

    assert batch["weights"].dtype == torch.float32
    assert batch["labels"].tolist() == [[-100, 7, 8, 5, -100, 6, 5, 7], [-100, 9, -100, 9, -100, -100, -100, -100]]
    assert batch["weights"].tolist() == [[0, 1, 1, 1, 0, 0.5, 0.5, 3], [0, 1, 0, 2, 0, 0, 0, 0]]
    assert "weights" not in pack([[LONG, SHORT], [LONG]], use_token_types=False)


def test_windows_of_rows_without_weights_weigh_1_beside_others() -> None:
    batch = pack([[SHORT], [WEIGHTED]], use_token_types=False)

    assert batch["weights"].tolist() == [[0, 1, 0, 0], [0, 0.5, 0.5, 3]]


def test_each_window_knows_its_conversation(bytelevel_tokenizer: ConversationTokenizer) -> None:
    three = Conversation(["a", "b", "c"], ["Ann", "Bob", "Cem"])
    long = Conversation(["Hello " * 6, "Yes " * 6, "Well " * 6])
    talks = [Conversation(["Hi"]), three, long, Conversation(["Hi"], id="talk-7")]

    data = encode_windows(talks, bytelevel_tokenizer, max_length=32, loss_on="all", on_error="skip")

    assert len(data.windows) > 4
    sources = ["conversation 1", *["conversation 3"] * (len(data.windows) - 2), "talk-7"]
    assert [window.source for window in data.windows] == sources
    assert (data.summary.skipped, data.summary.unsupervised) == (1, 0)


def test_turns_of_weight_0_are_not_counted(gpt2_tokenizer: ConversationTokenizer) -> None:
    talks = [
        Conversation(["Hello", "How are you"], weights=[0, 2]),
        Conversation(["Hello"], weights=[0]),
        Conversation(["Hello"]),
    ]

    data = encode_windows(talks, gpt2_tokenizer, max_length=64, loss_on="all")

    assert [window.weights for window in data.windows] == [[0, 0, 0, 2, 2, 2, 2], None]
    assert (data.tokens, data.summary.unsupervised, len(data.windows)) == (4 + 2, 1, 2)
