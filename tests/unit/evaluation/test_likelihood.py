"""Likelihood: ratios of two sums, so that batch size, padding and order do not matter; each compared with a loop."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from convmodel import Conversation, ConversationModel
from convmodel.data.windows.encoding import encode_windows
from convmodel.errors import ConfigError, ContextTooLongError, ConversationError
from convmodel.evaluation import likelihood
from convmodel.evaluation.likelihood import EvaluationResult, evaluate_windows
from convmodel.evaluation.processes import Processes
from convmodel.hf_model.log_probs import measure_targets
from convmodel.hf_model.waiting import Waiting
from convmodel.layout.sequence import IGNORED

TALKS = [
    ["Good morning! Did you sleep well?", "Not really, the neighbours had a party.", "Oh"],
    ["Yes"],
    ["今日はとても暑いですね。", "そうですね、海に行きたいです。"],
    ["Can I ask you something?", "Of course, what would you like to know?", "When does the next train leave?", "At 10"],
    ["Hi", "Hello"],
    ["Thank you very much, see you soon. 🙂"],
    ["My sister works in Osaka, she's a nurse.", "No"],
    ["One", "Two", "Three", "Four"],
]


@pytest.fixture
def load(request: pytest.FixtureRequest) -> Callable[[str], ConversationModel]:
    def load(folder: str) -> ConversationModel:
        return ConversationModel.from_pretrained(request.getfixturevalue(folder), device="cpu")

    return load


@pytest.fixture(params=["unigram_folder", "bytelevel_folder"])
def model(request: pytest.FixtureRequest, load: Callable[[str], ConversationModel]) -> ConversationModel:
    """A GPT-2 with token types, and a Llama, whose pad token and token types are missing."""
    return load(request.param)


@dataclass
class Token:
    """One target: its -ln p in float64, whose turn it belongs to, and whether it closes that turn."""

    nats: float
    turn: int
    closes: bool


def by_hand(model: ConversationModel, talk: list[str]) -> list[Token]:
    """The targets of one conversation, laid out turn by turn."""
    separator = model.tokenizer.sep_token_id
    ids = model.tokenizer.prompt_to_continue("").input_ids  # what comes before the first turn
    types, owners, begin = [0] * len(ids), [0] * len(ids), len(ids)
    for number, turn in enumerate(talk):
        tokens = model.tokenizer.encode(turn)
        ids += [*tokens, separator]
        types += [number % 2] * len(tokens) + [(number + 1) % 2]
        owners += [number] * (len(tokens) + 1)
    inputs = {"input_ids": torch.tensor([ids])}
    if model.tokenizer.layout.use_token_types:
        inputs["token_type_ids"] = torch.tensor([types])
    with torch.no_grad():
        logs = copy.deepcopy(model.hf_model).double()(**inputs).logits[0].log_softmax(-1)
    return [
        Token(-logs[position - 1, ids[position]].item(), owners[position], ids[position] == separator)
        for position in range(begin, len(ids))
    ]


def test_a_uniform_model_has_a_perplexity_of_its_vocabulary_size(model: ConversationModel) -> None:
    head = model.hf_model.get_output_embeddings().weight
    with torch.no_grad():
        head.zero_()

    result = model.evaluate(TALKS)

    text_tokens = sum(len(model.tokenizer.encode(turn)) for talk in TALKS for turn in talk)
    assert result.perplexity == pytest.approx(len(head), rel=1e-5)
    assert result.bits_per_byte == pytest.approx(math.log2(len(head)) * text_tokens / result.text_bytes, rel=1e-5)


def test_loss_perplexity_and_bits_per_byte_are_the_hand_made_ones(model: ConversationModel) -> None:
    tokens = [token for talk in TALKS for token in by_hand(model, talk)]
    text_bytes = sum(len(turn.encode()) for talk in TALKS for turn in talk)

    result = model.evaluate(TALKS)

    loss = sum(token.nats for token in tokens) / len(tokens)
    bits = sum(token.nats for token in tokens if not token.closes) / math.log(2)
    assert result.loss == pytest.approx(loss, rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(loss), rel=1e-5)
    assert result.bits_per_byte == pytest.approx(bits / text_bytes, rel=1e-6)
    assert (result.tokens, result.text_bytes) == (len(tokens), text_bytes)
    assert (result.conversations, result.windows, result.unsupervised, result.cut) == (8, 8, 0, 0)


def test_separators_count_in_the_loss_but_not_in_bits_per_byte(model: ConversationModel) -> None:
    before = model.evaluate(TALKS)
    head = model.hf_model.get_output_embeddings()
    hook = head.register_forward_hook(lambda *arguments: arguments[2].index_fill_(2, separator, -1e4))
    separator = torch.tensor([model.tokenizer.sep_token_id])

    after = model.evaluate(TALKS)

    hook.remove()
    assert after.loss > before.loss + 100
    assert after.bits_per_byte < before.bits_per_byte  # the separator's share went to the others


@pytest.mark.parametrize(
    ("loss_on", "chosen"),
    [
        ("all", lambda turn, turns: True),
        ("responses", lambda turn, turns: turn % 2 == 1),
        ("last", lambda turn, turns: turn == turns - 1),
        ("user", lambda turn, turns: turn % 2 == 0),
        (["assistant"], lambda turn, turns: turn % 2 == 1),
    ],
    ids=["all", "responses", "last", "one name", "names"],
)
def test_loss_on_measures_the_chosen_turns_and_their_closing_separators(
    model: ConversationModel, loss_on: str | list[str], chosen: Callable[[int, int], bool]
) -> None:
    tokens = [token for talk in TALKS for token in by_hand(model, talk) if chosen(token.turn, len(talk))]
    chosen_turns = [turn for talk in TALKS for number, turn in enumerate(talk) if chosen(number, len(talk))]

    result = model.evaluate(TALKS, loss_on=loss_on)

    assert result.tokens == len(tokens)
    assert result.loss == pytest.approx(sum(token.nats for token in tokens) / len(tokens), rel=1e-6)
    assert result.text_bytes == sum(len(turn.encode()) for turn in chosen_turns)


def test_evaluation_masks_what_training_masked(model: ConversationModel) -> None:
    expected = model.evaluate(TALKS, loss_on="responses", max_length=48)

    # So small a rate that the weights do not change.
    result = model.fit(TALKS, TALKS, loss_on="responses", max_length=48, max_steps=1, learning_rate=1e-30)

    evaluated = model.evaluate(TALKS)
    assert result.validation is not None
    assert result.validation.loss == pytest.approx(expected.loss, rel=1e-6)
    assert evaluated.loss == pytest.approx(expected.loss, rel=1e-6)
    assert evaluated.tokens == result.validation.tokens == expected.tokens < model.evaluate(TALKS, loss_on="all").tokens


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_the_batch_size_does_not_matter(model: ConversationModel, batch_size: int) -> None:
    expected = model.evaluate(TALKS, batch_size=3)

    result = model.evaluate(TALKS, batch_size=batch_size)

    assert result.to_dict() == pytest.approx(expected.to_dict(), rel=1e-6)


def test_the_order_does_not_matter(model: ConversationModel) -> None:
    assert model.evaluate(TALKS[::-1]).to_dict() == pytest.approx(model.evaluate(TALKS).to_dict(), rel=1e-6)


def test_padding_does_not_matter(model: ConversationModel) -> None:
    windows = encode_windows(map(Conversation.of, TALKS), model.tokenizer, max_length=128, loss_on="all").windows

    together, labels = measure_targets(model.hf_model, model.tokenizer, windows)
    alone = [measure_targets(model.hf_model, model.tokenizer, [window])[0] for window in windows]

    expected = torch.stack([nats.sum() for nats in alone])
    torch.testing.assert_close(together.sum(dim=1), expected, rtol=1e-6, atol=1e-6)
    assert together.dtype == torch.float64
    assert (together[labels == -100] == 0).all()


def test_the_padding_side_does_not_matter(model: ConversationModel) -> None:
    """Ours is on the right; models are also given windows padded on the left, with their positions."""
    windows = encode_windows(map(Conversation.of, TALKS), model.tokenizer, max_length=128, loss_on="all").windows
    right, _ = measure_targets(model.hf_model, model.tokenizer, windows)
    longest = max(len(window.input_ids) for window in windows)

    def on_the_left(part: str, value: int) -> torch.Tensor:
        rows = [list(getattr(window, part)) for window in windows]
        return torch.tensor([[value] * (longest - len(row)) + row for row in rows])

    mask = torch.tensor([[i >= longest - len(window.input_ids) for i in range(longest)] for window in windows]).long()
    inputs = {"input_ids": on_the_left("input_ids", 0), "attention_mask": mask}
    inputs |= {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    if model.tokenizer.layout.use_token_types:
        inputs["token_type_ids"] = on_the_left("types", 0)
    with torch.no_grad():
        logits = model.hf_model.eval()(**inputs).logits[:, :-1].double()
    labels = on_the_left("labels", IGNORED)[:, 1:]
    left = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)

    torch.testing.assert_close(left.sum(dim=1), right.sum(dim=1), rtol=1e-6, atol=1e-5)


def test_every_token_counts_once_however_short_the_windows(model: ConversationModel) -> None:
    whole, short = model.evaluate(TALKS), model.evaluate(TALKS, max_length=48)

    assert short.windows > whole.windows
    assert (short.tokens, short.text_bytes, short.cut) == (whole.tokens, whole.text_bytes, 0)


def test_what_does_not_fit_is_told(model: ConversationModel) -> None:
    talks = [*TALKS, ["Thank you very much. " * 60]]

    result = model.evaluate(talks, loss_on="all")

    whole, room = len(model.tokenizer.encode(talks[-1][0])), 128 - len(model.tokenizer.layout.control_ids)
    assert result.cut == whole - room + 1  # and the separator that would have closed the turn
    assert result.tokens == model.evaluate(TALKS).tokens + room
    assert model.evaluate(talks, loss_on="responses").unsupervised == 3


def test_windows_are_reported_as_they_are_done(model: ConversationModel) -> None:
    windows = encode_windows(map(Conversation.of, TALKS), model.tokenizer, max_length=128, loss_on="all")
    done: list[int] = []

    evaluate_windows(model.hf_model, model.tokenizer, windows, batch_size=3, progress=done.append)

    assert done == [3, 3, 2]


@pytest.mark.parametrize(("count", "in_step"), [(2, False), (2, True), (3, True), (5, True)])
def test_processes_that_share_the_windows_have_the_result_of_one(
    model: ConversationModel, count: int, in_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = encode_windows(map(Conversation.of, TALKS), model.tokenizer, max_length=128, loss_on="all")
    parts: list[torch.Tensor] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: parts.append(sums.clone()))
    done: list[list[int]] = []

    def measure(rank: int) -> EvaluationResult:
        done.append([])
        processes = Processes(rank, count, in_step)
        return evaluate_windows(
            model.hf_model, model.tokenizer, windows, batch_size=3, progress=done[-1].append, processes=processes
        )

    for rank in range(count):
        measure(rank)
    assert not (torch.stack(parts).ne(0).sum(0) > 1).any()  # no window counts twice
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.copy_(torch.stack(parts).sum(0)))
    results = [measure(rank) for rank in range(count)]

    assert results == [evaluate_windows(model.hf_model, model.tokenizer, windows, batch_size=3)] * count
    expected = [[3, 2], [3, 2] if in_step else [3]] if count == 2 else [[3], [3], [2], [2], [2]][:count]  # of 3, 3, 2
    assert done == expected * 2


def test_the_threads_look_after_each_batch(model: ConversationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Waiting()
    monkeypatch.setattr(likelihood, "WAITING", waiting)
    looks: list[int] = []
    monkeypatch.setattr(waiting, "look", lambda: looks.append(waiting._blocks))

    model.evaluate(TALKS, batch_size=3)

    assert looks == [1, 1, 1]  # inside a block in which they adapt
    assert not waiting._blocks


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_left_as_it_was_and_dropout_is_off(
    load: Callable[[str], ConversationModel], training: bool
) -> None:
    model = load("unigram_folder")
    expected = model.evaluate(TALKS), model.score(["Hi"], ["Hello"])
    model.hf_model.train(training)

    assert (model.evaluate(TALKS), model.score(["Hi"], ["Hello"])) == expected
    assert model.hf_model.training is training


def test_the_mode_is_left_as_it_was_after_an_error_too(load: Callable[[str], ConversationModel]) -> None:
    model = load("unigram_folder")
    model.hf_model.train()
    hook = model.hf_model.register_forward_pre_hook(lambda *arguments: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        model.evaluate(TALKS)

    hook.remove()
    assert model.hf_model.training


def test_no_gradient_is_kept(model: ConversationModel) -> None:
    model.evaluate(TALKS)
    model.score(["Hi"], ["Hello"])

    assert all(parameter.grad is None for parameter in model.hf_model.parameters())
    assert torch.is_grad_enabled()


def test_a_loss_beyond_all_bounds_has_an_infinite_perplexity(load: Callable[[str], ConversationModel]) -> None:
    model = load("unigram_folder")
    with torch.no_grad():
        model.hf_model.transformer.ln_f.weight.mul_(1e5)

    result = model.evaluate(TALKS)

    assert 700 < result.loss < math.inf
    assert result.perplexity == math.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1"),
        ({"batch_size": -1}, "batch_size is -1: it must be at least 1"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": 4096}, "max_length is 4096, .* 128 positions"),
        ({"loss_on": []}, r"loss_on is \[\]"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    load: Callable[[str], ConversationModel], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load("unigram_folder").evaluate([["Hello " * 200]], **options)


def test_data_without_a_supervised_turn_is_refused(load: Callable[[str], ConversationModel]) -> None:
    with pytest.raises(ConversationError, match="none of 1 conversations has a turn that loss_on='responses'"):
        load("unigram_folder").evaluate([["Hi"]], loss_on="responses")


# Scores


CONTEXT = ["Good morning! Did you sleep well?", "Not really, the neighbours had a party."]
RESPONSES = ["Oh", "Then let's stay at home and read.", "そうですね、海に行きたいです。", "Oh"]


def test_a_score_is_the_sum_of_log_probabilities_closing_separator_included(model: ConversationModel) -> None:
    expected = [
        -sum(token.nats for token in by_hand(model, [*CONTEXT, response]) if token.turn == len(CONTEXT))
        for response in RESPONSES
    ]

    scores = model.score(CONTEXT, RESPONSES)

    assert scores == pytest.approx(expected, rel=1e-6)
    assert scores[0] == pytest.approx(scores[3], rel=1e-6)


def test_responses_are_scored_together_as_alone(model: ConversationModel) -> None:
    many = RESPONSES * 3  # more than one batch

    assert model.score(CONTEXT, many) == pytest.approx([model.score(CONTEXT, [r])[0] for r in many], rel=1e-6)


def test_no_responses_have_no_scores(model: ConversationModel) -> None:
    assert model.score(CONTEXT, []) == []


def test_oldest_whole_turns_are_left_out_of_a_context_that_is_too_long(model: ConversationModel) -> None:
    context = [f"This is what was said in turn {number}, word for word" for number in range(12)]
    encoding = model.tokenizer([*context, "Oh"])
    ids, separator = encoding["input_ids"], model.tokenizer.sep_token_id
    starts = [position for position, index in enumerate(ids) if index == separator]
    bos = starts[0]  # the number of tokens before the first turn
    start = next(position for position in starts if len(ids) - position <= 128 - bos) - bos
    assert start > 0
    inputs = {name: torch.tensor([values[:bos] + values[start + bos :]]) for name, values in encoding.items()}
    with torch.no_grad():
        logs = copy.deepcopy(model.hf_model).double()(**inputs).logits[0].log_softmax(-1)
    span = range(starts[-2] + 1 - start, len(ids) - start)
    expected = sum(logs[position - 1, ids[start + position]].item() for position in span)

    assert model.score(context, ["Oh"]) == pytest.approx([expected], rel=1e-6)


def test_a_pinned_turn_stays_when_older_turns_leave(load: Callable[[str], ConversationModel]) -> None:
    model = load("unigram_folder")
    said = [f"This is what was said in turn {number}" for number in range(20)]
    speakers = [f"{'ab'[number % 2]}" for number in range(20)]

    kind = model.score(Conversation(["Be kind.", *said], ["system", *speakers], pinned=1), ["Oh"])
    rude = model.score(Conversation(["東京に住んでいます", *said], ["system", *speakers], pinned=1), ["Oh"])

    assert kind != pytest.approx(rude, rel=1e-6)


def test_a_response_that_alone_is_too_long_is_refused(model: ConversationModel) -> None:
    with pytest.raises(ContextTooLongError, match=r"response 2 is .* longer than 128 positions"):
        model.score(CONTEXT, ["Oh", "Thank you very much. " * 60])


def test_a_response_fills_the_positions_to_the_last(load: Callable[[str], ConversationModel]) -> None:
    model = load("bytelevel_folder")
    fits = " you" * 125

    assert len(model.tokenizer.encode(fits)) == 128 - len(model.tokenizer.layout.control_ids) - 1
    assert model.score(["Hi"], [fits])[0] < 0
    with pytest.raises(ContextTooLongError):
        model.score(["Hi"], [fits + " you"])


def test_who_responds_changes_the_score_where_types_tell_speakers_apart(
    load: Callable[[str], ConversationModel],
) -> None:
    model = load("unigram_folder")

    [expected] = model.score(CONTEXT, ["Oh"])
    [as_user] = model.score(CONTEXT, ["Oh"], reply_as="user")
    [as_assistant] = model.score(CONTEXT, ["Oh"], reply_as="assistant")

    assert as_user == expected
    assert as_assistant != pytest.approx(expected, rel=1e-6)


def test_who_spoke_last_cannot_respond_without_types(load: Callable[[str], ConversationModel]) -> None:
    with pytest.raises(ConversationError, match="'assistant' spoke last and is to respond"):
        load("bytelevel_folder").score(CONTEXT, ["Oh"], reply_as="assistant")


@pytest.mark.parametrize(
    ("context", "responses", "message"),
    [
        ([], ["Oh"], "empty"),
        ("Hello", ["Oh"], "not one string"),
        (["Hi"], ["Oh", " "], "empty"),
        (["Hi"], [5], "int, not a string"),
        (["Hi"], "Hello", "list of responses, not one string"),
    ],
)
def test_malformed_contexts_and_responses_are_refused(
    load: Callable[[str], ConversationModel], context: list[str], responses: list[str], message: str
) -> None:
    with pytest.raises(ConversationError, match=message):
        load("unigram_folder").score(context, responses)
