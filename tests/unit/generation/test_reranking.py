"""Ordering several responses: the scores are the model's own, whatever was done to draw the responses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_templates import save_chat_model
from scripted import enliven

from convmodel import Conversation, ConversationModel
from convmodel.errors import ConfigError
from convmodel.generation.options import read_options
from convmodel.generation.reranking import repeated_share
from convmodel.hf_model.reward_features import reward_features
from convmodel.hf_model.reward_model import RewardModel, attach_reward_model
from convmodel.layout.sequence import IGNORED, Window

CONTEXT = ["Hello there", "How are you"]
DRAWN = {"do_sample": True, "temperature": 1.5, "seed": 3, "num_return_sequences": 6}


@pytest.fixture(scope="module")
def gpt2(gpt2_folder: Path) -> ConversationModel:
    model = ConversationModel.from_pretrained(gpt2_folder, device="cpu")
    enliven(model.hf_model, 3.0)
    with torch.no_grad():  # so that some responses end by themselves
        model.hf_model.transformer.ln_f.bias.add_(
            model.hf_model.transformer.wte.weight[model.tokenizer.sep_token_id] * 30
        )
    return model


@pytest.fixture(scope="module")
def llama(bytelevel_folder: Path) -> ConversationModel:
    model = ConversationModel.from_pretrained(bytelevel_folder, device="cpu")
    enliven(model.hf_model, 5.0)
    return model


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> ConversationModel:
    fixture: ConversationModel = request.getfixturevalue(request.param)
    return fixture


def by_hand(model: ConversationModel, ids: list[int], begin: int, types: list[int]) -> float:
    """Sums ln p of the ids from a position on, by one forward pass over all."""
    inputs = {"input_ids": torch.tensor([ids])}
    if model.tokenizer.layout.use_token_types:
        inputs["token_type_ids"] = torch.tensor([types])
    with torch.no_grad():
        found = model.hf_model(**inputs).logits[0].double().log_softmax(-1)
    return sum(float(found[place - 1, ids[place]]) for place in range(begin, len(ids)))


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"repetition_penalty": 1.5}, {"max_new_tokens": 3}], ids=str)
@pytest.mark.parametrize("rerank", ["likelihood", "mmi"])
def test_scores_are_the_models_own(model: ConversationModel, rerank: str, options: dict[str, Any]) -> None:
    """Ids of the responses are scored, not their text, which may have other ids."""
    asked = {"max_new_tokens": 8} | DRAWN | options
    weight = {"mmi_lambda": 0.7} if rerank == "mmi" else {}
    output = model.generate(CONTEXT, rerank=rerank, **weight, **asked)

    begin, pad = output.prompt_tokens, model.tokenizer.pad_token_id
    prompt_types = model.tokenizer(CONTEXT).get("token_type_ids", [0] * begin)
    expected = []
    for ids, length, reason in zip(
        output.raw.sequences.tolist(), output.response_tokens, output.finish_reasons, strict=True
    ):
        end = begin + length + (reason == "stop")
        assert all(index == pad for index in ids[end:])
        score = by_hand(model, ids[:end], begin, [*prompt_types, *[prompt_types[-1]] * (end - begin)])
        if rerank == "mmi":
            alone = [*model.tokenizer.prompt_to_continue("").input_ids, *ids[begin:end]]
            score -= 0.7 * by_hand(model, alone, len(alone) - (end - begin), [0] * len(alone))
        expected.append(score / (end - begin))
    assert output.scores == pytest.approx(expected, abs=1e-4)
    assert output.scores == sorted(output.scores, reverse=True)
    assert len(set(output.responses)) > 3


def test_the_order_changes_and_nothing_else(model: ConversationModel) -> None:
    plain = model.generate(CONTEXT, max_new_tokens=8, **DRAWN)
    ordered = model.generate(CONTEXT, max_new_tokens=8, rerank="likelihood", **DRAWN)

    assert sorted(ordered.responses) == sorted(plain.responses)
    assert ordered.responses != plain.responses
    assert plain.scores is None
    for text, count, reason in zip(ordered.responses, ordered.response_tokens, ordered.finish_reasons, strict=True):
        place = plain.responses.index(text)
        assert (plain.response_tokens[place], plain.finish_reasons[place]) == (count, reason)


def test_some_responses_end_by_themselves(gpt2: ConversationModel) -> None:
    """Else the separator that closes a response is not tested above."""
    assert set(gpt2.generate(CONTEXT, max_new_tokens=8, **DRAWN).finish_reasons) == {"stop", "length"}


def test_without_the_rest_mmi_is_likelihood(model: ConversationModel) -> None:
    one = model.generate(CONTEXT, max_new_tokens=8, rerank="likelihood", **DRAWN)
    other = model.generate(CONTEXT, max_new_tokens=8, rerank="mmi", mmi_lambda=0, **DRAWN)

    assert one == other


def test_what_fits_anything_comes_later(gpt2: ConversationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two responses that the context makes equally likely, mmi prefers the one that is rarer without it."""
    outputs = [gpt2.generate(CONTEXT, max_new_tokens=8, rerank=name, **DRAWN) for name in ("likelihood", "mmi")]

    assert sorted(outputs[0].responses) == sorted(outputs[1].responses)
    assert outputs[0].responses != outputs[1].responses


def test_a_stop_string_is_no_token_of_the_response(gpt2: ConversationModel) -> None:
    plain = gpt2.generate(CONTEXT, max_new_tokens=8, **DRAWN)
    stop = next(text for text in plain.responses if len(text) > 6)[3:5]

    output = gpt2.generate(CONTEXT, max_new_tokens=8, rerank="likelihood", stop_strings=[stop], **DRAWN)

    assert all(stop not in text for text in output.responses)
    assert output.scores is not None
    assert all(score < 0 for score in output.scores)


@pytest.mark.slow
@pytest.mark.parametrize("rerank", ["likelihood", "mmi"])
def test_many_contexts_are_ranked_as_one(model: ConversationModel, rerank: str) -> None:
    contexts = [CONTEXT, ["Hi"], ["One", "Two", "Three"]]
    outputs = model.generate_batch(contexts, max_new_tokens=8, rerank=rerank, **DRAWN)

    for number, (context, output) in enumerate(zip(contexts, outputs, strict=True)):
        alone = model.generate(context, max_new_tokens=8, rerank=rerank, **DRAWN | {"seed": 3 + 6 * number})
        assert output.responses == alone.responses
        assert output.scores == pytest.approx(alone.scores, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"rerank": "best"}, "rerank is 'best': it must be likelihood or mmi"),
        ({"rerank": "mmi", "mmi_lambda": -1}, "mmi_lambda"),
        ({"rerank": "mmi", "num_beams": 2}, "no beams"),
        ({"rerank": "mmi", "num_return_sequences": 2}, "do_sample=True"),
    ],
)
def test_what_makes_no_sense_is_refused(gpt2: ConversationModel, options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        gpt2.generate(CONTEXT, **options)


def test_one_response_cannot_be_streamed_and_ranked(gpt2: ConversationModel) -> None:
    with pytest.raises(ConfigError, match="generate"):
        gpt2.stream(Conversation(CONTEXT), rerank="mmi", do_sample=True)


# Candidates: the best of several responses is returned.

CANDIDATES = {"do_sample": True, "temperature": 1.5, "seed": 3, "candidates": 6, "max_new_tokens": 8}


def best_of(model: ConversationModel, **options: Any) -> str:
    """The best of the same candidates, drawn as several responses."""
    drawn = {"do_sample": True, "temperature": 1.5, "seed": 3 * 6, "num_return_sequences": 6, "max_new_tokens": 8}
    return model.generate(CONTEXT, **drawn | {"rerank": "mmi"} | options).responses[0]


@pytest.mark.parametrize("options", [{}, {"rerank": "likelihood"}, {"repeat_weight": 5.0}, {"stop_strings": ["e"]}])
def test_the_best_candidate_is_returned_and_streamed(model: ConversationModel, options: dict[str, Any]) -> None:
    output = model.generate(CONTEXT, **CANDIDATES, **options)
    chunks = [*model.stream(CONTEXT, **CANDIDATES, **options)]

    assert output.responses == [best_of(model, **options)]
    assert output.scores is not None
    assert len(output.scores) == len(output.finish_reasons) == len(output.raw.sequences) == 1
    assert "".join(chunk.text for chunk in chunks) == output.responses[0]
    assert chunks[-1].finish_reason == output.finish_reasons[0]
    assert sum(len(chunk.token_ids) for chunk in chunks) == output.response_tokens[0]
    batch = model.generate_batch([["Hi"], CONTEXT], **CANDIDATES | {"seed": 2}, **options)
    assert batch[1].responses == output.responses


def test_other_seeds_have_other_candidates(gpt2: ConversationModel) -> None:
    seeds = [read_options(gpt2.hf_model, gpt2.tokenizer, CANDIDATES | {"seed": seed}).seeds for seed in (3, 4, 5)]
    assert len({seed for each in seeds for seed in each}) == 3 * 6
    largest = read_options(gpt2.hf_model, gpt2.tokenizer, CANDIDATES | {"seed": 2**63 - 1}).seeds
    assert len({*largest}) == 6
    assert all(isinstance(seed, int) and 0 <= seed < 2**63 for seed in largest)
    assert read_options(gpt2.hf_model, gpt2.tokenizer, CANDIDATES | {"seed": None}).seeds == [None] * 6


def test_repetition_counts_against_a_response(model: ConversationModel) -> None:
    drawn = DRAWN | {"max_new_tokens": 8, "rerank": "mmi"}
    plain = model.generate(CONTEXT, **drawn)
    weighted = model.generate(CONTEXT, **drawn, repeat_weight=3.0)
    assert plain.scores is not None
    assert weighted.scores is not None
    ids = model.tokenizer(CONTEXT)["input_ids"]
    shares = {}
    for sequence, count in zip(plain.raw.sequences.tolist(), plain.response_tokens, strict=True):
        response = sequence[len(ids) :][:count]
        shares[tuple(response)] = repeated_share(ids, response)
    rows = weighted.raw.sequences.tolist()
    expected = dict(zip(map(tuple, plain.raw.sequences.tolist()), plain.scores, strict=True))
    for row, count, score in zip(rows, weighted.response_tokens, weighted.scores, strict=True):
        share = shares[tuple(row[len(ids) :][:count])]
        assert score == pytest.approx(expected[tuple(row)] - 3.0 * share, abs=1e-5)
    assert weighted.scores == sorted(weighted.scores, reverse=True)


@pytest.fixture
def rewarded(model: ConversationModel) -> Iterator[RewardModel]:
    """A reward model with random weights, to which the last turn of the context is as likable as not."""
    [window] = model.tokenizer.windows(Conversation(CONTEXT), max_length=64, loss_on="last")
    features = reward_features(model.hf_model, model.tokenizer, [window]).double()[0]
    weights = torch.randn(len(features), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    reward = RewardModel(weights, -float(features @ weights), "", liked=1, disliked=1, auc=None)
    attach_reward_model(model.hf_model, reward)
    yield reward
    attach_reward_model(model.hf_model, None)


@pytest.mark.parametrize("stop", [{}, {"stop_strings": ["e"]}], ids=["ends", "stop string"])
def test_the_reward_model_scores_the_response_after_its_prompt(
    model: ConversationModel, rewarded: RewardModel, stop: dict[str, Any]
) -> None:
    """What it reads of a response that ended is what it read of judged ones; ids count, not the text."""
    drawn = DRAWN | {"max_new_tokens": 8, "rerank": "likelihood"} | stop
    plain, weighted = model.generate(CONTEXT, **drawn), model.generate(CONTEXT, **drawn, reward_weight=2.0)
    assert plain.scores is not None
    assert weighted.scores is not None
    begin = plain.prompt_tokens
    types = model.tokenizer(CONTEXT).get("token_type_ids", [0] * begin)
    before = {tuple(ids): score for ids, score in zip(plain.raw.sequences.tolist(), plain.scores, strict=True)}
    whole = [model.tokenizer.end_token_id]
    for ids, count, score in zip(
        weighted.raw.sequences.tolist(), weighted.response_tokens, weighted.scores, strict=True
    ):
        response = [*ids[begin : begin + count], *(whole if not stop and ids[begin + count :][:1] == whole else [])]
        window = Window([*ids[:begin], *response], [*types, *types[-1:] * len(response)], [IGNORED] * begin + response)
        [liked] = rewarded.log_probabilities(model.hf_model, model.tokenizer, [window])
        assert score == pytest.approx(before[tuple(ids)] + 2.0 * liked, abs=1e-3)
    assert weighted.scores == sorted(weighted.scores, reverse=True)


def test_a_closed_response_is_read_as_a_judged_one(model: ConversationModel, tmp_path: Path) -> None:
    save_chat_model(tmp_path)
    for each in (model, ConversationModel.from_pretrained(tmp_path, device="cpu")):
        turns = Conversation([*CONTEXT, "Hello"])
        [judged] = each.tokenizer.windows(
            turns.with_turn("I see", each.tokenizer.responder(turns)), max_length=64, loss_on="last", context_share=1.0
        )
        last = max(place for place, label in enumerate(judged.labels) if label != IGNORED)
        ids = [*each.tokenizer.prompt(turns).input_ids, *each.tokenizer.encode("I see"), each.tokenizer.end_token_id]
        assert judged.input_ids[: last + 1] == ids


def test_candidates_are_ordered_by_the_reward_model_if_there_is_one(
    model: ConversationModel, rewarded: RewardModel
) -> None:
    asked = CANDIDATES | {"max_new_tokens": 8}
    assert model.generate(CONTEXT, **asked).responses == model.generate(CONTEXT, **asked, reward_weight=1).responses
    chosen = [
        [model.generate(CONTEXT, **asked | {"seed": seed}, reward_weight=weight).responses[0] for seed in range(6)]
        for weight in (0, 100)
    ]
    assert chosen[0] != chosen[1]
    assert model.session(do_sample=True, candidates=4).settings["reward_weight"] == 1


def test_the_share_that_repeats() -> None:
    assert repeated_share([1, 2, 3], [3, 1]) == 0
    assert repeated_share([1, 2, 3], [1, 2, 3]) == 1
    assert repeated_share([], [5, 5, 5, 5]) == pytest.approx(2 / 3)
    assert repeated_share([1, 2], [1]) == repeated_share([1, 2], []) == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"candidates": 4}, "candidates are sampled: give do_sample=True"),
        ({"candidates": 4, "do_sample": True, "num_beams": 2}, "no beams"),
        ({"candidates": 4, "do_sample": True, "num_return_sequences": 2}, "give one"),
        ({"candidates": 0, "do_sample": True}, "candidates is 0"),
        ({"candidates": 4, "do_sample": True, "use_cache": False}, "rerank orders sampled responses"),
        ({"repeat_weight": 1.0, "do_sample": True}, "repeat_weight changes nothing without"),
        ({"candidates": 4, "do_sample": True, "repeat_weight": -1}, "repeat_weight is -1"),
        ({"reward_weight": 1.0, "do_sample": True}, "reward_weight changes nothing without"),
        ({"candidates": 4, "do_sample": True, "reward_weight": 1.0}, "`convmodel reward` makes one"),
        ({"mmi_lambda": 0.2, "do_sample": True}, "mmi_lambda changes nothing without candidates"),
        ({"candidates": 4, "do_sample": True, "rerank": "likelihood", "mmi_lambda": 0.0}, "mmi_lambda changes nothing"),
    ],
)
def test_candidates_that_make_no_sense_are_refused(gpt2: ConversationModel, options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        gpt2.generate(CONTEXT, **options)
    with pytest.raises(ConfigError, match=word if "num_" not in word else "candidates|streamed"):
        gpt2.stream(CONTEXT, **options)


def test_one_candidate_is_the_response(gpt2: ConversationModel) -> None:
    plain = {name: value for name, value in CANDIDATES.items() if name != "candidates"}
    assert gpt2.generate(CONTEXT, **plain).responses == gpt2.generate(CONTEXT, **plain, candidates=1).responses


def test_a_stream_of_candidates_can_be_closed(gpt2: ConversationModel) -> None:
    stream = gpt2.stream(CONTEXT, **CANDIDATES)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert gpt2.generate(CONTEXT, **CANDIDATES).responses == [best_of(gpt2)]
