"""From logits to the next token.

Owns: which options the engine supports by itself, their logits processors in transformers' order, and sampling.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation import logits_process as hf

from convmodel.hf_model.devices import sum_dtype
from convmodel.hf_model.generation_config import SAMPLING_OPTIONS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SORTED = 512  # of the likeliest tokens


class TopP(hf.TopPLogitsWarper):
    """Keeps the likeliest tokens that have a probability of `top_p` together, as transformers' does.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", arXiv:1904.09751.

    It sorts the likeliest `_SORTED` tokens alone if these are enough, since sorting a vocabulary of 150,000 takes a CPU
    16 ms. Which of several equally likely tokens at the border are kept may differ.
    """

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Returns the scores with -inf for the others, (rows, vocabulary)."""
        if scores.shape[-1] <= _SORTED or self.min_tokens_to_keep > _SORTED:
            return super().__call__(input_ids, scores)
        values, places = scores.topk(_SORTED)  # sorted
        largest = values[:, :1]
        dtype = sum_dtype(scores.device)
        total = (scores - largest).exp().sum(-1, keepdim=True, dtype=dtype)
        shares = (values - largest).exp().to(dtype) / total
        larger = shares.cumsum(-1) - shares  # the probability of all that are likelier
        if not (larger[:, -1] >= self.top_p).all():  # with NaN, too
            return super().__call__(input_ids, scores)
        removed = larger >= self.top_p
        removed[:, : self.min_tokens_to_keep] = False
        filtered = torch.full_like(scores, self.filter_value)
        return filtered.scatter_(-1, places, values.masked_fill(removed, self.filter_value))


_WARPERS: tuple[type[LogitsProcessor], ...] = (
    hf.TemperatureLogitsWarper,
    hf.TopKLogitsWarper,
    TopP,
    hf.MinPLogitsWarper,
    hf.TypicalLogitsWarper,
    hf.EpsilonLogitsWarper,
    hf.EtaLogitsWarper,
)
"""The processors of `SAMPLING_OPTIONS`, in that order."""

OWN = frozenset({"presence_penalty", "frequency_penalty", "logit_bias", "no_repeat_context_ngram_size"})
"""Options that transformers' `generate` does not have."""

HONOURED = (
    frozenset(SAMPLING_OPTIONS)
    | OWN
    | {"do_sample", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "sequence_bias"}
    | {"suppress_tokens", "begin_suppress_tokens", "min_new_tokens", "min_length", "prefix_allowed_tokens_fn"}
    | {"logits_processor", "renormalize_logits"}
)
"""Options that the engine supports; with others transformers' `generate` is used."""

_DEFAULT_TOP_K = 50  # of transformers' `generate`


class LegalTokens(Protocol):
    """Says which tokens of one response are legal."""

    def legal(self, length: int, size: int) -> torch.Tensor:
        """Returns which of `size` ids may follow the first `length` tokens of the response, (size,)."""
        ...

    def forced(self, length: int) -> int:
        """Returns a token that may follow in any case."""
        ...

    def accept(self, length: int, token: int) -> int:
        """Takes the token after the first `length` ones; returns the one that follows, possibly another one."""
        ...


class Sampler:
    """Chooses the tokens of one response.

    Attributes:
        do_sample: Whether it samples; otherwise it takes the most probable token.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        prompt: Sequence[int],
        stop_ids: Sequence[int],
        *,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        legal_tokens: LegalTokens | None = None,
    ) -> None:
        """Reads the options of one request, those of `HONOURED`; without a seed, torch's global random state is used.

        With `legal_tokens`, no others are chosen, whatever the options say.

        Raises:
            ValueError, TypeError: If transformers refuses a value.
        """
        self.do_sample = bool(options.get("do_sample"))
        self._begin = len(prompt)
        self._legal_tokens = legal_tokens
        self._may_change_scores = bool(options.get("logits_processor"))  # the caller's, perhaps in place
        self._processors = make_processors(options, prompt, stop_ids, device)
        if legal_tokens is not None:  # before the options that keep the likeliest tokens
            self._processors.append(_OnlyLegal(legal_tokens, self._begin))
        if self.do_sample:
            self._processors += _warpers(options)
        if options.get("renormalize_logits"):
            self._processors.append(hf.LogitNormalization())
        self._generator = torch.Generator(device)
        if self.do_sample:
            self._generator.manual_seed(int(torch.randint(2**63 - 1, ())) if seed is None else seed)

    @property
    def is_plain(self) -> bool:
        """Whether it takes the most probable token of unchanged logits."""
        return not self.do_sample and not self._processors

    def choose(self, ids: torch.Tensor, logits: torch.Tensor) -> int:
        """Chooses a token.

        Args:
            ids: Prompt and response so far, (1, tokens).
            logits: The model's logits for the next one, (1, vocabulary).
        """
        device_ids: Any = ids.to(logits.device)
        scores: Any = logits.float()
        if self._may_change_scores:
            scores = scores.clone()
        for processor in self._processors:  # the list's own call reads the signature of each, in every step
            scores = processor(device_ids, scores)
        if self.do_sample:
            token = int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))
        else:
            token = int(scores.argmax(-1))
        return token if self._legal_tokens is None else self._legal_tokens.accept(ids.shape[1] - self._begin, token)


def with_defaults(hf_model: "PreTrainedModel", options: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the defaults of the model's generation config and of transformers to the caller's options."""
    config = hf_model.generation_config
    saved = {} if config is None else {name: getattr(config, name, None) for name in HONOURED}
    defaults = {name: value for name, value in saved.items() if value is not None}
    return {"top_k": _DEFAULT_TOP_K} | defaults | dict(options)


def make_processors(
    options: Mapping[str, Any], prompt: Sequence[int], stop_ids: Sequence[int], device: torch.device | str
) -> LogitsProcessorList:
    """Creates the processors that change the logits before sampling, in the order of transformers' `generate`."""
    begin, stops = len(prompt), torch.tensor(list(stop_ids), device=device)
    processors: list[LogitsProcessor] = []

    def add(name: str, processor: Any, *arguments: Any, no_effect: Any = None) -> None:
        value = options.get(name)
        if value is not None and value != no_effect:
            processors.append(processor(value, *arguments))

    add("sequence_bias", hf.SequenceBiasLogitsProcessor)
    add("repetition_penalty", hf.RepetitionPenaltyLogitsProcessor, no_effect=1.0)
    processors += own_processors(options, prompt, stop_ids)
    add("bad_words_ids", hf.NoBadWordsLogitsProcessor, stops)
    if options.get("min_length"):
        processors.append(hf.MinLengthLogitsProcessor(options["min_length"], stops, device=str(device)))
    if options.get("min_new_tokens"):
        processors.append(_MinNewTokens(begin, options["min_new_tokens"], stops, device=str(device)))
    add("prefix_allowed_tokens_fn", hf.PrefixConstrainedLogitsProcessor, 1)
    if options.get("suppress_tokens") is not None:
        processors.append(hf.SuppressTokensLogitsProcessor(options["suppress_tokens"], device=str(device)))
    if options.get("begin_suppress_tokens") is not None:
        processors.append(hf.SuppressTokensAtBeginLogitsProcessor(options["begin_suppress_tokens"], begin, str(device)))
    return LogitsProcessorList([*processors, *(options.get("logits_processor") or [])])


def own_processors(options: Mapping[str, Any], prompt: Sequence[int], stop_ids: Sequence[int]) -> list[LogitsProcessor]:
    """Creates the processors that transformers' `generate` lacks, or has with another meaning.

    Its `no_repeat_ngram_size` also forbids n-grams of the context, and so of the other speaker's turns; here that is
    `no_repeat_context_ngram_size`.
    """
    begin = len(prompt)
    processors: list[LogitsProcessor] = []
    if options.get("logit_bias"):
        processors.append(LogitBias(options["logit_bias"]))
    presence, frequency = options.get("presence_penalty") or 0.0, options.get("frequency_penalty") or 0.0
    if presence or frequency:
        processors.append(OccurrencePenalty(presence, frequency, begin))
    if options.get("no_repeat_ngram_size"):
        processors.append(_InResponse(hf.NoRepeatNGramLogitsProcessor(options["no_repeat_ngram_size"]), begin))
    if options.get("no_repeat_context_ngram_size"):
        processors.append(NoRepeatContextNGram(options["no_repeat_context_ngram_size"], prompt, stop_ids))
    return processors


def _warpers(options: Mapping[str, Any]) -> list[LogitsProcessor]:
    return [
        warper(options[name])  # type: ignore[call-arg]
        for (name, no_effect), warper in zip(SAMPLING_OPTIONS.items(), _WARPERS, strict=True)
        if options.get(name) is not None and options[name] != no_effect
    ]


class _MinNewTokens(hf.MinNewTokensLengthLogitsProcessor):
    """Forbids ends of a response that is too short; after that it does nothing, not even find the ends."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if input_ids.shape[-1] - self.prompt_length_to_skip >= self.min_new_tokens:
            return scores
        return super().__call__(input_ids, scores)


class _InResponse(LogitsProcessor):
    """Applies a processor to the response alone."""

    def __init__(self, processor: LogitsProcessor, begin: int) -> None:
        self._processor = processor
        self._begin = begin

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        response_ids: Any = input_ids[:, self._begin :]
        return self._processor(response_ids, scores)


class _OnlyLegal(LogitsProcessor):
    """Forbids all tokens of a response but the legal ones."""

    def __init__(self, legal_tokens: LegalTokens, begin: int) -> None:
        self._legal_tokens = legal_tokens
        self._begin = begin

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        length = input_ids.shape[1] - self._begin
        legal = self._legal_tokens.legal(length, scores.shape[-1]).to(scores.device)
        scores = scores.masked_fill(~legal, -torch.inf)
        if not (scores > -torch.inf).any():  # another option forbids all legal ones
            scores[:, self._legal_tokens.forced(length)] = 0.0
        return scores


class NoRepeatContextNGram(LogitsProcessor):
    """Forbids the response to repeat n-grams of the context's turns; except across ends of turns."""

    def __init__(self, size: int, prompt: Sequence[int], stop_ids: Sequence[int]) -> None:
        self._size = size
        self._begin = len(prompt)
        self._forbidden: dict[tuple[int, ...], list[int]] = {}
        for end in range(size, len(prompt) + 1):
            ngram = tuple(prompt[end - size : end])
            if not {*ngram} & {*stop_ids}:
                self._forbidden.setdefault(ngram[:-1], []).append(ngram[-1])

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Returns the changed scores, (rows, vocabulary)."""
        changed = scores.clone()
        for row, ids in enumerate(input_ids[:, self._begin :].tolist()):
            before = tuple(ids[len(ids) + 1 - self._size :]) if len(ids) + 1 >= self._size else None
            if before in self._forbidden:
                changed[row, self._forbidden[before]] = -torch.inf
        return changed


class LogitBias(LogitsProcessor):
    """Adds a number to the logits of some tokens: `logit_bias` of OpenAI's API."""

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._ids = torch.tensor([int(index) for index in bias], dtype=torch.long)
        self._bias = torch.tensor([float(value) for value in bias.values()])

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Returns the changed scores, (rows, vocabulary)."""
        return scores.index_add(1, self._ids.to(scores.device), self._bias.to(scores).expand(len(scores), -1))


class OccurrencePenalty(LogitsProcessor):
    """Lowers the logits of tokens that occur in the response, as OpenAI's API does.

    `presence` is subtracted once, `frequency` once per occurrence.
    """

    def __init__(self, presence: float, frequency: float, begin: int) -> None:
        self._presence, self._frequency, self._begin = presence, frequency, begin

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Returns the changed scores, (rows, vocabulary)."""
        ids = input_ids[:, self._begin :]
        counts = torch.zeros_like(scores).scatter_add_(1, ids, torch.ones_like(ids, dtype=scores.dtype))
        return scores - self._presence * counts.clamp(max=1) - self._frequency * counts
