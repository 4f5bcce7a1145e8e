"""From logits to the next token.

Owns: which options the engine supports by itself, and sampling.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation import logits_process as hf

from convmodel.generation.engine.logits_processors import OWN, LegalTokens, OnlyLegal, make_processors, make_warpers
from convmodel.hf_model.generation_config import SAMPLING_OPTIONS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HONOURED = (
    frozenset(SAMPLING_OPTIONS)
    | OWN
    | {"do_sample", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "sequence_bias"}
    | {"suppress_tokens", "begin_suppress_tokens", "min_new_tokens", "min_length", "prefix_allowed_tokens_fn"}
    | {"logits_processor", "renormalize_logits"}
)
"""Options that the engine supports; with others transformers' `generate` is used."""

_DEFAULT_TOP_K = 50  # of transformers' `generate`


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
            self._processors.append(OnlyLegal(legal_tokens, self._begin))
        if self.do_sample:
            self._processors += make_warpers(options)
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
