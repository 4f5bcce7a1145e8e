"""A head that tells a conversation's next turn from turns that were said elsewhere.

Owns: what it looks at, learning its few weights, how often it is right, and its file.
"""

import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from convmodel.conversation import Conversation
from convmodel.errors import ConfigError, ConversationError, ModelLoadError
from convmodel.files.atomic import staged
from convmodel.hf_model.fingerprint import model_fingerprint
from convmodel.hf_model.lm_head import Head
from convmodel.hf_model.log_probs import log_probabilities, score_responses
from convmodel.layout.architecture import window_length
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "next_turn_head.json"

NEGATIVES = 4
"""How many turns of other conversations each next turn is told from, unless the caller says otherwise."""

LONGEST = 256
"""Tokens of context and turn that are looked at; every context is read once for each turn."""

_SAME = 1e-6
_PENALTY = 1e-2  # on the squared weights, so that there is one best answer


@dataclass(frozen=True, slots=True)
class NextTurnHead:
    """Weights of what a model says of a response: how much likelier the context makes it, and so on.

    Attributes:
        weights: One for each of `features`.
        model: What it was trained on, as of `model_fingerprint`.
    """

    weights: tuple[float, ...]
    model: str

    def score(self, given: float, alone: float, tokens: int) -> float:
        """Scores a response; only differences between responses to one context mean something.

        Args:
            given: ln p(response | context), in nats.
            alone: ln p(response) as the beginning of a conversation.
            tokens: How many tokens both are of.
        """
        return sum(weight * part for weight, part in zip(self.weights, features(given, alone, tokens), strict=True))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the head beside the model that it belongs to.

        Raises:
            SaveError: If the folder cannot be written.
        """
        with staged(folder) as stage:
            (stage / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str], hf_model: "PreTrainedModel") -> "NextTurnHead":
        """Reads the head of a model.

        Raises:
            ModelLoadError: If there is none, or it was trained on other weights.
        """
        try:
            found = json.loads(Path(folder, FILE).read_text(encoding="utf-8"))
            head = cls(tuple(map(float, found["weights"])), str(found["model"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelLoadError(f"{folder} has no {FILE} that can be read: `convmodel next-turn` makes one") from error
        if head.model != model_fingerprint(hf_model):
            raise ModelLoadError(
                f"{Path(folder, FILE)} was made for other weights ({head.model}): `convmodel next-turn` makes a new one"
            )
        return head


@dataclass(frozen=True, slots=True)
class Hits:
    """How often the real next turn came first.

    Attributes:
        head: Share of conversations whose next turn the head puts first (hits@1); a tie is a miss.
        likelihood: The same by ln p(response | context) a token.
        chance: What drawing lots would give.
        conversations: How many there were.
        left_out: Conversations of one turn, which have no next one.
    """

    head: float
    likelihood: float
    chance: float
    conversations: int
    left_out: int


def features(given: float, alone: float, tokens: int) -> tuple[float, ...]:
    """Returns what the head weighs; the first is the pointwise mutual information of context and response, in nats.

    Example:
        >>> [round(part, 2) for part in features(-6.0, -10.0, 4)]
        [4.0, 1.0, -1.5, 1.39]
    """
    gained = given - alone
    return gained, gained / tokens, given / tokens, float(torch.tensor(float(tokens)).log())


def fit_next_turn_head(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    conversations: Iterable[Conversation],
    *,
    negatives: int = NEGATIVES,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[NextTurnHead, Hits]:
    """Learns to tell each conversation's last turn from those of others; the model itself stays as it is.

    It minimises the cross entropy of the softmax over the real turn and the others, which is convex: one answer,
    whatever the order of the conversations and however many are computed at a time.

    Args:
        hf_model: The model.
        tokenizer: Its layout.
        conversations: Of two turns at least; others are left out.
        negatives: How many turns each is told from.
        seed: Seeds the choice of these.
        progress: Called with the number of conversations done.

    Returns:
        The head, and how often it is right on these very conversations.

    Raises:
        ConversationError: If there are too few conversations.
    """
    measured, left_out = measure_next_turns(hf_model, tokenizer, conversations, negatives, seed, progress)
    table = [torch.tensor([features(*each) for each in row], dtype=torch.float64) for row in measured]
    scale = torch.cat(table).std(dim=0)
    scale[scale < _SAME] = torch.inf  # what is the same everywhere tells nothing
    scaled = [row / scale for row in table]
    weights = torch.zeros(len(scale), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=1000, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        nats = -torch.stack([(row @ weights).log_softmax(0)[0] for row in scaled]).mean()
        total: torch.Tensor = nats + _PENALTY * weights.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    head = NextTurnHead(tuple((weights.detach() / scale).tolist()), model_fingerprint(hf_model))
    return head, _hits(head, measured, left_out)


def next_turn_hits(
    head: NextTurnHead,
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    conversations: Iterable[Conversation],
    *,
    negatives: int = NEGATIVES,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Hits:
    """Tells how often a head puts the real last turn before those of other conversations; see `fit_next_turn_head`."""
    measured, left_out = measure_next_turns(hf_model, tokenizer, conversations, negatives, seed, progress)
    return _hits(head, measured, left_out)


Measured = list[list[tuple[float, float, int]]]
"""For each conversation its last turn and then the others: ln p given the context and alone, and the tokens."""


def measure_next_turns(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    conversations: Iterable[Conversation],
    negatives: int,
    seed: int,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Measured, int]:
    """Measures each conversation's last turn and some of others; see `fit_next_turn_head`.

    Returns:
        What was measured of those conversations that have a next turn, in their order; and how many have none.
    """
    every = list(conversations)
    longest = min(LONGEST, window_length(hf_model.config, tokenizer.layout.max_length))
    measured, head = [], Head.of(hf_model)
    # A model without token types gets what one speaker says in a row as one turn.
    arranged = every if tokenizer.layout.use_token_types else [each.joined() for each in every]
    usable = [each for each in arranged if has_next_turn(each)]
    chosen = choose_negatives([each.turns[-1] for each in usable], negatives, seed)
    for number, (conversation, others) in enumerate(zip(usable, chosen, strict=True)):
        before = before_last(conversation)
        turns = [_shortened(turn, tokenizer, longest // 2) for turn in (conversation.turns[-1], *others)]
        given = score_responses(
            hf_model, tokenizer, before, turns, reply_as=conversation.turn_speakers[-1], max_length=longest, head=head
        )
        windows = [window for turn in turns for window in tokenizer.windows([turn], max_length=longest, loss_on="last")]
        alone = log_probabilities(hf_model, tokenizer, windows, head=head)
        measured.append([*zip(given, alone, [window.supervised_tokens for window in windows], strict=True)])
        progress(number + 1)
    return measured, len(every) - len(usable)


def has_next_turn(conversation: Conversation) -> bool:
    """Tells whether there is a last turn and, but for pinned ones, a turn before it."""
    return len(conversation.turns) - conversation.pinned >= 2


def before_last(conversation: Conversation) -> Conversation:
    """Returns the context of a conversation's last turn."""
    return replace(conversation, turns=conversation.turns[:-1], speakers=conversation.turn_speakers[:-1], weights=None)


def _shortened(turn: str, tokenizer: ConversationTokenizer, most: int) -> str:
    """Keeps the beginning of a turn that is too long for a window with its context."""
    ids = tokenizer.encode(turn)
    return turn if len(ids) <= most else tokenizer.decode(ids[:most]).strip() or turn[:1]


def choose_negatives(turns: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """Chooses for each turn others that say something else, none of them twice; the order of the turns does not matter.

    Raises:
        ConfigError: If none are asked for.
        ConversationError: If all turns say the same.

    Example:
        >>> choose_negatives(["Bye", "bye ", "See you"], 2, seed=0)[0]
        ['See you']
    """
    if count < 1:
        raise ConfigError(f"negatives is {count}: it must be at least 1")
    said = {" ".join(turn.casefold().split()): turn for turn in sorted(turns)}
    if len(said) < 2:
        raise ConversationError("telling next turns apart needs two conversations that end in different turns")
    known, chosen = sorted(said), []
    for turn in turns:
        own = " ".join(turn.casefold().split())
        others = random.Random(f"{seed} {own}").sample(known, min(count + 1, len(known)))
        chosen.append([said[other] for other in others if other != own][:count])
    return chosen


def _hits(head: NextTurnHead, measured: Measured, left_out: int) -> Hits:
    def share(score: Callable[[float, float, int], float]) -> float:
        first = [score(*row[0]) > max(score(*other) for other in row[1:]) for row in measured]
        return sum(first) / len(first)

    return Hits(
        head=share(head.score),
        likelihood=share(lambda given, alone, tokens: given / tokens),
        chance=sum(1 / len(row) for row in measured) / len(measured),
        conversations=len(measured),
        left_out=left_out,
    )
