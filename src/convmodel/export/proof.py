"""The proof of a GGUF file: llama.cpp runs it, and what it does is compared with the model.

Owns: what is compared and what counts as equal. `llama_cpp` runs the file, `probes` has the conversations.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from convmodel.conversation import Conversation
from convmodel.errors import ConfigError, ExportError
from convmodel.export.gguf_architecture import has_scaling
from convmodel.export.gguf_file import GgufModel
from convmodel.export.llama_cpp import LlamaCpp
from convmodel.export.llama_cpp_server import LONGEST
from convmodel.export.notes import notes
from convmodel.export.options import UNQUANTIZED
from convmodel.export.probes import Probe, long_probe, probes_for
from convmodel.export.proof_result import Perplexity, Proof
from convmodel.export.turn_templates import TurnTemplates
from convmodel.hf_model.lm_head import Head
from convmodel.hf_model.log_probs import measure_targets
from convmodel.layout.sequence import IGNORED, Prompt, Window
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NEW_TOKENS = 32
"""Tokens that are generated after each probe and compared."""

PERPLEXITY_TOKENS = 1000
"""Supervised tokens whose log-probabilities are compared."""

CHECKED_TOKENS = 100
"""The same where generated tokens are compared as well."""

TIES: Mapping[str, float] = {"f32": 1e-4, "f16": 0.02, "bf16": 0.15}
"""By how much the model may prefer another token to llama.cpp's, in nats, by type of weights.

In float32, sums in another order differ by this. With weights and activations in 16 bits, log-probabilities of
SmolLM2-135M differed by up to 0.02 and 0.15 nats from those in float32 (150 tokens each). Where llama.cpp has its
activation function in float16, its float32 is no closer than that.
"""

_PLAIN_LENGTH = 150  # tokens of a long prompt without windows and scaled positions
MOST_CONTROL_TEXTS = 4  # names of control tokens that are spelled out in probes
WRONG = 2.0
"""The file is wrong if its perplexity is this many times that of the model: rounding costs less in every type."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and its file.

    Attributes:
        hf_model: The model.
        tokenizer: Its tokenizer.
        model: Its counterpart in llama.cpp.
        llama: llama.cpp, running the file.
    """

    hf_model: "PreTrainedModel"
    tokenizer: ConversationTokenizer
    model: GgufModel
    llama: LlamaCpp


def prove(
    subject: Subject,
    kind: str,
    windows: Sequence[Window] = (),
    *,
    render_ollama: Callable[[Sequence[Mapping[str, str]]], str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Compares a file that llama.cpp runs with the model that it was written from.

    Args:
        subject: The model and its file.
        kind: The type of the file's weights.
        windows: Those to measure the perplexity of; see `windows_to_measure`.
        render_ollama: Renders messages with Ollama's template.
        progress: Gets a few words on what comes next.

    Raises:
        ExportError: If something is not equal.
    """
    tokenizer, model = subject.tokenizer, subject.model
    progress("comparing prompts")
    names = [name for name in tokenizer.hf_tokenizer.convert_ids_to_tokens([*model.vocabulary.names]) if name.strip()]
    ends_first = sorted(names, key=lambda name: name not in _end_names(tokenizer))
    probes = probes_for(tokenizer, ends_first[:MOST_CONTROL_TEXTS])
    prompts = [_compare_prompt(subject, probe) for probe in probes]
    plain = [probe for probe in probes if render_ollama and _is_plain(probe, model.templates)]
    for probe in plain:
        _compare_ollama(subject, probe, render_ollama)  # type: ignore[arg-type]
    progress("comparing generated tokens")
    head = Head.of(subject.hf_model)
    ids = [prompt.input_ids for prompt, probe in zip(prompts, probes, strict=True) if not probe.has_control_text]
    long = _compare_prompt(subject, long_probe(tokenizer, _longest_prompt(model)))
    gaps = _gaps(subject, head, [*ids, long.input_ids], kind)
    for index in model.stop_ids:
        if not subject.llama.ends_with(ids[0], index):
            raise ExportError(f"llama.cpp does not end a response at {_shown(tokenizer, [index])}")
    progress("measuring perplexity")
    perplexity = _perplexity(subject, head, windows, tokens_to_measure(kind))
    if perplexity is not None and not perplexity.file < perplexity.model * WRONG:
        raise ExportError(
            f"the perplexity of {perplexity.tokens:,} tokens is {perplexity.model:.3f} under the model and "
            f"{perplexity.file:.3f} under the file: its weights are wrong"
        )
    return Proof(
        weights=kind,
        prompts=len(probes) + 1,
        longest_prompt=len(long.input_ids),
        control_texts=sum(probe.has_control_text for probe in probes),
        ollama_prompts=len(plain),
        tokens=len(gaps),
        ties=sum(gap > 0 for gap in gaps),
        largest_gap=max(gaps, default=0.0),
        stops=len(model.stop_ids),
        perplexity=perplexity,
        notes=tuple(notes(model, tokenizer.layout, has_ollama=render_ollama is not None)),
    )


def tokens_to_measure(kind: str) -> int:
    """Returns of how many tokens the perplexity is measured, with a type of weights."""
    return CHECKED_TOKENS if kind in UNQUANTIZED else PERPLEXITY_TOKENS


def windows_to_measure(
    tokenizer: ConversationTokenizer, model: GgufModel, conversations: Iterable[Conversation], kind: str
) -> list[Window]:
    """Returns the first windows of conversations, with as many supervised tokens as are measured.

    Raises:
        ConfigError: If no turn is supervised.
        ConversationError: If the layout has no place for a conversation.
    """
    windows: list[Window] = []
    left, length = tokens_to_measure(kind), min(LONGEST, model.shape.context)
    for conversation in conversations:
        made = tokenizer.windows(conversation, max_length=length, loss_on=tokenizer.layout.loss_on)
        windows += made
        left -= sum(window.supervised_tokens for window in made)
        if left <= 0:
            break
    if not any(window.supervised_tokens for window in windows):
        raise ConfigError("no turn of the data is supervised: give conversations with responses, or leave the data out")
    return windows


def _longest_prompt(model: GgufModel) -> int:
    """Returns how long a prompt is that shows windows and scaled positions, if the model has them."""
    limit = min(LONGEST, model.shape.context) - NEW_TOKENS
    has_windows = any(layer.window is not None for layer in model.shape.decoder.layers)
    return limit if has_windows or has_scaling(model.shape.config) else min(limit, _PLAIN_LENGTH)


def _tolerance(model: GgufModel, kind: str) -> float:
    return max(TIES[kind], TIES["f16"] if model.shape.architecture.rounds_activations else 0.0)


def _end_names(tokenizer: ConversationTokenizer) -> set[str]:
    return set(tokenizer.hf_tokenizer.convert_ids_to_tokens(tokenizer.stop_token_ids))


def _messages(probe: Probe) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in probe.messages]


def _is_plain(probe: Probe, templates: TurnTemplates) -> bool:
    """Returns whether Ollama should write a probe: no text would be trimmed, and no two turns are of one role."""
    trimmed = any(role in templates.trims and text != text.strip() for role, text in probe.messages)
    return not trimmed and all(before[0] != after[0] for before, after in pairwise(probe.messages))


def _prompt(subject: Subject, probe: Probe) -> Prompt:
    """Returns the model's prompt for the texts that the file's template writes."""
    content = subject.model.templates.content
    messages = [{"role": role, "content": content(role, text)} for role, text in probe.messages]
    return subject.tokenizer.prompt(Conversation.from_messages(messages))


def _compare_prompt(subject: Subject, probe: Probe) -> Prompt:
    expected = _prompt(subject, probe)
    _require_equal(subject, expected.input_ids, subject.llama.prompt_ids(_messages(probe)), "the prompt")
    return expected


def _compare_ollama(subject: Subject, probe: Probe, render: Callable[[Sequence[Mapping[str, str]]], str]) -> None:
    found = subject.llama.encode(render(_messages(probe)))
    _require_equal(subject, _prompt(subject, probe).input_ids, found, "the prompt by Ollama's template")


def _require_equal(subject: Subject, expected: Sequence[int], found: Sequence[int], what: str) -> None:
    """Raises an `ExportError` with the first difference of two lists of ids."""
    if list(expected) == list(found):
        return
    place = next((i for i, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]), None)
    place = min(len(expected), len(found)) if place is None else place
    here, there = (_shown(subject.tokenizer, ids[place : place + 1]) for ids in (expected, found))
    before = subject.tokenizer.hf_tokenizer.decode(list(expected[max(0, place - 8) : place]))
    raise ExportError(
        f"{what} has other token ids in llama.cpp from position {place} on: {here} in the model, {there} there, after "
        f"{before!r}"
    )


def _shown(tokenizer: ConversationTokenizer, ids: Sequence[int]) -> str:
    pieces = [f"{index} {tokenizer.hf_tokenizer.convert_ids_to_tokens(index)!r}" for index in ids]
    return ", ".join(pieces) or "nothing"


def _gaps(subject: Subject, head: Head | None, prompts: Iterable[Sequence[int]], kind: str) -> list[float]:
    """Returns for each token that llama.cpp generates by how much the model prefers its own choice, in nats."""
    if kind not in UNQUANTIZED:
        return []
    tolerance = _tolerance(subject.model, kind)
    return [gap for prompt in prompts for gap in _compare_tokens(subject, head, prompt, tolerance)]


def _compare_tokens(subject: Subject, head: Head | None, prompt: Sequence[int], tolerance: float) -> list[float]:
    """Checks that llama.cpp generates the model's choices; returns the gap of each token, 0 for the choice itself."""
    room = subject.model.shape.context - len(prompt)
    if room < 1:
        return []
    continuation = subject.llama.continue_ids(prompt, min(NEW_TOKENS, room)).ids
    ids = [*prompt, *continuation]
    window = Window(ids, [0] * len(ids), [IGNORED] * len(prompt) + continuation)
    values, _ = measure_targets(subject.hf_model, subject.tokenizer, [window], _choices, head=head)
    choices, gaps = values[0, len(prompt) - 1 :].unbind(dim=1)
    for place, (index, gap) in enumerate(zip(continuation, gaps.tolist(), strict=True)):
        if gap > tolerance:
            raise ExportError(
                f"llama.cpp generates another token at position {len(prompt) + place}: "
                f"{_shown(subject.tokenizer, [int(choices[place])])} in the model, "
                f"{_shown(subject.tokenizer, [index])} there, which is {gap:.4f} nats less likely, after "
                f"{subject.tokenizer.decode(continuation[:place])!r}"
            )
    return [float(gap) for gap in gaps]


def _choices(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the most likely token at each position, and by how much it is more likely than the label, in nats."""
    best, choice = logits.float().max(dim=-1)
    return torch.stack((choice.float(), best - logits.float().gather(1, labels[:, None])[:, 0]), dim=1)


def _perplexity(subject: Subject, head: Head | None, windows: Sequence[Window], tokens: int) -> Perplexity | None:
    """Measures the first supervised tokens of windows, under the model and in llama.cpp."""
    of_model: list[float] = []
    of_file: list[float] = []
    end = subject.model.stop_ids[0]
    for window in windows:
        nats, labels = measure_targets(subject.hf_model, subject.tokenizer, [window], head=head)
        for place, label in enumerate(labels[0].tolist(), 1):
            if label != IGNORED and len(of_model) < tokens:
                of_model.append(float(nats[0, place - 1]))
                of_file.append(-subject.llama.log_prob(window.input_ids[:place], label, end=end))
    return Perplexity.of(of_model, of_file) if of_model else None
