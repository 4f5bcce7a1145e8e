"""What changes the logits before a token is chosen.

Owns: the logits processors of the options, in transformers' order, and those that transformers lacks.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation import logits_process as hf

from convmodel.hf_model.devices import sum_dtype
from convmodel.hf_model.generation_config import SAMPLING_OPTIONS

OWN = frozenset({"presence_penalty", "frequency_penalty", "logit_bias", "no_repeat_context_ngram_size"})
"""Options that transformers' `generate` does not have."""

_SORTED = 512  # of the likeliest tokens


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


def make_warpers(options: Mapping[str, Any]) -> list[LogitsProcessor]:
    """Creates the processors of sampling, in the order of `SAMPLING_OPTIONS`."""
    warpers: tuple[type[LogitsProcessor], ...] = (
        hf.TemperatureLogitsWarper,
        hf.TopKLogitsWarper,
        TopP,
        hf.MinPLogitsWarper,
        hf.TypicalLogitsWarper,
        hf.EpsilonLogitsWarper,
        hf.EtaLogitsWarper,
    )
    return [
        warper(options[name])  # type: ignore[call-arg]
        for (name, no_effect), warper in zip(SAMPLING_OPTIONS.items(), warpers, strict=True)
        if options.get(name) is not None and options[name] != no_effect
    ]


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


class OnlyLegal(LogitsProcessor):
    """Forbids all tokens of a response but the legal ones."""

    def __init__(self, legal_tokens: LegalTokens, begin: int) -> None:
        self._legal_tokens = legal_tokens
        self._begin = begin

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Returns the scores with -inf for the others, (rows, vocabulary)."""
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
