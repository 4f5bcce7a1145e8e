"""Conversations of a model with itself, to be replayed while it learns from judgements.

Owns: what they begin with, how long they are, and how they are sampled. Does not know how they are trained on.
"""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, Unpack

from convmodel.conversation import Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.reading.reader import ConversationReader
from convmodel.errors import ConvModelError
from convmodel.files.atomic import staged
from convmodel.generation.batched import Contexts, Result
from convmodel.generation.option_types import GenerateOptions

logger = logging.getLogger(__name__)

FILE = "replay.jsonl"
"""Name of the file of such conversations, in the folder of the run."""

CONVERSATIONS = 128
"""How many there are; a step replays a part of one beside each judgement."""

TURNS = 9
"""Turns after the first one, which is a judged conversation's: about `REPLAY_LENGTH` tokens of small talk."""

NEW_TOKENS = 48
"""The limit of a turn."""

# The model's own distribution, whatever its settings for chats are.
_SAMPLING: GenerateOptions = {
    "do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
    "min_new_tokens": 1,
}  # fmt: skip


class Sampler(Protocol):
    """The model interface that sampling needs; `ConversationModel` has it."""

    def generate_batch(
        self, contexts: Contexts, *, return_errors: Literal[True], **options: Unpack[GenerateOptions]
    ) -> list[Result]:
        """Generates responses to many contexts; an error is in the place of its result."""


def self_replay(
    model: Sampler, judgements: Iterable[Judgement], folder: str | os.PathLike[str], *, seed: int
) -> ConversationReader:
    """Samples conversations of a model with itself, or reads those that an earlier run left in its folder.

    Sampled from the model's own distribution, their expected gradient is zero before the first step, and then that of
    the divergence KL(reference || model): the run is held where it began. Conversations that the model was trained on
    for too long draw it further to them instead.

    Args:
        model: The model, as it is before the run.
        judgements: Their contexts' first turns are what the conversations begin with, again and again.
        folder: Where they are written, so that a run that is resumed reads the same.
        seed: Makes them repeatable.
    """
    file = Path(folder, FILE)
    if not file.exists():
        talks = _sample(model, _openings(judgements), seed)
        lines = ({"turns": talk.turns, "speakers": talk.turn_speakers, "pinned": talk.pinned} for talk in talks)
        with staged(folder) as stage:
            text = "".join(f"{json.dumps(line)}\n" for line in lines)
            (stage / FILE).write_text(text, encoding="utf-8", newline="\n")
    return ConversationReader(file)


class _Opening(NamedTuple):
    """What a conversation begins with, and the two who speak in turn then."""

    conversation: Conversation
    speakers: tuple[str, str]


def _openings(judgements: Iterable[Judgement]) -> list[_Opening]:
    """Returns the first turn of each context, after what is pinned; each once."""
    found: dict[tuple[tuple[str, ...], str], _Opening] = {}
    for judgement in judgements:
        context, both = judgement.context, (judgement.responder, judgement.context.turn_speakers[-1])
        end = context.pinned + 1
        opening = Conversation(context.turns[:end], context.turn_speakers[:end], pinned=context.pinned)
        if opening.turn_speakers[-1] == judgement.responder:
            both = both[::-1]
        found.setdefault((tuple(opening.turns), judgement.responder), _Opening(opening, both))
    return list(found.values())


def _sample(model: Sampler, openings: Sequence[_Opening], seed: int) -> list[Conversation]:
    """Lets the model speak in turn for both speakers of each conversation; one that fails is shorter."""
    logger.info("sampling %d conversations of the model with itself, to replay ...", CONVERSATIONS)
    begun = [*islice(cycle(openings), CONVERSATIONS)]
    talks = [opening.conversation for opening in begun]
    for turn in range(TURNS):
        names = [opening.speakers[turn % 2] for opening in begun]
        for name in dict.fromkeys(names):
            chosen = [number for number, each in enumerate(names) if each == name]
            options = _SAMPLING | {"max_new_tokens": NEW_TOKENS, "reply_as": name, "seed": seed + turn * CONVERSATIONS}
            outputs = model.generate_batch([talks[number] for number in chosen], return_errors=True, **options)
            for number, output in zip(chosen, outputs, strict=True):
                if not isinstance(output, ConvModelError) and (text := output.responses[0].strip()):
                    talks[number] = talks[number].with_turn(text, name)
    return [talk for talk in talks if len(talk.turns) > talk.pinned + 1]
