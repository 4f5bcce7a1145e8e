"""Checks for problems of a run before it begins.

Owns: the quick checks of model, tokenizer, windows and settings, each with its threshold. Does not know conversations,
whose repeats `repeats.py` checks, nor how findings are shown.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import numpy as np

from convmodel.data.windows.encoding import EncodingSummary, WindowSet
from convmodel.hf_model.int8_layers import count_rows
from convmodel.layout.architecture import positions
from convmodel.layout.sequence import IGNORED, Window
from convmodel.layout.token_view import marker_text
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.doctor.run_plan import RunPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAMPLE = 1000
"""Number of windows that are examined: a fault of the layout is in all of them."""

TEXT_SAMPLE = 100
"""Number of windows that are decoded, which takes longer."""

CUT_FAIL = 0.2
"""Share of tokens cut from turns too long for a window, above which most of the long turns are never learned."""

TOKENS_PER_CHARACTER = 0.8
"""Measured with GPT-2's vocabulary: English 0.24, German and French 0.41, Vietnamese 0.79; but Russian 1.07,
Japanese 1.39, Chinese 2.14, Korean 2.21, for which it has no words."""

BYTES_PER_TOKEN = 2.5
"""Above this, many tokens per character are not a fault: a vocabulary of Chinese characters has 3 bytes per token,
GPT-2's at most 2.2 in any language for which it has no words."""

UNKNOWN_FAIL = 0.001
"""Share of unknown tokens above which too much text is lost: one every few dozen turns."""

ONE_SPEAKER = 0.9
"""Share of supervised tokens above which the other speakers hardly count."""

BLOCKING = frozenset({"vocabulary", "end of turn", "supervised", "steps", "length"})
"""Checks whose failure makes a run impossible or wrong, rather than poor: `fit` does not begin then."""

FEW_STEPS = 20
"""Fewer steps than this hardly move a model, and the warm-up is over at once."""

_RARE = "\U00013000"  # an Egyptian hieroglyph, which no vocabulary has
_SHOWN = 5  # speakers named in a finding


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check, `name`, with a sentence and its values; a failed one makes the run useless."""

    name: str
    status: Literal["pass", "warn", "fail"]
    finding: str
    fix: str = ""  # empty if the check passed


def fast_checks(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    train: WindowSet,
    valid: WindowSet | None,
    plan: RunPlan,
    speakers: Mapping[str, int] | None = None,
) -> list[Check]:
    """Runs the checks that need only a sample of windows and do not call the model: quick enough for every run.

    Windows have no speakers' names: pass the supervised tokens by name as `speakers` if they are counted.
    """
    learned = sample(train.windows)
    windows = learned + (sample(valid.windows) if valid else [])
    summary = EncodingSummary()
    for part in (train, valid):
        if part is not None:
            summary.add(part.summary)
    in_both, in_train = "", ""
    if valid is not None:
        in_both, in_train = " in the training and validation data", " in the training data"
    return [
        check_separator(tokenizer),
        check_vocabulary(count_rows(hf_model.get_input_embeddings()), tokenizer, windows),
        check_end_of_turn(windows, tokenizer.end_ids, in_both),
        check_supervised(windows, summary, in_both),
        check_used(summary, in_both),
        check_cut(summary),
        check_text(learned, tokenizer),
        check_unknown(learned, tokenizer),
        check_speakers(speakers or tokens_by_speaker(learned, tokenizer.end_ids), named=speakers is not None),
        check_steps(plan),
        check_length(train, plan, positions(hf_model.config), in_train),
    ]


def sample(windows: Sequence[Window], limit: int = SAMPLE) -> list[Window]:
    """Returns evenly spaced windows, or all of them if there are few."""
    chosen = np.linspace(0, len(windows) - 1, min(limit, len(windows))).astype(int)
    return [windows[index] for index in chosen.tolist()]


def check_separator(tokenizer: ConversationTokenizer) -> Check:
    """Fails if some text is encoded as a token that ends a turn, which would then end in the middle."""
    added, special = tokenizer.hf_tokenizer.added_tokens_decoder, tokenizer.hf_tokenizer.all_special_ids
    names = {index: marker_text(tokenizer, index) for index in sorted(tokenizer.end_ids)}
    listed = ", ".join(f"{name} is token {index}" for index, name in names.items())
    shown = f"the {tokenizer.layout.end_name} {listed}"
    for index in names:
        text = str(tokenizer.hf_tokenizer.decode([index], skip_special_tokens=False))
        spelt = next((probe for probe in (text, _RARE) if index in tokenizer.encode(probe)), None)
        if spelt == text or (index not in added and index not in special):
            finding = f"{shown}, which is the word {text!r} of the vocabulary: a turn that contains it would end there"
        elif spelt:
            finding = f"{shown}, which is also the unknown token: a turn with an unknown character would end there"
        else:
            continue
        fix = "start from a tokenizer that has a separator or can be given one, and train again"
        return Check("separator", "fail", finding, fix)
    return Check("separator", "pass", f"{shown}, which no text is encoded as")


def check_vocabulary(rows: int, tokenizer: ConversationTokenizer, windows: Sequence[Window]) -> Check:
    """Fails if the embedding lacks a row for a token that can occur."""
    largest = max([*tokenizer.layout.control_ids, *(max(window.input_ids) for window in windows)])
    vocabulary = int(tokenizer.hf_tokenizer.vocab_size)
    fix = "load model and tokenizer from the same place; they belong to different models"
    if largest >= rows:
        return Check("vocabulary", "fail", f"token {largest:,} occurs, but the embedding has {rows:,} rows", fix)
    if vocabulary > rows:
        return Check("vocabulary", "fail", f"{vocabulary:,} tokens, but the embedding has {rows:,} rows", fix)
    if len(tokenizer) > rows:
        finding = f"{len(tokenizer) - rows:,} added tokens have no row in the embedding of {rows:,}"
        return Check("vocabulary", "warn", finding, "no text is encoded as them; do not use them in your own code")
    return Check("vocabulary", "pass", f"{len(tokenizer):,} tokens, and the embedding has {rows:,} rows")


def check_end_of_turn(windows: Sequence[Window], end_ids: Set[int], where: str = "") -> Check:
    """Fails if a supervised turn is not closed by a supervised token that ends it: the model would never learn to.

    `where` names the parts of the data that the windows are of, as in the next checks.
    """
    turns = opened = wrong = 0
    for window in windows:
        pairs = zip(window.labels, window.input_ids, strict=True)
        wrong += any(label not in (IGNORED, index) for label, index in pairs)
        for start, end in _runs(window):
            closed = window.input_ids[end - 1] in end_ids
            turns += sum(index in end_ids for index in window.input_ids[start:end]) + (not closed)
            is_cut = window.cut > 0 and end == len(window.input_ids)
            opened += not closed and not is_cut
    fix = "encode the windows again with this version; the copy may be out of date or damaged"
    if wrong:
        return Check("end of turn", "fail", f"{wrong:,} of {len(windows):,} windows have labels of other tokens", fix)
    if opened:
        finding = f"{opened:,} of {turns:,} supervised turns{where} are not closed by a supervised end"
        return Check("end of turn", "fail", finding, fix)
    return Check(
        "end of turn", "pass", f"{turns:,} supervised turns{where}, each learned with its end unless it is cut"
    )


def check_supervised(windows: Sequence[Window], summary: EncodingSummary, where: str = "") -> Check:
    """Fails if windows have no target, warns if conversations have none."""
    # The first token of a window is never predicted.
    empty = sum(all(label == IGNORED for label in window.labels[1:]) for window in windows)
    if empty or not windows:
        finding = f"{empty:,} of {len(windows):,} windows have nothing to learn"
        return Check("supervised", "fail", finding, "encode the windows again, or choose other turns (loss_on)")
    if summary.unsupervised:
        finding = f"{summary.unsupervised:,} of {summary.conversations:,} conversations{where} have no supervised turn"
        return Check("supervised", "warn", finding, "they are not trained on: remove them, or choose loss_on=all")
    return Check("supervised", "pass", f"{summary.tokens:,} supervised tokens{where}; every conversation has some")


def check_used(summary: EncodingSummary, where: str = "") -> Check:
    """Warns if rows or conversations could not be used."""
    if summary.skipped:
        finding = f"{summary.skipped:,} rows or conversations{where} are left out, the first because of: "
        return Check("used", "warn", finding + summary.first_skipped, "correct them, or continue without them")
    if summary.dropped or summary.omitted:
        return Check("used", "warn", summary.left_out(), "continue without them, or prepare the data otherwise")
    return Check("used", "pass", f"all {summary.conversations:,} conversations{where} are used")


def check_cut(summary: EncodingSummary) -> Check:
    """Warns if turns are longer than a window or their context does not fit, and fails if much of them is cut."""
    share = summary.cut / max(1, summary.tokens + summary.cut)
    cut = [f"{summary.cut:,} tokens ({share:.1%}) are cut from turns longer than a window"] if summary.cut else []
    if not (findings := [*cut, *summary.short_contexts()]):
        return Check("cut", "pass", "no turn is longer than a window, and no context is cut")
    fix = "raise max_length, or split long turns"
    return Check("cut", "fail" if share > CUT_FAIL else "warn", "; ".join(findings), fix)


def check_text(windows: Sequence[Window], tokenizer: ConversationTokenizer) -> Check:
    """Warns if the vocabulary has hardly any words of the text's language, which makes training slow and hard."""
    tokens = characters = size = 0
    for window in sample(windows, TEXT_SAMPLE):
        ids = [index for index in window.input_ids if index not in tokenizer.layout.control_ids]
        text = tokenizer.decode(ids)
        tokens, characters, size = tokens + len(ids), characters + len(text), size + len(text.encode())
    per_character, per_token = tokens / max(1, characters), size / max(1, tokens)
    finding = f"{per_character:.2f} tokens per character, {per_token:.1f} bytes per token"
    if per_character > TOKENS_PER_CHARACTER and per_token < BYTES_PER_TOKEN:
        fix = (
            "choose a model whose vocabulary covers the language, or extend a byte-level BPE with fit --grow-vocabulary"
        )
        return Check("text", "warn", f"{finding}: the vocabulary hardly covers this language", fix)
    return Check("text", "pass", finding)


def check_unknown(windows: Sequence[Window], tokenizer: ConversationTokenizer) -> Check:
    """Fails if more than a few tokens are unknown."""
    unknown = tokenizer.hf_tokenizer.unk_token_id
    counts = Counter(index for window in windows for index in window.input_ids)
    for index in tokenizer.layout.control_ids:
        del counts[index]  # if one is the unknown token, `check_separator` reports it
    share = (counts[unknown] if unknown is not None else 0) / max(1, counts.total())
    finding = f"{counts[unknown] if share else 0:,} of {counts.total():,} tokens are unknown"
    if not share:
        return Check("unknown", "pass", finding)
    fix = "remove the characters that the vocabulary lacks, or choose a model whose vocabulary has them"
    return Check("unknown", "fail" if share > UNKNOWN_FAIL else "warn", f"{finding} ({share:.2%})", fix)


def tokens_by_speaker(windows: Sequence[Window], end_ids: Set[int]) -> dict[str, int]:
    """Counts the supervised tokens of each speaker, maybe 0, numbered in the order of a conversation's turns."""
    counts: Counter[int] = Counter()
    for window in windows:
        for index, speaker, label in zip(window.input_ids, window.types, window.labels, strict=True):
            if index not in end_ids:
                counts[speaker] += label != IGNORED
    return {f"speaker {speaker + 1}": count for speaker, count in sorted(counts.items())}


def check_speakers(tokens: Mapping[str, int], *, named: bool = True) -> Check:
    """Warns if there is only one speaker, or one has nearly all supervised tokens; `named`: the keys are real names."""
    learned = {name: count for name, count in tokens.items() if count}
    if len(tokens) == 1:
        finding = f"{next(iter(tokens))} is the only speaker"
        fix = "check that speakers are named, and that each turn is a separate item"
        return Check("speakers", "warn", finding, fix)
    shares = sorted(((count / sum(learned.values()), name) for name, count in learned.items()), reverse=True)
    listed = ", ".join(f"{name} {share:.0%}" for share, name in shares[:_SHOWN])
    more = f", {len(shares) - _SHOWN} more" if len(shares) > _SHOWN else ""
    finding = f"supervised tokens: {listed}{more}"
    if len(shares) > 1 and shares[0][0] > ONE_SPEAKER:
        chosen = f"loss_on={shares[0][1]!r}" if named else "that speaker's name for loss_on"
        fix = f"choose {chosen} if only that speaker matters, or add turns of the others"
        return Check("speakers", "warn", finding, fix)
    return Check("speakers", "pass", finding)


def check_steps(plan: RunPlan) -> Check:
    """Fails if the warm-up is longer than the run, warns if the run is very short."""
    part, steps = ("first cycle", plan.cycles[0]) if plan.cycles else ("run", plan.steps)
    finding = f"{plan.count()}, {plan.warmup_steps:,} of them warm-up"
    if plan.cycles:
        finding += f" in each cycle; cycles end after {', '.join(f'{end:,}' for end in plan.cycles)}"
    if plan.warmup_steps >= steps:
        fix = "lower warmup_steps, or raise epochs or max_steps"
        finding = f"warmup_steps is {plan.warmup_steps:,}, but the {part} has {steps:,} steps"
        return Check("steps", "fail", f"{finding}: the learning rate would never peak", fix)
    if plan.steps < FEW_STEPS:
        return Check("steps", "warn", f"{finding}: hardly enough to learn", "raise epochs, or lower batch_size")
    return Check("steps", "pass", finding)


def check_length(train: WindowSet, plan: RunPlan, limit: int | None, where: str = "") -> Check:
    """Fails if windows are longer than the plan or the model's positions, `limit`, allow."""
    longest, median, total = int(train.lengths.max()), float(np.median(train.lengths)), int(train.lengths.sum())
    if limit is not None and max(longest, plan.max_length) > limit:
        finding = f"windows of up to {max(longest, plan.max_length):,} tokens, but the model has {limit:,} positions"
        return Check("length", "fail", finding, f"lower max_length to {limit}")
    if longest > plan.max_length:
        finding = f"the longest window has {longest:,} tokens, more than max_length, which is {plan.max_length:,}"
        return Check("length", "fail", finding, "encode the windows again")
    finding = (
        f"{len(train.lengths):,} windows{where}, the median {median:,.0f} and the longest {longest:,} tokens long of "
        f"{plan.max_length:,}; {1 - train.tokens / total:.0%} of them context"
    )
    return Check("length", "pass", finding)


def _runs(window: Window) -> Iterator[tuple[int, int]]:
    """Yields the spans of consecutive supervised positions: [start, end)."""
    for supervised, group in groupby(range(len(window.labels)), lambda place: window.labels[place] != IGNORED):
        if supervised:
            places = list(group)
            yield places[0], places[-1] + 1
