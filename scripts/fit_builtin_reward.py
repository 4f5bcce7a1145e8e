"""Fits the reward model of `builtin:chitchat` to judgements of its turns, and puts it into the package.

    python scripts/fit_builtin_reward.py

The judgements are in `scripts/builtin_judgements.jsonl`: conversations of the model with itself, and for each turn
after the first (`sensible`), or for several candidates at its place (`replies`), 1 if a reader found it sensible there.
The readers were language models that did not know which settings a conversation had, nor which candidate the model
would choose; see the section "The built-in model" of `benchmarks/LOG.md`. Run it after `train_builtin.py`. It prints
how well it predicts turns after openings that it was not fitted to.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from convmodel import Conversation, ConversationModel
from convmodel.data.judgements.judgement import Judgement
from convmodel.files.hub import CHITCHAT, resolve_builtin
from convmodel.hf_model.logistic_regression import auc
from convmodel.hf_model.reward_model import RewardModel, fit_reward_model, last_turn_window
from convmodel.layout.architecture import window_length

JUDGED = Path(__file__).with_name("builtin_judgements.jsonl")
WEIGHT = 4.0  # in chats; chosen by reading conversations
PARTS = 5  # of the openings, one of which is predicted from the others


def main() -> None:
    model = ConversationModel.from_pretrained(CHITCHAT, device="cpu")
    talks = [json.loads(line) for line in JUDGED.read_text(encoding="utf-8").splitlines()]
    openings = sorted({talk["turns"][0] for talk in talks})
    held = set(openings[::PARTS])
    part = fit(model, judgements(model, (talk for talk in talks if talk["turns"][0] not in held)))
    new = area(model, part, [*judgements(model, (talk for talk in talks if talk["turns"][0] in held))])
    reward = fit(model, judgements(model, talks))
    replace(reward, weight=WEIGHT).save(resolve_builtin(CHITCHAT))
    counts = f"{reward.liked:,} sensible turns, {reward.disliked:,} others"
    print(f"{len(talks)} conversations, {len(openings)} openings: {counts}")
    print(f"AUC on contexts that are new: {reward.auc:.3f}; on a fifth of the openings, which is new: {new:.3f}")


def fit(model: ConversationModel, judged: Iterable[Judgement]) -> RewardModel:
    return fit_reward_model(model.hf_model, model.tokenizer, judged)


def judgements(model: ConversationModel, talks: Iterable[dict[str, Any]]) -> Iterator[Judgement]:
    """Yields a judgement of each turn that was read."""
    for talk in talks:
        turns = talk["turns"]
        replies = talk.get("replies") or [[each] for each in zip(turns[1:], talk["sensible"], strict=True)]
        for place, several in enumerate(replies, 1):
            context = Conversation(turns[:place])
            for text, sensible in several:
                side = {"chosen" if sensible else "rejected": text}
                yield Judgement(context, model.tokenizer.responder(context), **side, kind="thumb")


def area(model: ConversationModel, reward: RewardModel, judged: list[Judgement]) -> float:
    """Returns the AUC of judgements."""
    scores: dict[bool, list[float]] = {True: [], False: []}
    longest = window_length(model.hf_model.config, model.tokenizer.layout.max_length)
    for _, group in groupby(judged, key=lambda one: one.context.turns):
        several = list(group)  # at one place, so that their context is read once
        windows = [last_turn_window(model.tokenizer, one, one.chosen or one.rejected or "", longest) for one in several]
        values = reward.log_probabilities(model.hf_model, model.tokenizer, [window for window in windows if window])
        for one, value in zip(several, values, strict=True):  # as many, since none of them is too long
            scores[one.chosen is not None].append(value)
    return auc(*(torch.tensor(scores[side], dtype=torch.float64) for side in (True, False)))


if __name__ == "__main__":
    main()
