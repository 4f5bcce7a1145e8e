"""Metrics of generated responses: similarity to the references, variety, repetition, length, empty ones, loops.

Owns: what each of these metrics is. Knows nothing of where responses come from. BLEU and chrF are in `bleu_chrf`,
copies of the training data in `verbatim_copies`. `docs/evaluation.md` has the formulas and their sources.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from convmodel.conversation import Conversation
from convmodel.evaluation.metric import Metric, Ratio, Topic
from convmodel.evaluation.word_split import ngrams, words

DISTINCT = (1, 2, 3)
"""The lengths, in words, of the runs whose distinct ones are counted."""

REPEATED = 3
"""The length, in words, of the runs that count as repeated; shorter ones are often idioms."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A context, what followed it in the data, and what a model responds.

    `number` is the conversation's, from 1; `finish_reason` is `stop` or `length`, `tokens` the response's length.

    Example:
        >>> Exchange(1, Conversation(["Hello"]), reference="Hi", response="Hi there!").finish_reason
        'stop'
    """

    number: int
    context: Conversation
    reference: str
    response: str
    finish_reason: str = "stop"
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class _SplitExchange:
    """An exchange as words."""

    exchange: Exchange
    response: list[str]
    reference: list[str]
    context: list[list[str]]  # one list per turn
    new_runs: dict[int, int]  # for each length of `DISTINCT`, how many runs no earlier response has

    def runs(self, length: int = REPEATED) -> list[tuple[str, ...]]:
        return ngrams(self.response, length)

    def runs_from_context(self) -> int:
        context_runs = {run for turn in self.context for run in ngrams(turn, REPEATED)}
        return sum(run in context_runs for run in self.runs())


def _distinct(length: int, explanation: str) -> Ratio[_SplitExchange]:
    """Declares the distinct runs of words in all responses, divided by all runs.

    Source: J. Li et al., A Diversity-Promoting Objective Function for Neural Conversation Models (2016), section 5.1.
    """
    return Ratio(
        name=f"distinct_{length}", label=f"distinct-{length}", topic=Topic.RESPONSES, explanation=explanation,
        better="higher", percent=True, resampled=False, above=lambda exchange: exchange.new_runs[length],
        below=lambda exchange: len(exchange.runs(length)),
    )  # fmt: skip


# fmt: off
RESPONSES: tuple[Ratio[_SplitExchange], ...] = (
    Ratio(name="f1", label="words shared with the reference (F1)", topic=Topic.RESPONSES, better="higher", percent=True,
        explanation="words that a response has in common with the reference; there are many good responses, so even "
        "people score low",
        above=lambda exchange: unigram_f1(exchange.response, exchange.reference)),
    _distinct(1, "distinct words, divided by all words of the responses; low if the same words are repeated"),
    _distinct(2, "the same for word bigrams"),
    _distinct(3, "the same for word trigrams"),
    # Source: S. Welleck et al., Neural Text Generation with Unlikelihood Training (2020), equation 10.
    Ratio(name="repeats_itself", label="repetition within a response", topic=Topic.RESPONSES, better="lower",
        explanation="word trigrams that occur earlier in the same response", percent=True,
        above=lambda exchange: len(exchange.runs()) - len(set(exchange.runs())),
        below=lambda exchange: len(exchange.runs())),
    Ratio(name="repeats_context", label="repetition of the context", topic=Topic.RESPONSES, better="lower",
        explanation="word trigrams that occur in the context", percent=True,
        above=lambda exchange: exchange.runs_from_context(), below=lambda exchange: len(exchange.runs())),
    Ratio(name="said_before", label="repeated turns", topic=Topic.RESPONSES, better="lower", percent=True,
        explanation="responses that equal a turn of the context",
        above=lambda exchange: bool(exchange.response) and exchange.response in exchange.context),
    Ratio(name="length", label="length / reference", topic=Topic.RESPONSES,
        explanation="words of the responses, divided by words of the references",
        above=lambda exchange: len(exchange.response), below=lambda exchange: len(exchange.reference)),
    Ratio(name="runaway", label="cut off at the limit", topic=Topic.RESPONSES, better="lower", percent=True,
        explanation="responses that reached the maximum length",
        above=lambda exchange: exchange.exchange.finish_reason == "length"),
    Ratio(name="empty", label="empty", topic=Topic.RESPONSES, better="lower", percent=True,
        explanation="responses without any text",
        above=lambda exchange: not exchange.exchange.response.strip()),
)
# fmt: on

LOOPS: Ratio[bool] = Ratio(
    name="loops", label="self-chats that loop", topic=Topic.RESPONSES, better="lower", percent=True,
    explanation="conversations with itself that repeat the same turns over and over", above=lambda is_loop: is_loop,
)  # fmt: skip


def response_metrics(exchanges: Sequence[Exchange]) -> list[Metric]:
    """Measures all of `RESPONSES`, with one row per exchange."""
    rows = [[exchange] for exchange in _split(exchanges)]
    return [definition.measure(rows) for definition in RESPONSES]


def _split(exchanges: Sequence[Exchange]) -> list[_SplitExchange]:
    split = []
    known: dict[int, set[tuple[str, ...]]] = {length: set() for length in DISTINCT}
    for exchange in exchanges:
        response, new_runs = words(exchange.response), {}
        for length, known_runs in known.items():
            before = len(known_runs)
            known_runs.update(ngrams(response, length))
            new_runs[length] = len(known_runs) - before
        context = [words(turn) for turn in exchange.context.turns]
        split.append(_SplitExchange(exchange, response, words(exchange.reference), context, new_runs))
    return split


def unigram_f1(response: Sequence[str], reference: Sequence[str]) -> float:
    """Returns the harmonic mean of precision and recall of words; each counts as often as both have it.

    Source: P. Rajpurkar et al., SQuAD (2016), section 6.1. No articles are left out, which English alone has.

    Example:
        >>> unigram_f1(["so", "do", "i"], ["do", "i", "know", "you", "i"])
        0.5
    """
    common = sum((Counter(response) & Counter(reference)).values())
    return 2 * common / (len(response) + len(reference)) if common else 0.0
