"""A head that distinguishes a conversation's next turn from random other turns.

Owns: the features of the head, the training of the few weights, the accuracy (hits@1), and the file.
"""

import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
"""The default number of turns of other conversations that each next turn is compared with."""

LONGEST = 256
"""Limit of context and turn in tokens; every context is read once per turn."""

_MIN_DEVIATION = 1e-6
_PENALTY = 1e-2  # on the squared weights, so that the minimum is unique


@dataclass(frozen=True, slots=True)
class NextTurnHead:
    """Weights of features of a response, such as how much the context raises its probability."""

    weights: tuple[float, ...]  # one for each of `features`
    model: str  # the fingerprint of the model that it was trained for

    def score(self, given: float, alone: float, tokens: int) -> float:
        """Returns the score of a response, comparable between responses to one context only; see `features`."""
        return sum(weight * part for weight, part in zip(self.weights, features(given, alone, tokens), strict=True))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the head into the folder of its model."""
        with staged(folder) as stage:
            (stage / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, folder: str | os.PathLike[str], hf_model: "PreTrainedModel") -> "NextTurnHead":
        """Reads the head of a model.

        Raises:
            ModelLoadError: If there is none, or it was trained for other weights.
        """
        try:
            content = json.loads(Path(folder, FILE).read_text(encoding="utf-8"))
            head = cls(tuple(map(float, content["weights"])), str(content["model"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelLoadError(f"{folder} has no {FILE} that can be read: `convmodel next-turn` makes one") from error
        if head.model != model_fingerprint(hf_model):
            raise ModelLoadError(
                f"{Path(folder, FILE)} was made for other weights ({head.model}): `convmodel next-turn` makes a new one"
            )
        return head


@dataclass(frozen=True, slots=True)
class Hits:
    """The share of conversations whose real next turn is ranked first (hits@1); a tie is a miss."""

    head: float  # by the head
    likelihood: float  # by ln p(response | context) per token
    chance: float  # by a random choice
    conversations: int
    left_out: int  # of one turn, which have no next turn


def features(given: float, alone: float, tokens: int) -> tuple[float, ...]:
    """Returns the features of a response; the first is its pointwise mutual information with the context, in nats.

    `given` is ln p(response | context), `alone` is ln p(response) as the beginning of a conversation.

    Example:
        >>> [round(part, 2) for part in features(-6.0, -10.0, 4)]
        [4.0, 1.0, -1.5, 1.39]
    """
    gained = given - alone
    return gained, gained / tokens, given / tokens, float(torch.tensor(float(tokens)).log())


def fit_next_turn_head(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, conversations: Iterable[Conversation], **options: Any
) -> tuple[NextTurnHead, Hits]:
    """Trains a head to distinguish each conversation's last turn from those of others; the model stays unchanged.

    Minimizes the cross entropy of the softmax over the real turn and the others. It is convex, so the result does not
    depend on the order of the conversations or on the batch size. Returns the head and its accuracy on these
    conversations; the options and errors are those of `measure_next_turns`.
    """
    measured, left_out = measure_next_turns(hf_model, tokenizer, conversations, **options)
    table = [torch.tensor([features(*turn) for turn in row], dtype=torch.float64) for row in measured]
    scale = torch.cat(table).std(dim=0)
    scale[scale < _MIN_DEVIATION] = torch.inf  # a constant feature carries no information
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
    **options: Any,
) -> Hits:
    """Returns how often a head ranks the real last turn first; the options are those of `measure_next_turns`."""
    return _hits(head, *measure_next_turns(hf_model, tokenizer, conversations, **options))


Measured = list[list[tuple[float, float, int]]]
"""For each conversation, its last turn and then the others: ln p given the context, ln p alone, and tokens."""


def measure_next_turns(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    conversations: Iterable[Conversation],
    negatives: int = NEGATIVES,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Measured, int]:
    """Measures each conversation's last turn and `negatives` others; `progress` gets the number of conversations done.

    Returns:
        The measurements of conversations that have a next turn, in order; and how many have none.

    Raises:
        ConfigError: If `negatives` is less than 1.
        ConversationError: If all conversations end in the same text.
        LogitsError: If the model's logits are not numbers.
    """
    arranged = list(conversations)
    longest = min(LONGEST, window_length(hf_model.config, tokenizer.layout.max_length))
    measured, head = [], Head.of(hf_model)
    as_laid_out = [as_last_turn(tokenizer, conversation) for conversation in arranged]
    usable = [conversation for conversation in as_laid_out if has_next_turn(conversation)]
    chosen = choose_negatives([conversation.turns[-1] for conversation in usable], negatives, seed)
    for number, (conversation, others) in enumerate(zip(usable, chosen, strict=True)):
        before = before_last(conversation)
        turns = [_shortened(turn, tokenizer, longest // 2) for turn in (conversation.turns[-1], *others)]
        given = score_responses(
            hf_model, tokenizer, before, turns, reply_as=conversation.turn_speakers[-1], max_length=longest, head=head
        )
        windows = [window for turn in turns for window in tokenizer.windows([turn], max_length=longest, loss_on="last")]
        alone = log_probabilities(hf_model, tokenizer, windows, head)
        measured.append([*zip(given, alone, [window.supervised_tokens for window in windows], strict=True)])
        progress(number + 1)
    return measured, len(arranged) - len(usable)


def as_last_turn(tokenizer: ConversationTokenizer, conversation: Conversation) -> Conversation:
    """Returns a conversation as the layout holds it if its last turn is a response: that may decide who is a user."""
    return tokenizer.arrange(conversation, responder=conversation.turn_speakers[-1]).conversation


def has_next_turn(conversation: Conversation) -> bool:
    """Returns whether there are at least two turns that are not pinned."""
    return len(conversation.turns) - conversation.pinned >= 2


def before_last(conversation: Conversation) -> Conversation:
    """Returns the context of a conversation's last turn."""
    return replace(conversation, turns=conversation.turns[:-1], speakers=conversation.turn_speakers[:-1], weights=None)


def _shortened(turn: str, tokenizer: ConversationTokenizer, limit: int) -> str:
    """Returns the beginning of a turn, of at most `limit` tokens."""
    ids = tokenizer.encode(turn)
    return turn if len(ids) <= limit else tokenizer.decode(ids[:limit]).strip() or turn[:1]


def choose_negatives(turns: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """Chooses random other turns of different text for each turn, independent of the order of the turns.

    Example:
        >>> choose_negatives(["Bye", "bye ", "See you"], 2, seed=0)[0]
        ['See you']
    """
    if count < 1:
        raise ConfigError(f"negatives is {count}: it must be at least 1")
    by_text = {" ".join(turn.casefold().split()): turn for turn in sorted(turns)}
    if len(by_text) < 2:
        raise ConversationError("ranking next turns needs at least two conversations with different last turns")
    texts, chosen = sorted(by_text), []
    for turn in turns:
        normalized = " ".join(turn.casefold().split())
        sampled = random.Random(f"{seed} {normalized}").sample(texts, min(count + 1, len(texts)))
        chosen.append([by_text[text] for text in sampled if text != normalized][:count])
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
