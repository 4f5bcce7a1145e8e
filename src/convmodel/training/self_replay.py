"""Conversations of a model with itself, to be replayed while it learns from judgements.

Owns: what they begin with, how long they are, and how they are sampled. Does not know how they are trained on.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Unpack

from convmodel.conversation import Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.progress import ProgressBar
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.writing import write_jsonl
from convmodel.errors import ConversationError, ConvModelError
from convmodel.files.atomic import staged
from convmodel.layout.markers import TOOL

if TYPE_CHECKING:  # their modules import torch, which commands load later
    from convmodel.generation.batched import Contexts, Result
    from convmodel.generation.option_types import GenerateOptions

logger = logging.getLogger(__name__)

FILE = "self-replay.jsonl"
"""Name of the file of such conversations, in the folder of the run."""

CONVERSATIONS = 128
"""How many there are; a step replays a part of one beside each judgement."""

TURNS = 9
"""The most turns after the first one, which is a judged conversation's."""

CHARACTERS = 640
"""Length after which a conversation is not continued: a little more than is replayed of it, `REPLAY_LENGTH` tokens."""

NEW_TOKENS = 128
"""The limit of a turn, or half of the model's positions; a longer one is left out, since its end would be false."""


class Sampler(Protocol):
    """The model interface that sampling needs; `ConversationModel` has it."""

    @property
    def hf_model(self) -> Any: ...  # noqa: D102

    def generate_batch(
        self, contexts: "Contexts", *, return_errors: Literal[True], **options: "Unpack[GenerateOptions]"
    ) -> "list[Result]":
        """Generates responses to many contexts; an error is in the place of its result."""


def self_replay(
    model: Sampler, judgements: Iterable[Judgement], folder: str | os.PathLike[str], *, seed: int
) -> ConversationReader:
    """Samples conversations of a model with itself, or reads those that an earlier run left in its folder.

    Only sampled turns are targets. As they are of the model's own distribution, their expected gradient is zero before
    the first step, and then that of the divergence KL(reference || model): the run is held where it began.
    Conversations that the model was trained on for too long draw it further to them instead.

    Args:
        model: The model, as it is before the run.
        judgements: Their contexts' first turns are what the conversations begin with, again and again.
        folder: Where they are written, so that a run that is resumed reads the same.
        seed: Makes them repeatable.

    Raises:
        ConversationError: If the model ends no turn for any of the contexts.
    """
    file = Path(folder, FILE)
    if not file.exists():
        talks = _sample(model, _openings(judgements), seed)
        with staged(folder) as stage:
            write_jsonl(stage / FILE, talks)
    return ConversationReader(file)


class _Opening(NamedTuple):
    """What a conversation begins with, and the two who speak in turn then."""

    conversation: Conversation
    speakers: tuple[str, str]


def _openings(judgements: Iterable[Judgement]) -> list[_Opening]:
    """Returns the first turn of each context, after what is pinned, as no target; each once, none of tools."""
    openings: dict[tuple[tuple[str, ...], str], _Opening] = {}
    for judgement in judgements:
        context, end = judgement.context, judgement.context.pinned + 1
        turns, speakers = tuple(context.turns[:end]), tuple(context.turn_speakers[:end])
        others = [name for name in context.turn_speakers[context.pinned :] if name not in (judgement.responder, TOOL)]
        if not others or speakers[-1] == TOOL:
            continue
        both = (judgement.responder, others[0])  # the first of them speaks next
        if speakers[-1] == judgement.responder:
            both = both[::-1]
        opening = Conversation(turns, speakers, pinned=context.pinned, weights=[0] * end)
        openings.setdefault((turns, judgement.responder), _Opening(opening, both))
    return list(openings.values())


def _sample(model: Sampler, openings: Sequence[_Opening], seed: int) -> list[Conversation]:
    """Lets the model speak in turn for both speakers of each conversation, until a turn fails or does not end."""
    from convmodel.hf_model.generation_config import PENALTIES, SAMPLING_OPTIONS  # imports torch
    from convmodel.layout.architecture import positions

    logger.info("sampling %d conversations of the model with itself, to replay ...", CONVERSATIONS)
    sampling = SAMPLING_OPTIONS | PENALTIES | {"do_sample": True, "min_p": 0.0, "min_new_tokens": 1}
    room = positions(model.hf_model.config)
    limit = min(NEW_TOKENS, room // 2) if room else NEW_TOKENS
    begun = [*islice(cycle(openings), CONVERSATIONS)]
    talks = [opening.conversation for opening in begun]
    reason = "no judged conversation begins with a turn of a person"
    active = set(range(len(talks)))
    with ProgressBar("self-replay", TURNS, unit="turns") as bar:
        for turn in range(TURNS):
            names = {number: begun[number].speakers[turn % 2] for number in sorted(active)}
            for name in dict.fromkeys(names.values()):
                chosen = [number for number, speaker in names.items() if speaker == name]
                options = {**sampling, "max_new_tokens": limit, "reply_as": name, "seed": seed + turn * CONVERSATIONS}
                contexts = [talks[number] for number in chosen]
                outputs = model.generate_batch(contexts, return_errors=True, **options)  # type: ignore[arg-type]
                for number, (text, problem) in zip(chosen, map(_turn, outputs), strict=True):
                    if text:
                        talks[number] = talks[number].with_turn(text, name)
                    reason = problem or reason
                    if problem or sum(map(len, talks[number].turns)) > CHARACTERS:
                        active.discard(number)
            bar.update(turn + 1)
    kept = [talk for talk in talks if any(talk.turn_weights)]
    if not kept:
        raise ConversationError(f"the model has no conversations with itself: {reason}; give --replay FILE, or none")
    return kept


def _turn(output: "Result") -> tuple[str, str]:
    """Returns the text of a turn that can be replayed, or why it cannot."""
    if isinstance(output, ConvModelError):
        return "", str(output)
    if output.finish_reasons[0] != "stop":
        return "", "its responses are too long"
    text = output.responses[0].strip()
    return text, "" if text else "its responses are blank"
