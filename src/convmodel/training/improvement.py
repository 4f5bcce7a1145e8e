"""From judgements to a better model: what to train on, with which settings, and what to compare afterwards.

Owns: the choices that `convmodel improve` makes when its user makes none, and the files about a run that `serve` reads.
Does not train (`fit.py`).
"""

import json
import logging
import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmodel.conversation import Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.reader import JudgementReader, latest_thumbs
from convmodel.files.atomic import staged

if TYPE_CHECKING:
    from convmodel.training.fit_result import FitResult

logger = logging.getLogger(__name__)

MIN_JUDGEMENTS = 20
"""Judgements from which on a run is worth its time."""

HELD_OUT = 20
"""Contexts of the blind comparison."""

MIN_TO_HOLD_OUT = 100
"""Judgements from which on some are held out for the comparison; below, each is needed for training."""

SETTINGS: dict[str, Any] = {
    "objective": "kto", "learning_rate": 5e-4, "epochs": 6, "batch_size": 8, "beta": 0.2, "lora": True, "merge": True,
}  # fmt: skip
"""The settings of a run, unless the user sets others.

With few judgements, adapters learn as much as all weights would, and forget less (docs/preferences.md).
"""

_ALL_WEIGHTS: dict[str, Any] = {"learning_rate": 2e-4, "merge": False}


def run_settings(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a run: those that the user chose, and else `SETTINGS`, or what all weights need.

    Example:
        >>> run_settings({"epochs": 2})["learning_rate"], run_settings({"lora": False})["learning_rate"]
        (0.0005, 0.0002)
    """
    others = SETTINGS if chosen.get("lora", True) is not False else SETTINGS | _ALL_WEIGHTS
    return others | dict(chosen)


def own_turn_settings(chosen: Mapping[str, Any], judgements: int) -> dict[str, Any]:
    """Returns the settings of a run on many of a model's own turns, where the user chose none.

    `judgements` are those of people and of the reward model. They are trained on for about as many steps, however many
    there are.

    Example:
        >>> own_turn_settings({}, 240)["epochs"], own_turn_settings({"epochs": 3}, 480)
        (2, {'learning_rate': 0.0006, 'eval_steps': 24})
    """
    settings = {"epochs": max(1, round(_OWN_JUDGEMENTS / judgements)), "learning_rate": 6e-4, "eval_steps": 24}
    if chosen.get("lora", True) is False:
        del settings["learning_rate"]  # all weights keep theirs
    return {name: value for name, value in settings.items() if name not in chosen}


_OWN_JUDGEMENTS = 480
"""How many judgements are trained on in all epochs, as those that the settings above were measured with."""

NO_REPLAY = "none"
"""The value of --replay with which nothing is replayed."""

SELF_REPLAY = "self"
"""The value of --replay with which conversations of the model with itself are replayed."""

RECORD = "improvement.json"
"""Name of the file that says what a run did, in the model's folder."""

HELD_OUT_FILE = "held-out.jsonl"
"""Name of the file of conversations to compare models on."""

SNAPSHOT = "judgements.jsonl"
"""Name of the copy of a run's judgements: the file that they come from may grow before the run is resumed."""


@dataclass(frozen=True, slots=True)
class Quality:
    """A model's validation perplexity, and the share of its responses that end by themselves, of how many."""

    perplexity: float | None
    ends: float | None
    responses: int = 0

    @property
    def ended(self) -> int:
        """How many responses ended by themselves."""
        return round((self.ends or 0) * self.responses)


@dataclass(frozen=True, slots=True)
class Improvement:
    """What a run on judgements did.

    Attributes:
        model: The name of the model that was improved.
        objective: What was learned.
        kinds: The judgements by kind.
        used: How many were trained on.
        held_out: How many were kept for the comparison.
        before: The model before the run.
        after: The model that was kept.
        steps: Steps after which it was kept; 0 if it is the model as it was.
        guard: Why the guard stopped the run; empty if it did not.
        seconds: How long the run took.
        reward_auc: The AUC of the reward model that was fitted to the kept model; None if there is none.
    """

    model: str
    objective: str
    kinds: dict[str, int]
    used: int
    held_out: int
    before: Quality
    after: Quality
    steps: int
    guard: str
    seconds: float
    reward_auc: float | None = None

    @classmethod
    def of(
        cls, model: str, objective: str, judgements: "Judgements", result: "FitResult", reward_auc: float | None
    ) -> "Improvement":
        """Reads what is known from the result of a run."""
        return cls(
            model=model,
            objective=objective,
            kinds=dict(Counter(each.kind for each in (*judgements.train, *judgements.held_out))),
            used=len(judgements.train),
            held_out=len(judgements.held_out),
            before=_quality(result, 0),
            after=_quality(result, result.best_step),
            steps=result.best_step,
            guard=result.guard,
            seconds=round(result.seconds, 1),
            reward_auc=reward_auc,
        )

    def write(self, folder: str | os.PathLike[str], comparison: Sequence[Conversation]) -> None:
        """Writes the record and the conversations to compare models on beside a model's files."""
        lines = [{"turns": one.turns, "speakers": one.turn_speakers, "pinned": one.pinned} for one in comparison]
        with staged(folder) as stage:
            (stage / RECORD).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8", newline="\n")
            (stage / HELD_OUT_FILE).write_text(_json_lines(lines), encoding="utf-8", newline="\n")


def _quality(result: "FitResult", step: int) -> Quality:
    """Returns what was validated after a step; the latest, if it was validated twice."""
    logs = [log for log in result.history if "eval_loss" in log and log.get("step") == step]
    if not logs:
        return Quality(None, None)
    last = logs[-1]
    return Quality(last["eval_perplexity"], last.get("eval_ended"), int(last.get("eval_responses", 0)))


@dataclass(frozen=True, slots=True)
class Judgements:
    """Judgements to train on, and some that are kept to compare the models on their contexts."""

    train: list[Judgement]
    held_out: list[Judgement] = field(default_factory=list)

    @classmethod
    def read(cls, sources: Sequence[str], folder: str | os.PathLike[str], reading: dict[str, Any]) -> list[Judgement]:
        """Reads judgements and copies them to a folder; a run that is resumed there reads the copy.

        `reading` are options of `JudgementReader`.

        Raises:
            ConversationError: If a source cannot be read, or has no judgement that can be used.
        """
        copy = Path(folder, SNAPSHOT)
        if copy.exists():
            judgements = [*JudgementReader(copy, regeneration_weight=1)]
            logger.info(
                "resuming with the %d judgements in %s; later ones count in the next run", len(judgements), copy
            )
            return judgements
        judgements, replaced = latest_thumbs(judgement for source in sources for judgement in _read(source, reading))
        if replaced:
            logger.warning("%d thumbs were replaced by later ones on the same responses", replaced)
        with staged(folder) as stage:
            lines = _json_lines(each.to_dict() for each in judgements)
            (stage / SNAPSHOT).write_text(lines, encoding="utf-8", newline="\n")
        return judgements

    @classmethod
    def split(cls, judgements: Iterable[Judgement], *, seed: int) -> "Judgements":
        """Holds out judgements of a twentieth of the contexts, if there are enough; never a context in both parts."""
        by_context: dict[Any, list[Judgement]] = {}
        for judgement in judgements:
            key = judgement.context.turns, judgement.context.turn_speakers
            by_context.setdefault(key, []).append(judgement)
        groups = list(by_context.values())
        total = sum(map(len, groups))
        count = 0 if total < MIN_TO_HOLD_OUT else min(HELD_OUT, len(groups) // 20)
        chosen = set(random.Random(seed).sample(range(len(groups)), count))
        parts: tuple[list[Judgement], list[Judgement]] = [], []
        for number, group in enumerate(groups):
            parts[number in chosen].extend(group)
        return cls(*parts)

    def comparison(self, others: Iterable[Conversation]) -> list[Conversation]:
        """Returns conversations whose contexts suit a comparison: those held out, then others not trained on."""
        contexts = {(judged.context.turns, judged.context.turn_speakers): judged for judged in self.held_out}
        held_out = [judged.conversation(judged.chosen or judged.rejected or "") for judged in contexts.values()]
        more = (one for one in others if len(one.turns) - one.pinned > 1 and not self.has_context(one))
        return [*held_out, *more][:HELD_OUT]

    def has_context(self, conversation: Conversation) -> bool:
        """Returns whether a conversation begins with the context of a judgement that is trained on."""
        return any(conversation.turns[: len(judged.context.turns)] == judged.context.turns for judged in self.train)


def _read(source: str, reading: dict[str, Any]) -> list[Judgement]:
    reader = JudgementReader(source, **reading)
    judgements = [*reader]
    logger.info("%s: %s", source, reader.describe())
    if left_out := reader.left_out():
        logger.warning("%s: %s", source, left_out)
    return judgements


def _json_lines(lines: Iterable[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def needed(pairs: int, liked: int, disliked: int) -> str:
    """Describes the judgements that are still needed before a run is worth its time; empty if they suffice.

    Example:
        >>> needed(pairs=0, liked=12, disliked=0)
        '8 more judgements, of disliked responses among them'
        >>> needed(pairs=4, liked=20, disliked=3)
        ''
    """
    missing = max(0, MIN_JUDGEMENTS - pairs - liked - disliked)
    sides = [name for name, count in (("liked", pairs + liked), ("disliked", pairs + disliked)) if not count]
    if not missing and not sides:
        return ""
    some = f"{missing} more judgements" if missing else "some judgements"
    if len(sides) == 1:
        return f"{some}, of {sides[0]} responses among them"
    return some


def read_record(folder: Path) -> dict[str, Any] | None:
    """Returns what a run reported at its end, from its folder; None before that."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
