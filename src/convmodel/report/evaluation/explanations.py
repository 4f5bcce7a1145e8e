"""Numbers and figures as people read them.

Owns: how a figure and its interval are written, what each means to somebody who has not met it before, and the
sentences at the top of a report.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from convmodel.evaluation.metric import Estimate
from convmodel.layout.token_view import visible_line
from convmodel.report.evaluation.evaluate import Evaluated

GROUPS: dict[str, dict[str, str]] = {
    "How well it predicts what people say": {
        "perplexity": "among how many equally likely tokens it would be as unsure; lower is better, and only models of "
        "one vocabulary compare",
        "bits_per_byte": "how many bits a byte of text costs it; lower is better, and any two models compare",
        "token_accuracy": "how often the token that it finds likeliest is the right one",
    },
    "Whether it knows where a turn ends": {
        "stop_probability": "how sure it is of the end where people ended their turns; higher is better",
        "false_stop_rate": "how sure it is of an end, at each token, where people went on; lower is better",
        "ended_early": "how many turns it would have ended too early, drawing at random; lower is better",
    },
    "Whether it knows which turn fits": {
        "hits_at_1": "how often it finds the true next turn likelier, a token, than turns of other conversations",
        "hits_at_5": "how often the true next turn is among its first five",
        "mrr": "1 / the place of the true next turn, on average; 1 is best",
        "gain_hits_at_1": "the same, ranked by how much the context makes a turn likelier",
        "gain_hits_at_5": "the same, among the first five",
        "gain_mrr": "the same as the mean of 1 / place",
    },
    "What its responses are like": {
        "f1": "words that a response has in common with what was really said; there are many good responses, so even "
        "people score low",
        "bleu": "runs of words in common with what was really said, from 0 to 100",
        "chrf": "runs of characters in common with what was really said, from 0 to 100",
        "distinct_1": "how many of all its words are different ones; dull models say the same words again and again",
        "distinct_2": "the same for pairs of words",
        "distinct_3": "the same for three words in a row",
        "repeats_itself": "three words in a row that it had said before in the same response",
        "repeats_context": "three words in a row that were said before in the conversation",
        "said_before": "responses that are a turn of the conversation, word for word",
        "length": "how long its responses are beside those of people; 1 is as long",
        "runaway": "responses that it did not end by itself",
        "empty": "responses of nothing",
        "loops": "conversations with itself that go round in a circle",
    },
    "Whether it parrots its training data": {
        "copied_whole": "responses that are a turn of the training data, word for word",
        "copied": "these, and responses with a long run of words from it",
        "references_copied_whole": "the same of what people said, to compare with",
        "references_copied": "the same of what people said, to compare with",
    },
}
"""What each figure means, in the order of a report. A figure that is not here is in JSON alone."""


def shown(found: Estimate, percent: bool) -> str:
    """Writes a number and its interval.

    Example:
        >>> shown(Estimate(0.25, 0.2, 0.31, 100), percent=True)
        '25.0 % (20.0 to 31.0)'
        >>> shown(Estimate(12.345, math.nan, math.nan, 1), percent=False)
        '12.35'
    """
    value, interval = parts(found, percent)
    return f"{value} ({interval})" if interval else value


def parts(found: Estimate, percent: bool) -> tuple[str, str]:
    """Writes a number, and its interval if it has one."""
    value = number(found.value, percent) + " %" * (percent and not math.isnan(found.value))
    if math.isnan(found.low):
        return value, ""
    return value, f"{number(found.low, percent)} to {number(found.high, percent)}"


def number(value: float, percent: bool) -> str:
    """Writes a number with as many digits as say something; shares as hundredths, without the sign.

    Example:
        >>> [number(1234.56, False), number(0.12345, False), number(0.12345, True), number(math.nan, False)]
        ['1,234.6', '0.123', '12.3', 'none']
    """
    if math.isnan(value):
        return "none"
    if percent:
        return f"{100 * value:.1f}"
    size = abs(value)
    return f"{value:,.1f}" if size >= 100 else f"{value:.2f}" if size >= 10 else f"{value:.3f}"


@dataclass(frozen=True, slots=True)
class Group:
    """Some figures of those models that have any of them.

    Attributes:
        title: What they tell.
        names: The models.
        rows: For each figure its label, what it means, and for each model the number and its interval, as text.
    """

    title: str
    names: list[str]
    rows: list[tuple[str, str, list[tuple[str, str]]]]


def groups(models: Iterable[Evaluated], seed: int) -> list[Group]:
    """Writes all figures that have a meaning; groups without any are left out."""
    every = [(model.name, {figure.name: figure for figure in model.figures}) for model in models]
    found = []
    for title, meanings in GROUPS.items():
        columns = [(name, figures) for name, figures in every if figures.keys() & meanings.keys()]
        lines = []
        for name, meaning in meanings.items():
            each = [figures.get(name) for _, figures in columns]
            first = next((figure for figure in each if figure is not None), None)
            if first is not None:
                cells = [("", "") if one is None else parts(one.estimate(seed), one.percent) for one in each]
                lines.append((first.label, meaning, cells))
        if lines:
            found.append(Group(title, [name for name, _ in columns], lines))
    return found


def title(models: Iterable[Evaluated]) -> str:
    """Makes the heading of a report on some models."""
    first, *others = [visible_line(model.name) for model in models]
    return f"{first} beside {', '.join(others)}" if others else f"How good is {first}?"


def summaries(models: Iterable[Evaluated]) -> list[str]:
    """Says of each model what matters most, and of which it is said where there are several."""
    own = [model for model in models if model.result is not None]
    return [(f"{visible_line(model.name)}: " if len(own) > 1 else "") + " ".join(summary(model)) for model in own]


def summary(model: Evaluated) -> list[str]:
    """Says what matters most of a model, in a few sentences for somebody who knows no figure."""
    found = {figure.name: figure.value for figure in model.figures}
    told = []
    if "perplexity" in found:
        told.append(
            f"At each step it is as unsure as if {number(found['perplexity'], False)} tokens were equally likely "
            f"(its perplexity); a byte of text costs it {number(found['bits_per_byte'], False)} bits."
        )
    if "hits_at_1" in found:
        told.append(f"It finds the true next turn first in {found['hits_at_1']:.0%} of the conversations.")
    if "runaway" in found:
        told.append(
            f"{found['runaway']:.0%} of its responses did not end by themselves, {found['empty']:.0%} were empty, and "
            f"they are {number(found['length'], False)} times as long as those of people."
        )
    if "copied" in found:
        told.append(
            f"{found['copied']:.0%} of its responses are copied from the training data, at least in part; of what "
            f"people said here {found['references_copied']:.0%} are."
        )
    return told
