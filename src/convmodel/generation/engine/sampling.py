"""How the next token is chosen from the logits.

Owns: which options the engine honours by itself, their logits processors in transformers' order, and drawing.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation import logits_process as hf

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SAMPLED: dict[str, tuple[Any, type[LogitsProcessor]]] = {
    "temperature": (1.0, hf.TemperatureLogitsWarper),
    "top_k": (0, hf.TopKLogitsWarper),
    "top_p": (1.0, hf.TopPLogitsWarper),
    "min_p": (None, hf.MinPLogitsWarper),
    "typical_p": (1.0, hf.TypicalLogitsWarper),
    "epsilon_cutoff": (0.0, hf.EpsilonLogitsWarper),
    "eta_cutoff": (0.0, hf.EtaLogitsWarper),
}
"""What sampling draws from, in the order of transformers, with the value that changes nothing."""

OWN = frozenset({"presence_penalty", "frequency_penalty", "logit_bias", "no_repeat_context_ngram_size"})
"""Options that transformers' `generate` does not have."""

HONOURED = (
    frozenset(_SAMPLED)
    | OWN
    | {"do_sample", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "sequence_bias"}
    | {"suppress_tokens", "begin_suppress_tokens", "min_new_tokens", "min_length", "prefix_allowed_tokens_fn"}
    | {"logits_processor", "renormalize_logits"}
)
"""Options that say how tokens are chosen; those not named here are for transformers' `generate`."""

_DEFAULT_TOP_K = 50  # of transformers' `generate`


class Sampler:
    """Chooses the tokens of one response.

    Attributes:
        do_sample: Whether it draws; otherwise it takes the likeliest.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        prompt: Sequence[int],
        stop_ids: Sequence[int],
        *,
        seed: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Reads the options of one request.

        Args:
            options: Options by name, those of `HONOURED`.
            prompt: The prompt's token ids.
            stop_ids: Ids that end the response.
            seed: Seeds the drawing; without one, torch's random state does.
            device: Where the logits will be.

        Raises:
            ValueError, TypeError: If transformers refuses a value.
        """
        self.do_sample = bool(options.get("do_sample"))
        self._begin = len(prompt)
        self._processors = make_processors(options, prompt, stop_ids, device)
        if self.do_sample:
            self._processors += _warpers(options)
        if options.get("renormalize_logits"):
            self._processors.append(hf.LogitNormalization())
        self._generator = torch.Generator(device)
        if self.do_sample:
            self._generator.manual_seed(int(torch.randint(2**63 - 1, ())) if seed is None else seed)

    @property
    def is_plain(self) -> bool:
        """Whether it takes the likeliest token and nothing changes the logits."""
        return not self.do_sample and not self._processors

    def choose(self, ids: torch.Tensor, logits: torch.Tensor) -> int:
        """Chooses a token.

        Args:
            ids: Prompt and response so far, (1, tokens).
            logits: What the model says of the next one, (1, vocabulary).
        """
        read: Any = ids.to(logits.device)
        scores: Any = self._processors(read, logits.float())
        if self.do_sample:
            return int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))
        return int(scores.argmax(-1))


def with_defaults(hf_model: "PreTrainedModel", options: Mapping[str, Any]) -> dict[str, Any]:
    """Adds what the model's own generation config and transformers say where the caller says nothing."""
    config = hf_model.generation_config
    saved = {} if config is None else {name: getattr(config, name, None) for name in HONOURED}
    known = {name: value for name, value in saved.items() if value is not None}
    return {"top_k": _DEFAULT_TOP_K} | known | dict(options)


def make_processors(
    options: Mapping[str, Any], prompt: Sequence[int], stop_ids: Sequence[int], device: torch.device | str
) -> LogitsProcessorList:
    """Makes what changes the logits before anything is drawn, in the order of transformers' `generate`."""
    begin, stops = len(prompt), torch.tensor(list(stop_ids), device=device)
    made: list[LogitsProcessor] = []

    def add(name: str, kind: Any, *arguments: Any, nothing: Any = None) -> None:
        value = options.get(name)
        if value is not None and value != nothing:
            made.append(kind(value, *arguments))

    add("sequence_bias", hf.SequenceBiasLogitsProcessor)
    add("repetition_penalty", hf.RepetitionPenaltyLogitsProcessor, nothing=1.0)
    made += own_processors(options, prompt, stop_ids)
    add("bad_words_ids", hf.NoBadWordsLogitsProcessor, stops)
    if options.get("min_length"):
        made.append(hf.MinLengthLogitsProcessor(options["min_length"], stops, device=str(device)))
    if options.get("min_new_tokens"):
        made.append(hf.MinNewTokensLengthLogitsProcessor(begin, options["min_new_tokens"], stops, device=str(device)))
    add("prefix_allowed_tokens_fn", hf.PrefixConstrainedLogitsProcessor, 1)
    if options.get("suppress_tokens") is not None:
        made.append(hf.SuppressTokensLogitsProcessor(options["suppress_tokens"], device=str(device)))
    if options.get("begin_suppress_tokens") is not None:
        made.append(hf.SuppressTokensAtBeginLogitsProcessor(options["begin_suppress_tokens"], begin, str(device)))
    return LogitsProcessorList([*made, *(options.get("logits_processor") or [])])


def own_processors(options: Mapping[str, Any], prompt: Sequence[int], stop_ids: Sequence[int]) -> list[LogitsProcessor]:
    """Makes the processors that transformers' `generate` does not make, or makes otherwise.

    Its `no_repeat_ngram_size` forbids what the context has, too, and so what the other speaker has just said; here that
    is `no_repeat_context_ngram_size`.
    """
    begin = len(prompt)
    made: list[LogitsProcessor] = []
    if options.get("logit_bias"):
        made.append(LogitBias(options["logit_bias"]))
    if options.get("presence_penalty"):
        made.append(PresencePenalty(options["presence_penalty"], begin))
    if options.get("frequency_penalty"):
        made.append(FrequencyPenalty(options["frequency_penalty"], begin))
    if options.get("no_repeat_ngram_size"):
        made.append(_InResponse(hf.NoRepeatNGramLogitsProcessor(options["no_repeat_ngram_size"]), begin))
    if options.get("no_repeat_context_ngram_size"):
        made.append(NoRepeatContextNGram(options["no_repeat_context_ngram_size"], prompt, stop_ids))
    return made


def _warpers(options: Mapping[str, Any]) -> list[LogitsProcessor]:
    chosen = {name: options.get(name) for name in _SAMPLED}
    return [
        kind(chosen[name])  # type: ignore[call-arg]
        for name, (nothing, kind) in _SAMPLED.items()
        if chosen[name] is not None and chosen[name] != nothing
    ]


class _InResponse(LogitsProcessor):
    """Shows a processor the response alone."""

    def __init__(self, processor: LogitsProcessor, begin: int) -> None:
        self._processor = processor
        self._begin = begin

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        shown = input_ids[:, self._begin :]
        return self._processor(shown, scores)


class NoRepeatContextNGram(LogitsProcessor):
    """Forbids the response to repeat n-grams of the context's turns; that a turn ended somewhere is none of them."""

    def __init__(self, size: int, prompt: Sequence[int], stop_ids: Sequence[int]) -> None:
        self._size = size
        self._begin = len(prompt)
        self._forbidden: dict[tuple[int, ...], list[int]] = {}
        for end in range(size, len(prompt) + 1):
            found = tuple(prompt[end - size : end])
            if not {*found} & {*stop_ids}:
                self._forbidden.setdefault(found[:-1], []).append(found[-1])

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Returns the changed scores, (rows, vocabulary)."""
        changed = scores.clone()
        for row, ids in enumerate(input_ids[:, self._begin :].tolist()):
            before = tuple(ids[len(ids) + 1 - self._size :]) if len(ids) + 1 >= self._size else None
            if before in self._forbidden:
                changed[row, self._forbidden[before]] = -torch.inf
        return changed


class LogitBias(LogitsProcessor):
    """Adds a number to the logits of some tokens, as `logit_bias` of OpenAI's API."""

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._ids = torch.tensor([int(index) for index in bias], dtype=torch.long)
        self._bias = torch.tensor([float(value) for value in bias.values()])

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Returns the changed scores, (rows, vocabulary)."""
        return scores.index_add(1, self._ids.to(scores.device), self._bias.to(scores).expand(len(scores), -1))


class PresencePenalty(LogitsProcessor):
    """Lowers the logits of all tokens that the response has, whatever their number, as OpenAI's API does."""

    def __init__(self, penalty: float, begin: int) -> None:
        self._penalty = penalty
        self._begin = begin

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Returns the changed scores, (rows, vocabulary)."""
        return scores - self._penalty * _counts(input_ids[:, self._begin :], scores).clamp(max=1)


class FrequencyPenalty(LogitsProcessor):
    """Lowers the logit of a token as often as the response has it, as OpenAI's API does."""

    def __init__(self, penalty: float, begin: int) -> None:
        self._penalty = penalty
        self._begin = begin

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Returns the changed scores, (rows, vocabulary)."""
        return scores - self._penalty * _counts(input_ids[:, self._begin :], scores)


def _counts(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(scores).scatter_add_(1, ids, torch.ones_like(ids, dtype=scores.dtype))
