"""The perplexity of `builtin:chitchat` on small talk, compared with n-grams and a pretrained model many times its size.

    python benchmarks/builtin.py WORK [--pretrained FOLDER] [--data test.jsonl]

WORK is the folder of `scripts/train_builtin.py`, which has the training data and the held-out conversations. All models
are evaluated on the same text. Perplexity is per token of a model's vocabulary; bits per byte compare all. The n-gram
models read a conversation as the tokens of `builtin:chitchat`, separators included, and were trained on the same
conversations and nothing else: unigram by counting, 5-gram by interpolated Kneser-Ney smoothing with one discount per
order (Chen and Goodman, 1999, https://doi.org/10.1006/csla.1999.0128).
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from convmodel import ConversationModel
from convmodel.conversation import Conversation
from convmodel.data.reading.reader import read_conversations
from convmodel.files.hub import CHITCHAT
from convmodel.layout.tokenizer import ConversationTokenizer

Gram = tuple[int, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--pretrained", action="append", default=[], help="a model to evaluate without fine-tuning")
    parser.add_argument("--data", type=Path, help="conversations to evaluate on; by default WORK's test set")
    options = parser.parse_args()
    test = read_conversations(options.data or options.work / "masked/test/train.jsonl")
    train = read_conversations(options.work / "named/train.jsonl")
    model = ConversationModel.from_pretrained(CHITCHAT)
    train_tokens = [encode(conversation, model.tokenizer) for conversation in train]
    test_tokens = [encode(conversation, model.tokenizer) for conversation in test]
    text_bytes = sum(len(turn.encode()) for conversation in test for turn in conversation.turns)
    print(f"{len(test)} conversations, {text_bytes:,} bytes of text")
    for order in (1, 5):
        nats = KneserNey(train_tokens, order, len(model.tokenizer)).nats(test_tokens)
        separator = model.tokenizer.sep_token_id
        of_text = math.fsum(nat for nat, token in zip(nats, targets(test_tokens), strict=True) if token != separator)
        report(f"{order}-gram", math.fsum(nats) / len(nats), of_text / math.log(2) / text_bytes)
    for name in [CHITCHAT, *options.pretrained]:
        result = ConversationModel.from_pretrained(name).evaluate(test)
        report(Path(name).name, result.loss, result.bits_per_byte)


def report(name: str, loss: float, bits_per_byte: float) -> None:
    print(f"{name:24} perplexity per token {math.exp(loss):9.1f}   bits per byte {bits_per_byte:.3f}", flush=True)


def encode(conversation: Conversation, tokenizer: ConversationTokenizer) -> list[int]:
    """Encodes a conversation as for training: a separator, then each turn with one after it."""
    separator = tokenizer.sep_token_id
    return [separator, *(index for turn in conversation.turns for index in (*tokenizer.encode(turn), separator))]


def targets(sequences: Iterable[Sequence[int]]) -> list[int]:
    return [token for sequence in sequences for token in sequence[1:]]


class KneserNey:
    """Interpolated Kneser-Ney: the longest history counts tokens, shorter ones the different tokens before it."""

    def __init__(self, sequences: list[list[int]], order: int, vocabulary: int) -> None:
        self._order, self._vocabulary = order, vocabulary
        self._counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
        for sequence in sequences:
            for end in range(1, len(sequence)):
                # At the beginning of a sequence, the longest available history takes the place of a full one.
                length = min(order, end + 1)
                self._counts[length - 1][tuple(sequence[end + 1 - length : end + 1])] += 1
        for longer, shorter in zip(self._counts[:0:-1], self._counts[-2::-1], strict=True):
            shorter.update(Counter(gram[1:] for gram in longer))
        self._totals: list[Counter[Gram]] = [Counter() for _ in range(order)]
        self._kinds: list[Counter[Gram]] = [Counter() for _ in range(order)]
        self._discounts: list[float] = []
        for counts, totals, kinds in zip(self._counts, self._totals, self._kinds, strict=True):
            for gram, count in counts.items():
                totals[gram[:-1]] += count
                kinds[gram[:-1]] += 1
            once, twice = (sum(1 for count in counts.values() if count == n) for n in (1, 2))
            self._discounts.append(once / (once + 2 * twice) if once else 0.0)
        self._check()

    def probability(self, history: Gram, token: int) -> float:
        """Returns the probability of a token after a history."""
        result = 1.0 / self._vocabulary
        for level in range(min(self._order, len(history) + 1)):
            context = history[len(history) - level :]
            total = self._totals[level][context]
            if total:
                discount = self._discounts[level]
                above = max(self._counts[level][(*context, token)] - discount, 0.0)
                result = (above + discount * self._kinds[level][context] * result) / total
        return result

    def nats(self, sequences: list[list[int]]) -> list[float]:
        """Returns -ln p of each token except the first of a sequence."""
        before = self._order - 1
        return [
            -math.log(self.probability(tuple(sequence[max(0, end - before) : end]), sequence[end]))
            for sequence in sequences
            for end in range(1, len(sequence))
        ]

    def _check(self) -> None:
        """Checks that the probabilities after some histories, known and unknown, add up to 1."""
        histories = [gram[:-1] for gram in list(self._counts[-1])[:3]]
        for history in [*histories, (-1,) * (self._order - 1)]:
            total = math.fsum(self.probability(history, token) for token in range(self._vocabulary))
            if abs(total - 1) > 1e-9:
                raise ArithmeticError(f"probabilities after {history} add up to {total}")


if __name__ == "__main__":
    main()
