"""Everything that is measured of one model.

Owns: the order of an evaluation's parts, and the choice of contexts. The metrics are declared in `evaluation/`.
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

import numpy as np

from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.errors import ConversationError
from convmodel.evaluation.bleu_chrf import overlap_metrics, require_sacrebleu
from convmodel.evaluation.custom_metric import ResponseMetric, TurnMetric
from convmodel.evaluation.installed_metrics import measure_installed, unusable_metrics
from convmodel.evaluation.likelihood import likelihood_of
from convmodel.evaluation.likelihood_metrics import (
    likelihood_metrics,
    metrics_by_depth,
    metrics_by_speaker,
    next_turn_metrics,
)
from convmodel.evaluation.metric import Metric
from convmodel.evaluation.response_metrics import LOOPS, Exchange, response_metrics
from convmodel.evaluation.turn_statistics import measure_turns
from convmodel.evaluation.verbatim_copies import REFERENCE_COPIES, Copy, copy_metrics, find_copies
from convmodel.generation.batched import respond_to_all
from convmodel.generation.engine.sampling import with_defaults
from convmodel.generation.options import given_options, read_options
from convmodel.generation.output import ConversationModelOutput
from convmodel.generation.self_chat import SelfChat, opening_of
from convmodel.hf_model.fingerprint import model_fingerprint
from convmodel.hf_model.next_turn import before_last, has_next_turn
from convmodel.layout.architecture import window_length
from convmodel.model import ConversationModel
from convmodel.report.evaluation.model_evaluation import ModelEvaluation, Settings

SELF_CHAT_TURNS = 12
"""The number of turns that a self-chat adds to the first turn."""

Progress: TypeAlias = Callable[[str, int, int | None, str], None]
"""Gets a step's description, how much of it is completed, its total if known, and the unit of both."""


def no_progress(step: str, completed: int, total: int | None, unit: str) -> None:
    """Shows nothing."""


def evaluate_model(
    model: ConversationModel,
    name: str,
    conversations: Sequence[Conversation],
    settings: Settings,
    *,
    training: Iterable[Conversation] | None = None,
    progress: Progress = no_progress,
) -> ModelEvaluation:
    """Measures everything that the settings request, and looks for copies if there is training data.

    `progress` is called before and during each step, with its description.

    Raises:
        ConversationError: If the data does not suit the model, or has no supervised turn.
        MissingExtraError: If responses are requested and sacrebleu is not installed.
    """
    if settings.responses:
        require_sacrebleu()  # not only when all else is measured
    evaluation = _likelihood(model, name, conversations, settings, progress)
    usable = _usable(evaluation, settings)
    if settings.distractors:
        progress("ranking", 0, None, "conversations")
        try:
            ranks = next_turn_metrics(
                model.hf_model,
                model.tokenizer.with_layout(max_length=_max_length(model, settings)),
                [conversations[index] for index in usable],
                distractors=settings.distractors,
                seed=settings.seed,
            )
            evaluation.metrics.extend(metric.spread(usable, len(conversations)) for metric in ranks)
        except ConversationError as error:
            evaluation.notes.append(f"next turns were not ranked: {error}")
    if settings.responses:
        chosen = choose_contexts(conversations, settings.responses, settings.seed)
        evaluation = replace(evaluation, requested=[index + 1 for index in chosen])
        indices = sorted({*chosen} & {*usable})
        exchanges, speed = generate_exchanges(model, conversations, indices, settings, progress)
        evaluation = with_responses(evaluation, exchanges, training)
        if exchanges:
            evaluation.speed["generated"] = speed
        else:
            evaluation.notes.append(
                "no responses were generated: no conversation ends with the expected speaker's turn"
            )
    if settings.self_chats:
        evaluation.metrics.append(_loops(model, conversations, settings, progress))
    return evaluation


def _likelihood(
    model: ConversationModel,
    name: str,
    conversations: Sequence[Conversation],
    settings: Settings,
    progress: Progress,
) -> ModelEvaluation:
    notes = unusable_metrics()
    begin = time.perf_counter()
    statistics = measure_turns(
        model.hf_model,
        model.tokenizer,
        _counted(conversations, progress),
        max_length=_max_length(model, settings),
        loss_on=settings.loss_on or model.tokenizer.layout.loss_on,
        batch_size=settings.batch_size,
        on_error=settings.on_error,
    )
    seconds = time.perf_counter() - begin
    turns = [conversation.turns for conversation in statistics.conversations]
    installed = measure_installed(TurnMetric, turns)
    return ModelEvaluation(
        name=name,
        identity=identity_of(model),
        metrics=[*likelihood_metrics(turns), *installed.metrics],
        likelihood=likelihood_of(statistics),
        speakers=metrics_by_speaker(turns),
        depths=metrics_by_depth(turns),
        calibration=np.sum([conversation.calibration for conversation in statistics.conversations], axis=0),
        losses=np.array(
            [[sum(turn.nats for turn in part), sum(turn.tokens for turn in part)] for part in turns], float
        ),
        signatures=installed.origins,
        notes=[*notes, *installed.notes],
        speed={"read": statistics.summary.tokens / seconds},
    )


def _max_length(model: ConversationModel, settings: Settings) -> int:
    return window_length(model.hf_model.config, settings.max_length or model.tokenizer.layout.max_length)


def _counted(conversations: Sequence[Conversation], progress: Progress) -> Iterator[Conversation]:
    for number, conversation in enumerate(conversations):
        progress("measuring", number, len(conversations), "conversations")
        yield conversation


def identity_of(model: ConversationModel) -> dict[str, Any]:
    """Describes the model by its weights, size and vocabulary, which distinguish it from others."""
    layout, hf_tokenizer = model.tokenizer.layout, model.tokenizer.hf_tokenizer
    return {
        "weights": model_fingerprint(model.hf_model),
        "parameters": model.hf_model.num_parameters(),
        "vocabulary": len(hf_tokenizer),
        "tokenizer": hashlib.sha256(repr(sorted(hf_tokenizer.get_vocab().items())).encode()).hexdigest()[:12],
        "max_length": window_length(model.hf_model.config, layout.max_length),
        "loss_on": layout.loss_on,
    }


def choose_contexts(conversations: Sequence[Conversation], count: int, seed: int) -> list[int]:
    """Draws conversations whose last turn is by the speaker whose turn it is, and returns their indices in order."""
    answered = [
        index
        for index, conversation in enumerate(conversations)
        if has_next_turn(conversation) and before_last(conversation).next_speaker() == conversation.turn_speakers[-1]
    ]
    return sorted(random.Random(seed).sample(answered, min(count, len(answered))))


def _usable(evaluation: ModelEvaluation, settings: Settings) -> list[int]:
    """Returns the conversations that fit in the model; all of them unless others are to be left out."""
    assert evaluation.losses is not None
    assert evaluation.likelihood is not None
    may_skip = settings.on_error == "skip" and evaluation.likelihood.skipped
    return [index for index, (_, tokens) in enumerate(evaluation.losses) if tokens or not may_skip]


def generate_exchanges(
    model: ConversationModel,
    conversations: Sequence[Conversation],
    chosen: Sequence[int],
    settings: Settings,
    progress: Progress = no_progress,
) -> tuple[list[Exchange], float]:
    """Generates the last turn of the chosen conversations; also returns how many tokens per second were generated."""
    contexts = [before_last(conversations[index]) for index in chosen]
    given = {"cut_long_turn": True, "seed": _sampling_seed(model, settings)} | given_options(settings.generation)
    begin = time.perf_counter()
    options = read_options(model.hf_model, model.tokenizer, given)

    def show(done: int) -> None:
        progress("generating", done, len(contexts), "responses")

    show(0)
    results = respond_to_all(model.engine, model.tokenizer, contexts, options, return_errors=False, progress=show)
    outputs = cast(list[ConversationModelOutput], results)
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
    ]
    return exchanges, sum(exchange.tokens for exchange in exchanges) / seconds


def _sampling_seed(model: ConversationModel, settings: Settings) -> int | None:
    """Returns the seed if the settings or the model's generation config sample; None if nothing is sampled."""
    options = read_options(model.hf_model, model.tokenizer, settings.generation)
    return settings.seed if with_defaults(model.hf_model, options.hf).get("do_sample") else None


def with_responses(
    evaluation: ModelEvaluation, exchanges: list[Exchange], training: Iterable[Conversation] | None
) -> ModelEvaluation:
    """Adds the metrics of responses, those of installed packages too, and of copies if there is training data."""
    if not exchanges:
        return evaluation
    responses = [exchange.response for exchange in exchanges]
    references = [exchange.reference for exchange in exchanges]
    overlap, signatures = overlap_metrics(responses, references)
    installed = measure_installed(ResponseMetric, [[exchange] for exchange in exchanges])
    metrics = [*overlap, *response_metrics(exchanges), *installed.metrics]
    copies: list[Copy | None] = []
    if training is not None:
        all_copies = find_copies([*responses, *references], training)
        copies, reference_copies = all_copies[: len(responses)], all_copies[len(responses) :]
        metrics += [*copy_metrics(copies), *copy_metrics(reference_copies, REFERENCE_COPIES)]
    requested = evaluation.requested or [exchange.number for exchange in exchanges]
    places = [requested.index(exchange.number) for exchange in exchanges]
    return replace(
        evaluation,
        metrics=[*evaluation.metrics, *(metric.spread(places, len(requested)) for metric in metrics)],
        exchanges=exchanges,
        copies=copies,
        signatures=evaluation.signatures | signatures | installed.origins,
        notes=[*evaluation.notes, *installed.notes],
    )


def _loops(
    model: ConversationModel, conversations: Sequence[Conversation], settings: Settings, progress: Progress
) -> Metric:
    """Has the model chat with itself, and counts the conversations that repeat themselves."""
    count = min(settings.self_chats, len(conversations))
    chosen = sorted(random.Random(settings.seed).sample(range(len(conversations)), count))
    seed = _sampling_seed(model, settings)
    is_loop = []
    for number, index in enumerate(chosen):
        progress("self-chats", number, count, "conversations")
        conversation = conversations[index]
        first = conversation.turns[conversation.pinned if conversation.pinned < len(conversation.turns) else 0]
        chat = SelfChat(
            dict.fromkeys(DEFAULT_SPEAKERS, model),
            opening_of(first),
            turns=SELF_CHAT_TURNS,
            seed=None if seed is None else seed + number * SELF_CHAT_TURNS,
            **settings.generation,
        )
        for _ in chat:
            pass
        is_loop.append([chat.loop is not None])
    return LOOPS.measure(is_loop)
