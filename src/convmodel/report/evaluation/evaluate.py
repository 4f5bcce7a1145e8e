"""Everything that is measured of one model.

Owns: the settings of an evaluation, and the order of its parts. What each figure is belongs to `evaluation/`.
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.data.reading.problems import OnError
from convmodel.evaluation.bleu_chrf import overlap_figures
from convmodel.evaluation.likelihood import EvaluationResult, result_of
from convmodel.evaluation.likelihood_metrics import (
    by_depth,
    by_speaker,
    calibration,
    likelihood_figures,
    next_turn_figures,
)
from convmodel.evaluation.metric import Figure, ratio
from convmodel.evaluation.response_metrics import Exchange, response_figures
from convmodel.evaluation.turn_statistics import Array, measure_turns
from convmodel.evaluation.verbatim_copies import Copy, copy_figures, find_copies
from convmodel.generation.self_chat import SelfTalk, opening_of
from convmodel.hf_model.fingerprint import model_fingerprint
from convmodel.hf_model.log_probs import BATCH_SIZE
from convmodel.hf_model.next_turn import before_last, has_next_turn
from convmodel.layout.architecture import window_length
from convmodel.layout.sequence import LossOn
from convmodel.model import ConversationModel

SELF_CHAT_TURNS = 12
"""How many turns are added to a conversation's first one when a model talks to itself."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and how; with the same settings, data and weights comes the same result.

    Attributes:
        batch_size: Windows at a time; it changes speed, not the result.
        max_length: The longest window; by default as in training.
        loss_on: Whose turns count; by default as in training.
        distractors: From how many others a next turn is told; 0 leaves this out.
        responses: To how many contexts responses are generated; 0 leaves this out.
        self_chats: How many conversations a model has with itself; 0 leaves this out.
        generation: Options of `generate`.
        seed: Seeds resamples, distractors, the choice of contexts, and sampling.
        on_error: Whether a conversation that cannot be used is an error, or left out and counted.
    """

    batch_size: int = BATCH_SIZE
    max_length: int | None = None
    loss_on: LossOn | None = None
    distractors: int = 0
    responses: int = 0
    self_chats: int = 0
    generation: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    on_error: OnError = "fail"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """What was measured of one model, or of what stands in its place.

    Attributes:
        name: What the user calls it.
        identity: Its weights' hash, size, vocabulary; nothing for a baseline that is no model.
        figures: All figures, each with one row a conversation.
        result: Its likelihood.
        speakers: Figures of each speaker.
        depths: Figures of the first turns, the second ones, ...
        stops: How sure it is of ends; see `calibration`.
        losses: For each conversation nats and tokens.
        asked: The conversations whose last turn it was to say, by their numbers, from 1.
        exchanges: What it says; nothing to contexts that do not fit, which `on_error` may leave out.
        copies: Of each exchange what its response has from the training data; none without training data.
        signatures: Of BLEU and chrF.
        speed: What it computes and generates a second, in tokens.
    """

    name: str
    identity: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    result: EvaluationResult | None = None
    speakers: dict[str, list[Figure]] = field(default_factory=dict)
    depths: dict[str, list[Figure]] = field(default_factory=dict)
    stops: Array | None = None
    losses: Array | None = None
    asked: list[int] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    copies: list[Copy | None] = field(default_factory=list)
    signatures: dict[str, str] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)


def evaluate_model(
    model: ConversationModel,
    name: str,
    conversations: Sequence[Conversation],
    settings: Settings,
    *,
    training: Iterable[Conversation] | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> Evaluated:
    """Measures all that the settings ask for.

    Args:
        model: The model.
        name: What to call it.
        conversations: What to measure it on.
        settings: What to measure.
        training: What it learned from, to look for copies.
        say: Called with what is being done.

    Raises:
        ConversationError: If the data does not suit the model, or has no supervised turn.
        MissingExtraError: If responses are asked for and sacrebleu is not installed.
    """
    say("reading the conversations")
    found = _likelihood(model, name, conversations, settings)
    figures = found.figures
    usable = _usable(found, settings)
    if settings.distractors:
        say("telling next turns from others")
        told = next_turn_figures(
            model.hf_model,
            model.tokenizer,
            [conversations[index] for index in usable],
            distractors=settings.distractors,
            seed=settings.seed,
        )
        figures += [figure.spread(usable, len(conversations)) for figure in told]
    if settings.responses:
        say("generating responses")
        asked = chosen_contexts(conversations, settings.responses, settings.seed)
        found = replace(found, asked=[index + 1 for index in asked])
        exchanges, speed = respond(model, conversations, sorted({*asked} & {*usable}), settings)
        found = with_responses(found, exchanges, training)
        found.speed["generated"] = speed
    if settings.self_chats:
        say("talking to itself")
        found.figures.append(_loops(model, conversations, settings))
    return found


def _likelihood(
    model: ConversationModel, name: str, conversations: Sequence[Conversation], settings: Settings
) -> Evaluated:
    layout, config = model.tokenizer.layout, model.hf_model.config
    begin = time.perf_counter()
    measured = measure_turns(
        model.hf_model,
        model.tokenizer,
        conversations,
        max_length=window_length(config, settings.max_length or layout.max_length),
        loss_on=settings.loss_on or layout.loss_on,
        batch_size=settings.batch_size,
        on_error=settings.on_error,
    )
    seconds = time.perf_counter() - begin
    each = measured.conversations
    return Evaluated(
        name=name,
        identity=identity_of(model),
        figures=likelihood_figures(each),
        result=result_of(measured),
        speakers=by_speaker(each),
        depths=by_depth(each),
        stops=calibration(each),
        losses=np.array([(conversation.nats, conversation.tokens) for conversation in each], np.float64),
        speed={"read": measured.summary.tokens / seconds},
    )


def identity_of(model: ConversationModel) -> dict[str, Any]:
    """Describes which model it is, so that it can be told from others."""
    config = model.hf_model.config
    return {
        "weights": model_fingerprint(model.hf_model),
        "parameters": model.hf_model.num_parameters(),
        "vocabulary": len(model.tokenizer.hf_tokenizer),
        "tokenizer": hashlib.sha256(
            repr(sorted(model.tokenizer.hf_tokenizer.get_vocab().items())).encode()
        ).hexdigest()[:12],
        "max_length": window_length(config, model.tokenizer.layout.max_length),
        "loss_on": model.tokenizer.layout.loss_on,
    }


def chosen_contexts(conversations: Sequence[Conversation], count: int, seed: int) -> list[int]:
    """Chooses conversations whose last turn is a response of the speaker whom one expects, in their order."""
    fit = [index for index, conversation in enumerate(conversations) if _is_answered(conversation)]
    return sorted(random.Random(seed).sample(fit, min(count, len(fit))))


def _is_answered(conversation: Conversation) -> bool:
    return has_next_turn(conversation) and before_last(conversation).next_speaker() == conversation.turn_speakers[-1]


def _usable(found: Evaluated, settings: Settings) -> list[int]:
    """Returns the conversations that fit in the model, all of them unless others are to be left out."""
    assert found.losses is not None
    is_left_out = settings.on_error == "skip" and found.result is not None and found.result.skipped
    return [index for index, (_, tokens) in enumerate(found.losses) if tokens or not is_left_out]


def respond(
    model: ConversationModel, conversations: Sequence[Conversation], chosen: Sequence[int], settings: Settings
) -> tuple[list[Exchange], float]:
    """Lets the model say the last turn of the chosen conversations.

    Returns:
        What it says, and how many tokens a second.
    """
    contexts = [before_last(conversations[index]) for index in chosen]
    seeded = {"seed": settings.seed} if settings.generation.get("do_sample") else {}
    begin = time.perf_counter()
    outputs = model.generate_batch(contexts, **{"cut_long_turn": True} | seeded | settings.generation)
    seconds = time.perf_counter() - begin
    exchanges = [
        Exchange(
            number=index + 1,
            context=context,
            reference=conversations[index].turns[-1],
            response=output.responses[0],
            finish_reason=output.finish_reasons[0],
            tokens=output.response_tokens[0],
        )
        for index, context, output in zip(chosen, contexts, outputs, strict=True)
        if not isinstance(output, Exception)  # none is: errors are raised, which the types do not say
    ]
    return exchanges, sum(exchange.tokens for exchange in exchanges) / seconds


def with_responses(
    evaluated: Evaluated, exchanges: list[Exchange], training: Iterable[Conversation] | None
) -> Evaluated:
    """Adds the figures of responses, and of copies if there is training data."""
    if not exchanges:
        return evaluated
    responses, references = zip(*((each.response, each.reference) for each in exchanges), strict=True)
    overlap, signatures = overlap_figures(responses, references)
    figures = [*overlap, *response_figures(exchanges)]
    copies: list[Copy | None] = []
    if training is not None:
        found = find_copies([*responses, *references], training)
        copies, human = found[: len(responses)], found[len(responses) :]
        figures += [*copy_figures(copies), *copy_figures(human, "references", "references_")]
    asked = evaluated.asked or [each.number for each in exchanges]
    places = [asked.index(each.number) for each in exchanges]
    return replace(
        evaluated,
        figures=[*evaluated.figures, *(figure.spread(places, len(asked)) for figure in figures)],
        exchanges=exchanges,
        copies=copies,
        signatures=signatures,
    )


def _loops(model: ConversationModel, conversations: Sequence[Conversation], settings: Settings) -> Figure:
    """Lets the model talk to itself, and counts the conversations that go round in a circle."""
    chosen = random.Random(settings.seed).sample(
        range(len(conversations)), min(settings.self_chats, len(conversations))
    )
    looped = []
    for number, index in enumerate(sorted(chosen)):
        given = conversations[index]
        first = given.turns[given.pinned if given.pinned < len(given.turns) else 0]
        talk = SelfTalk(
            dict.fromkeys(DEFAULT_SPEAKERS, model),
            opening_of(first),
            turns=SELF_CHAT_TURNS,
            seed=settings.seed + number * SELF_CHAT_TURNS,
            **settings.generation,
        )
        for _ in talk:
            pass
        looped.append(talk.result().loop is not None)
    label = "chats with itself that loop"
    return ratio("loops", label, looped, [1] * len(looped), better="lower", percent=True)
