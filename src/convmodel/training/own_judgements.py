"""Judgements of a model's own turns, made by its reward model.

Owns: which turns are judged, how much each counts, and their file. How conversations of a model with itself are sampled
is in `self_replay.py`.
"""

import math
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from convmodel.conversation import Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.reader import JudgementReader
from convmodel.files.atomic import staged
from convmodel.files.json_lines import write_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from convmodel.hf_model.reward_model import RewardModel
    from convmodel.layout.tokenizer import ConversationTokenizer

FILE = "own-judgements.jsonl"
"""Name of the file of such judgements, in the folder of the run."""


def judge_own_turns(
    hf_model: "PreTrainedModel",
    tokenizer: "ConversationTokenizer",
    reward: "RewardModel",
    talks: Iterable[Conversation],
    responders: Collection[str],
    folder: str | os.PathLike[str],
) -> list[Judgement]:
    """Lets a reward model judge the turns of a model's conversations with itself, or reads what an earlier run left.

    A few dozen judgements also say what else happened to be in the judged responses. A reward model, fitted to what the
    judgements have in common, judges hundreds of turns, in which the rest averages out. Each counts as much as the
    reward model is sure of it: |2p - 1|, p being the probability that it is liked. As many liked as disliked ones are
    kept: if more were disliked, what all turns have, such as their end, would become less probable for a while.

    Args:
        hf_model: The model as it is before the run, which wrote the turns.
        tokenizer: Its layout.
        reward: Its reward model.
        talks: The conversations; turns of weight 0 are not the model's.
        responders: Whose turns are judged; in the separator layout all are.
        folder: Where the judgements are written, so that a run that is resumed reads the same.
    """
    file = Path(folder, FILE)
    if not file.exists():
        judgements = _as_many_of_each(_judge(hf_model, tokenizer, reward, talks, responders))
        with staged(folder) as stage, (stage / FILE).open("wb") as lines:
            for judgement in judgements:
                write_line(lines, judgement.to_dict())
    return [*JudgementReader(file)] if file.stat().st_size else []


def _judge(
    hf_model: "PreTrainedModel",
    tokenizer: "ConversationTokenizer",
    reward: "RewardModel",
    talks: Iterable[Conversation],
    responders: Collection[str],
) -> list[Judgement]:
    from convmodel.hf_model.reward_model import last_turn_window  # imports torch
    from convmodel.layout.architecture import window_length

    longest = window_length(hf_model.config, tokenizer.layout.max_length)
    found: list[Judgement] = []
    for talk in talks:
        turns = [*zip(talk.turns, talk.turn_speakers, talk.turn_weights, strict=True)]
        judged = []
        for number, (text, speaker, weight) in enumerate(turns):
            if weight and (tokenizer.layout.name == "separator" or speaker in responders):
                context = replace(talk, turns=talk.turns[:number], speakers=talk.turn_speakers[:number], weights=None)
                judged.append(Judgement(context, speaker, text, kind="thumb"))
        windows = [last_turn_window(tokenizer, one, one.chosen or "", longest) for one in judged]
        kept = [(one, window) for one, window in zip(judged, windows, strict=True) if window is not None]
        if kept:
            values = reward.log_probabilities(hf_model, tokenizer, [window for _, window in kept])
            found += [_judged(one, math.exp(value)) for (one, _), value in zip(kept, values, strict=True)]
    return found


def _as_many_of_each(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Returns all judgements of the rarer side, and as many of the other one, at equal distances, in their order."""
    sides = [[n for n, one in enumerate(judgements) if (one.chosen is None) is bad] for bad in (False, True)]
    count = min(map(len, sides))
    kept = [side[number * len(side) // count] for side in sides for number in range(count)]
    return [judgements[number] for number in sorted(kept)]


def _judged(judgement: Judgement, liked: float) -> Judgement:
    """Returns a judgement of the response, with the weight of what is known."""
    sure = round(abs(2 * liked - 1), 3)
    if liked >= 0.5:
        return replace(judgement, weight=sure)
    return replace(judgement, chosen=None, rejected=judgement.chosen, weight=sure)
