"""Judgements from files and Python objects, each error with its place.

Owns: which judgements are used, and the count of what is left out. How files are read and rows are converted is in
`data.reading` and `shapes.py`.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from convmodel.arguments.values import plain
from convmodel.data.judgements.judgement import KINDS, Judgement
from convmodel.data.judgements.shapes import judgement_of
from convmodel.data.judgements.torn_lines import without_torn
from convmodel.data.reading.decoding import encodable
from convmodel.data.reading.judged_forms import FORM, form_of
from convmodel.data.reading.judged_row import REGENERATION
from convmodel.data.reading.problems import OnError, Problems
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.rows import Row, file_rows
from convmodel.errors import ConfigError, ConversationError

logger = logging.getLogger(__name__)

JudgementSource: TypeAlias = str | os.PathLike[str] | Iterable[Judgement | Mapping[str, Any]]
"""A file, a folder, `-`, a data set on the Hub, or Python objects, such as a `datasets.Dataset` or a data frame."""


@dataclass(slots=True)
class JudgementSummary:
    """Counts of what was read and what was left out.

    Attributes:
        judgements: Judgements that are used.
        kinds: Their number by kind.
        pairs: Those with a chosen and a rejected response.
        liked: Those with a chosen response only.
        disliked: Those with a rejected response only.
        undecided: Votes for neither, and equal scores; left out.
        comparisons: Votes that compared an improved model with the one before; left out, since the next comparison must
            not be on what was trained on.
        identical: Pairs of two equal responses; left out.
        regenerations: Regenerations that were left out, since their weight is 0.
        torn: Half lines that were left out: the file is being written, or a write was interrupted.
        skipped: Rows that were invalid and left out.
        first_skipped: Why the first of them was invalid.
        omitted: How many judgements had something beside text that was left out, by its name.
    """

    judgements: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    pairs: int = 0
    liked: int = 0
    disliked: int = 0
    undecided: int = 0
    comparisons: int = 0
    identical: int = 0
    regenerations: int = 0
    torn: int = 0
    skipped: int = 0
    first_skipped: str = ""
    omitted: Counter[str] = field(default_factory=Counter)

    def add(self, judgement: Judgement) -> None:
        """Counts a judgement that is used."""
        self.judgements += 1
        self.kinds[judgement.kind] += 1
        self.pairs += judgement.is_pair
        self.liked += judgement.rejected is None
        self.disliked += judgement.chosen is None
        self.omitted.update(set(judgement.context.omitted))

    def describe(self) -> str:
        """Describes what is used in one line."""
        kinds = [f"{self.kinds[kind]:,} {kind}" for kind in KINDS if self.kinds[kind]]
        parts = {
            "pair" if self.pairs == 1 else "pairs": self.pairs,
            "liked only": self.liked,
            "disliked only": self.disliked,
        }
        return f"{self.judgements:,} judgements ({', '.join(kinds)}): " + ", ".join(
            f"{number:,} {name}" for name, number in parts.items() if number
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts by name."""
        counts = {name: getattr(self, name) for name in self.__slots__}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in counts.items()}

    def left_out(self) -> str:
        """Describes what was left out, in a sentence; empty if nothing was."""
        counts = {
            "undecided between two responses": self.undecided,
            "votes that compare an improved model": self.comparisons,
            "with two equal responses": self.identical,
            "regenerations, whose weight is 0": self.regenerations,
            "half lines of a file that is being written, or whose writer was killed": self.torn,
        }
        parts = [f"{number:,} {what}" for what, number in counts.items() if number]
        if self.skipped:
            parts.append(f"{self.skipped:,} that could not be used, the first because of: {self.first_skipped}")
        sentence = [f"left out: {'; '.join(parts)}"] if parts else []
        sentence += [
            f"{name} of {count:,} judgements was left out: only text is used" for name, count in self.omitted.items()
        ]
        return "; ".join(sentence)


class JudgementReader:
    """Judgements of one source, read again in every iteration.

    Attributes:
        source: The source.
        summary: The counts of the last iteration, also while it runs.
        problems: What was invalid, and why.

    Example:
        >>> reader = JudgementReader([{"prompt": "Hi", "completion": "Hello!", "label": True}])
        >>> [judgement.chosen for judgement in reader]
        ['Hello!']
        >>> reader.describe()
        '1 judgements (1 thumb): 1 liked only'
    """

    def __init__(
        self, source: JudgementSource, *, on_error: OnError = "fail", regeneration_weight: float = 0.0
    ) -> None:
        """Sets the source; reading starts with the iteration.

        Args:
            source: What `ConversationReader` takes, with a judgement in each row.
            on_error: Whether invalid data stops the reading, or is left out and counted.
            regeneration_weight: The weight of regenerations, relative to other judgements; 0 leaves them out.

        Raises:
            ConversationError: If the source is none of these.
            ConfigError: If the weight is not a number of at least 0.
        """
        is_number = isinstance(regeneration_weight, int | float) and not isinstance(regeneration_weight, bool)
        if not is_number or not 0 <= regeneration_weight < 1e6:
            raise ConfigError(f"regeneration_weight is {regeneration_weight!r}: it must be a number of at least 0")
        if isinstance(source, Judgement):
            raise ConversationError("judgements are a file or a list of judgements: give a list, even of one")
        self._conversations = ConversationReader(source, on_error=on_error)  # type: ignore[arg-type]
        self.source = self._conversations.source
        self.problems = Problems(on_error)
        self.summary = JudgementSummary()
        self._regeneration_weight = regeneration_weight

    @classmethod
    def of(cls, source: "JudgementSource | JudgementReader") -> "JudgementReader":
        """Returns a reader of a source; a reader is returned unchanged."""
        return source if isinstance(source, JudgementReader) else cls(source)

    def __iter__(self) -> Iterator[Judgement]:
        """Reads from the start.

        Raises:
            ConversationError: If there is nothing to read, no judgement that can be used, or a malformed one; the
                message begins with the place.
        """
        self.problems = Problems(self.problems.on_error)
        self.summary = summary = JudgementSummary()
        torn: list[str] = []
        for row in self._rows(torn):
            judgement = self._converted(row)
            if judgement is not None:
                summary.add(judgement)
                yield judgement
        summary.torn = len(torn)
        if torn:
            logger.warning(
                "%s is half a line: left out%s", torn[0], f", as are {len(torn) - 1:,} more" * (len(torn) > 1)
            )
        if not summary.judgements:
            raise ConversationError(self._nothing())

    def describe(self) -> str:
        """Describes the last iteration in one line."""
        return self.summary.describe()

    def left_out(self) -> str:
        """Describes what the last iteration left out, in a sentence; empty if nothing was."""
        return self.summary.left_out()

    def fingerprint(self) -> str | None:
        """Hashes the files of the source, as a key for caches; None for a source that is not a file or folder."""
        files = self._conversations.fingerprint()
        return None if files is None else f"{files} regenerations {float(self._regeneration_weight)!r}"

    def _rows(self, torn: list[str]) -> Iterator[Row]:
        if isinstance(self.source, str | os.PathLike):
            yield from without_torn(file_rows(self.source), torn)
        else:
            for number, item in enumerate(self.source, 1):
                yield Row(f"judgement {number}", plain(item))

    def _converted(self, row: Row) -> Judgement | None:
        """Returns the judgement of a row; None if it is counted among what is left out."""
        summary = self.summary
        try:
            if row.error:
                raise ConversationError(row.error)
            judgement = judgement_of(row.value)
        except ConversationError as error:
            self.problems.add(f"{row.place}: {error}" if row.place else str(error))
            summary.skipped, summary.first_skipped = self.problems.count, self.problems.messages[0]
            return None
        if judgement is None:
            summary.undecided += 1
            return None
        if isinstance(row.value, Mapping) and row.value.get("comparison") is True:
            summary.comparisons += 1
            return None
        if judgement.is_pair and (judgement.chosen or "").strip() == (judgement.rejected or "").strip():
            summary.identical += 1
            return None
        weight = judgement.weight * (self._regeneration_weight if judgement.kind == REGENERATION else 1)
        if judgement.kind == REGENERATION and not weight:
            summary.regenerations += 1
            return None
        place = encodable(row.place)
        return replace(judgement, weight=weight, id=judgement.id or place)

    def _nothing(self) -> str:
        where = f"{self.source} has" if isinstance(self.source, str | os.PathLike) else "the list has"
        reasons = self.left_out()
        return f"{where} no judgement that can be used{f' ({reasons})' if reasons else ''}: write one per line, {FORM}"


def holds_judgements(source: str | os.PathLike[str]) -> bool:
    """Returns whether the first row that can be read of a file or folder is a judgement; False for other sources."""
    if not os.path.exists(source):  # noqa: PTH110 - unlike Path's, it accepts any string
        return False
    try:
        first = next((row for row in file_rows(source) if not row.error), None)
    except ConversationError:
        return False
    return first is not None and form_of(first.value) is not None


def latest_thumbs(judgements: Iterable[Judgement]) -> tuple[list[Judgement], int]:
    """Leaves out thumbs that a later one on the same response replaces; returns the others, and how many were left out.

    Example:
        >>> from convmodel.conversation import Conversation
        >>> up = Judgement(Conversation(["Hi"]), "assistant", chosen="Hello!", kind="thumb")
        >>> down = Judgement(Conversation(["Hi"]), "assistant", rejected="Hello!", kind="thumb")
        >>> [judgement.chosen for judgement in latest_thumbs([up, up, down])[0]], latest_thumbs([up, up, down])[1]
        ([None], 2)
    """
    kept: dict[Any, Judgement] = {}
    count = 0
    for count, judgement in enumerate(judgements, 1):
        key: Any = count
        if judgement.kind == "thumb" and not judgement.is_pair:
            context = judgement.context
            key = context.turns, context.turn_speakers, judgement.responder, judgement.chosen or judgement.rejected
            kept.pop(key, None)  # so that the order is that of the later ones
        kept[key] = judgement
    return [*kept.values()], count - len(kept)


def of_other_models(judgements: Iterable[Judgement], fingerprint: str) -> int:
    """Counts the judgements of responses that another model wrote; those without a fingerprint do not count.

    Example:
        >>> from convmodel.conversation import Conversation
        >>> judgement = Judgement(Conversation(["Hi"]), "assistant", chosen="Hello!", fingerprint="gpt2 1f3a")
        >>> of_other_models([judgement], "gpt2 77c0")
        1
    """
    return sum(judgement.fingerprint not in ("", fingerprint) for judgement in judgements)
