"""Checks of judgements before a model learns from them.

Owns: these checks, each with its threshold, and their order. Does not know how judgements are read or shown.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeAlias

from convmodel.conversation import Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.reader import JudgementSummary, of_other_models
from convmodel.data.judgements.windows import response_windows
from convmodel.errors import ConversationError
from convmodel.evaluation.word_split import words
from convmodel.hf_model.fingerprint import model_fingerprint
from convmodel.layout.architecture import window_length
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.config import PAIRS_ONLY, FitConfig
from convmodel.training.doctor.checks import Check
from convmodel.training.doctor.estimate import Estimate, check_memory
from convmodel.training.doctor.judgement_costs import estimate_judgements
from convmodel.training.doctor.statistics import Statistics
from convmodel.training.fit_data import Sources
from convmodel.training.improvement import MIN_JUDGEMENTS, run_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ONE_WAY = 0.05
"""Share of the rarer thumb, without pairs, below which hardly anything says what the other is."""

LONGER = 0.6
"""Share of pairs whose chosen response is the longer one, above which a model may learn length alone."""

UNLIKELY = 0.01
"""Probability of such a share by chance, below which it is reported."""

SAMPLE = 1000
"""Number of judgements that are encoded: whether they fit is alike in all."""

_SHOWN = 3  # places named in a finding
_EXACT = 1000  # pairs up to which the sign test is exact

Context: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class JudgementExamination:
    """The doctor's results for judgements; the statistics, of all responses in their contexts, need a tokenizer."""

    checks: list[Check]
    statistics: Statistics | None
    max_length: int = 0  # of a window in tokens; 0 without a model
    estimate: Estimate | None = None  # of a run with a model; None if not measured

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return any(check.status == "fail" for check in self.checks)


def examine_judgements(
    judgements: Sequence[Judgement],
    summary: JudgementSummary,
    valid: Sequence[Conversation] | None = None,
    model: "tuple[PreTrainedModel, ConversationTokenizer] | None" = None,
    config: FitConfig | None = None,
    *,
    run: Sources | None = None,
) -> JudgementExamination:
    """Checks judgements, in the order in which findings matter; with a model, also whether they are about it and fit.

    Args:
        judgements: All of one source.
        summary: What was counted while they were read.
        valid: Conversations that validate or test the model.
        model: The model that learns, and its tokenizer.
        config: The settings of the run; by default those of `convmodel improve`.
        run: What the run would read, to estimate its time and memory, which takes a few steps of the model.
    """
    checks = [
        check_amount(summary),
        check_used(summary),
        check_identical(summary),
        check_ways(summary),
        check_contradictions(judgements),
        check_length(judgements),
        check_models(judgements, None if model is None else model_fingerprint(model[0])),
    ]
    if valid is not None:
        checks.append(check_leaks(judgements, valid))
    if model is None:
        return JudgementExamination(checks, None)
    hf_model, tokenizer = model
    config = config or FitConfig(**run_settings({}))
    limit = window_length(hf_model.config, config.max_length)
    usable = [check_fit(judgements, tokenizer, limit), check_objective(judgements, config.objective)]
    checks += usable
    costs = None
    if run is not None and all(check.status != "fail" for check in usable):
        costs = estimate_judgements(hf_model, tokenizer, run, config)
        checks.append(check_memory(costs, smaller=config.optim != "adamw"))
    return JudgementExamination(checks, Statistics.collect(_conversations(judgements), tokenizer), limit, costs)


def check_amount(summary: JudgementSummary) -> Check:
    """Warns if there are few judgements."""
    finding = summary.describe()
    if summary.judgements < MIN_JUDGEMENTS:
        return Check(
            "judgements", "warn", finding, f"collect {MIN_JUDGEMENTS} or more; double as many say clearly more"
        )
    return Check("judgements", "pass", finding)


def check_used(summary: JudgementSummary) -> Check:
    """Warns if rows could not be used, or not all of their content."""
    if left_out := summary.left_out():
        return Check("used", "warn", left_out, "correct them, or continue without them")
    return Check("used", "pass", f"all {summary.judgements:,} judgements are used")


def check_identical(summary: JudgementSummary) -> Check:
    """Warns if pairs have the same response twice."""
    if summary.identical:
        finding = f"{summary.identical:,} pairs have a chosen response that equals the rejected one"
        return Check("identical", "warn", finding, "nothing is learned from them; remove them, or correct their export")
    return Check("identical", "pass", "no chosen response equals the rejected one")


def check_ways(summary: JudgementSummary) -> Check:
    """Warns if there are no pairs, and nearly all responses are liked, or nearly all disliked."""
    total = summary.liked + summary.disliked
    finding = f"{summary.liked:,} liked, {summary.disliked:,} disliked, and {summary.pairs:,} pairs of both"
    if summary.pairs or min(summary.liked, summary.disliked) > ONE_WAY * total:
        return Check("both ways", "pass", finding)
    rarer = "bad" if summary.liked > summary.disliked else "good"
    fix = f"judge {rarer} responses too, or write better ones (edits): one kind alone does not say what differs"
    return Check("both ways", "warn", finding, fix)


def check_contradictions(judgements: Sequence[Judgement]) -> Check:
    """Warns if two judgements of the same context are opposites."""
    opposite: dict[tuple[Context, str | None, str | None], Judgement] = {}
    places = []
    for judgement in judgements:
        context, chosen, rejected = _key(judgement.context), _strip(judgement.chosen), _strip(judgement.rejected)
        if (other := opposite.get((context, rejected, chosen))) is not None:
            places.append(f"{judgement.id} and {other.id}")
        opposite.setdefault((context, chosen, rejected), judgement)
    if not places:
        return Check("contradictions", "pass", "no two judgements of the same context are opposites")
    more = "; ..." if len(places) > _SHOWN else ""
    finding = f"{len(places):,} judgements contradict another of the same context: {'; '.join(places[:_SHOWN])}{more}"
    return Check(
        "contradictions", "warn", finding, "keep the one that is right of each two; together they teach nothing"
    )


def check_length(judgements: Sequence[Judgement]) -> Check:
    """Warns if the chosen response is the longer one, or the shorter one, in far more than half of the pairs."""
    chosen = [len(words(judgement.chosen)) for judgement in judgements if judgement.chosen is not None]
    rejected = [len(words(judgement.rejected)) for judgement in judgements if judgement.rejected is not None]
    means = {"chosen": _mean(chosen), "rejected": _mean(rejected)}
    finding = ", ".join(f"{name} responses have {mean:.1f} words" for name, mean in means.items() if mean is not None)
    pairs = [
        (len(words(judgement.chosen or "")), len(words(judgement.rejected or "")))
        for judgement in judgements
        if judgement.is_pair
    ]
    longer, shorter = sum(good > bad for good, bad in pairs), sum(good < bad for good, bad in pairs)
    if not longer + shorter:
        return Check("length of responses", "pass", finding)
    word, number = ("longer", longer) if longer >= shorter else ("shorter", shorter)
    share = number / (longer + shorter)
    finding += f"; the chosen one is {word} in {number:,} of {longer + shorter:,} pairs of unequal length ({share:.0%})"
    if share > LONGER and sign_test(number, longer + shorter) < UNLIKELY:
        other = "shorter" if word == "longer" else "longer"
        fix = f"add pairs whose better response is the {other} one, unless length is what you want to teach"
        return Check("length of responses", "warn", finding, fix)
    return Check("length of responses", "pass", finding)


def sign_test(wins: int, total: int) -> float:
    """Returns the probability that heads or tails come up so unevenly, or more so, by chance.

    Beyond 1,000 it is that of the normal distribution.

    Example:
        >>> round(sign_test(9, 10), 4), round(sign_test(5, 10), 4)
        (0.0215, 1.0)
    """
    wins = max(wins, total - wins)
    if total > _EXACT:
        return 2 * NormalDist(total / 2, math.sqrt(total) / 2).cdf(total - wins + 0.5)
    ways = sum(math.comb(total, number) for number in range(wins, total + 1))
    return min(1.0, float(2 * ways / 2**total))


def check_models(judgements: Sequence[Judgement], fingerprint: str | None) -> Check:
    """Warns if responses were written by another model than the one that learns, or by several models."""
    known = Counter(judgement.fingerprint for judgement in judgements if judgement.fingerprint)
    finding = f"{known.total():,} of {len(judgements):,} judgements name the model that wrote the response"
    fix = "judge responses of the model that learns: what another would have written teaches it less"
    if fingerprint is not None and (others := of_other_models(judgements, fingerprint)):
        names = _listed(judgement.model for judgement in judgements if judgement.fingerprint not in ("", fingerprint))
        return Check("model", "warn", f"{finding}; {others:,} are about another model{names}", fix)
    if fingerprint is None and len(known) > 1:
        names = _listed(judgement.model for judgement in judgements if judgement.fingerprint)
        return Check("model", "warn", f"{finding}; they are about {len(known):,} models{names}", fix)
    return Check("model", "pass", finding)


def check_leaks(judgements: Sequence[Judgement], valid: Sequence[Conversation]) -> Check:
    """Fails if validation has judged contexts with the chosen response, warns if it has the contexts."""
    contexts = {_key(judgement.context) for judgement in judgements}
    answered = {
        (*_key(judgement.context), (judgement.responder, judgement.chosen.strip()))
        for judgement in judgements
        if judgement.chosen is not None
    }
    lengths = sorted({len(key) for key in contexts | answered})
    leaked, total = Counter[str](), len(valid)
    for conversation in valid:
        whole = _key(conversation)
        beginnings = [whole[:length] for length in lengths if length <= len(whole)]
        # The end of a conversation is no context of anything.
        leaked["contexts"] += any(part in contexts for part in beginnings if len(part) < len(whole))
        leaked["responses"] += any(part in answered for part in beginnings)
    fix = "remove these conversations from validation, or these judgements"
    if leaked["responses"]:
        finding = (
            f"{leaked['responses']:,} of {total:,} validation conversations begin as a judged one, chosen response"
        )
        return Check("leakage", "fail", f"{finding} included", fix)
    if leaked["contexts"]:
        finding = f"{leaked['contexts']:,} of {total:,} validation conversations begin with the context of a judgement"
        return Check("leakage", "warn", finding, fix)
    return Check("leakage", "pass", f"none of {total:,} validation conversations begins with a judged context")


def check_fit(judgements: Sequence[Judgement], tokenizer: ConversationTokenizer, max_length: int) -> Check:
    """Fails if no judgement can be encoded, warns if some cannot."""
    step = max(1, len(judgements) // SAMPLE)
    sample, unfit, wrong = judgements[::step], [], []
    for judgement in sample:
        texts = [text for text in (judgement.chosen, judgement.rejected) if text is not None]
        try:
            if response_windows(tokenizer, judgement, texts, max_length) is None:
                unfit.append(judgement.id)
        except ConversationError as error:
            wrong.append(f"{judgement.id}: {error}")
    reasons = []
    if unfit:
        reasons.append(f"{len(unfit):,} do not fit in {max_length:,} tokens, the first {unfit[0]}")
    if wrong:
        reasons.append(f"{len(wrong):,} cannot be laid out for this model, the first {wrong[0]}")
    if not reasons:
        return Check("fit", "pass", f"all of {len(sample):,} examined fit in {max_length:,} tokens")
    finding = f"of {len(sample):,} examined, {'; '.join(reasons)}"
    fix = "they are left out: raise max_length, shorten them, or judge what this model can read"
    return Check("fit", "fail" if len(unfit) + len(wrong) == len(sample) else "warn", finding, fix)


def check_objective(judgements: Sequence[Judgement], objective: str) -> Check:
    """Fails if the objective can use no judgement, warns if it cannot use all."""
    pairs = sum(judgement.is_pair for judgement in judgements)
    if objective not in PAIRS_ONLY or pairs == len(judgements):
        return Check("objective", "pass", f"{objective} can use all of them")
    finding = f"{objective} can use {pairs:,} of {len(judgements):,}: the others have only one response"
    return Check("objective", "warn" if pairs else "fail", finding, "choose objective kto, which uses all")


def _conversations(judgements: Iterable[Judgement]) -> Iterable[Conversation]:
    for judgement in judgements:
        for text in (judgement.chosen, judgement.rejected):
            if text is not None:
                yield judgement.conversation(text)


def _key(conversation: Conversation) -> Context:
    """Returns what two equal contexts share."""
    return tuple(
        (name, text.strip()) for name, text in zip(conversation.turn_speakers, conversation.turns, strict=True)
    )


def _strip(text: str | None) -> str | None:
    return None if text is None else text.strip()


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None


def _listed(names: Iterable[str]) -> str:
    """Returns the most frequent names in brackets; nothing without any."""
    counts: Mapping[str, int] = Counter(name for name in names if name)
    shown = sorted(counts, key=lambda name: -counts[name])[:_SHOWN]
    return f" ({', '.join(shown)}{', ...' if len(counts) > len(shown) else ''})" if shown else ""
