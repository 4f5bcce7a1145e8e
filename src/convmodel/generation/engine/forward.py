"""The forward pass: logits after some new tokens, given the cache of the earlier ones.

Owns: which of two a model gets: its own, or the lean one.
"""

import inspect
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.lean import LeanForward, NewTokens
from convmodel.hf_model.caching import CACHE_ARGUMENTS, cache_argument
from convmodel.hf_model.decoder import UnknownDecoderError, decoder_of
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.hf_model.quantization import is_quantized

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


class Forward(Protocol):
    """Computes logits, and appends the keys and values of the new tokens to their caches.

    Attributes:
        layers: How many layers a cache needs.
        shares_weights: Whether the weights are loaded once for all parts, rather than once for each.
    """

    layers: int
    shares_weights: bool

    def __call__(self, parts: Sequence[NewTokens]) -> torch.Tensor:
        """Processes new tokens, and returns the logits after the last one of each row, (rows of all parts, vocabulary).

        If it raises, some layers of the caches may have the new keys and values, and others not.
        """


class HFForward:
    """Calls a Hugging Face model's own `forward`."""

    shares_weights = False

    def __init__(self, hf_model: "PreTrainedModel") -> None:
        self.layers = hf_model.config.get_text_config(decoder=True).num_hidden_layers
        self._hf_model = hf_model
        self._parameters = inspect.signature(hf_model.forward).parameters.keys()
        self._cache_argument = cache_argument(hf_model) or CACHE_ARGUMENTS[0]

    def __call__(self, parts: Sequence[NewTokens]) -> torch.Tensor:
        """Processes new tokens, one part after the other; see `Forward`."""
        with evaluation_mode(self._hf_model):
            return torch.cat([self._logits(*part) for part in parts])

    def _logits(
        self, ids: torch.Tensor, types: torch.Tensor | None, positions: torch.Tensor, cache: KVCache
    ) -> torch.Tensor:
        arguments: dict[str, Any] = {"attention_mask": cache.mask(ids.shape[1]), "logits_to_keep": 1}
        arguments |= {"position_ids": positions, "token_type_ids": types}
        arguments = {k: value for k, value in arguments.items() if k in self._parameters and value is not None}
        arguments[self._cache_argument] = cache
        output = self._hf_model(input_ids=ids, use_cache=True, **arguments)
        logits: torch.Tensor = output.logits
        return logits[:, -1]


class ForwardChoice:
    """Chooses the forward pass of a model: the lean one where it was seen to compute what the model does.

    The trial is repeated when modules have been replaced, not when weights have changed.
    """

    def __init__(self, hf_model: "PreTrainedModel") -> None:
        self._hf_model = hf_model
        self._made_for: object = None
        self._forward: Forward
        self._tried: tuple[int, ...] = ()
        self._differs = False

    def forward(self, version: object) -> Forward:
        """Returns the forward pass with the model's current weights, of which `version` is that of their values."""
        modules = [*self._hf_model.modules()]
        hooks = [(len(each._forward_hooks), len(each._forward_pre_hooks), "_hf_hook" in vars(each)) for each in modules]
        if (made_for := ([*map(id, modules)], hooks, version)) != self._made_for:
            self._made_for, self._forward = None, self._choose(tuple(map(id, modules)))
            self._made_for = made_for
        return self._forward

    def _choose(self, modules: tuple[int, ...]) -> Forward:
        usual = HFForward(self._hf_model)
        try:
            lean = LeanForward(decoder_of(self._hf_model))
        except UnknownDecoderError as reason:
            logger.debug("generating with transformers' forward pass: %s", reason)
            return usual
        if modules != self._tried:
            self._tried, self._differs = modules, not _compute_the_same(lean, usual, self._hf_model)
            if self._differs:
                logger.warning("generating with transformers' forward pass, since the lean one computes other logits")
        return usual if self._differs else lean


_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-4}
_ROUNDED = 0.05
"""The largest difference of logits, relative to the largest one, by dtype; and in any other, or if quantized."""

_TRIAL_TOKENS = (7, 4)
"""The tokens of two sequences, which differ in length so that one is padded."""


@torch.inference_mode()
def _compute_the_same(lean: Forward, usual: Forward, hf_model: "PreTrainedModel") -> bool:
    """Compares the logits of two forward passes after two random prompts, and after one more token of both."""
    vocabulary, device = hf_model.config.get_text_config(decoder=True).vocab_size, hf_model.device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (len(_TRIAL_TOKENS), 1 + max(_TRIAL_TOKENS)), generator=generator).to(device)
    found, right = _logits_of_trial(lean, ids), _logits_of_trial(usual, ids)
    tolerance = _ROUNDED if is_quantized(hf_model) else _TOLERANCES.get(hf_model.dtype, _ROUNDED)
    return bool((found - right).abs().max() <= tolerance * right.abs().max())


def _logits_of_trial(forward: Forward, ids: torch.Tensor) -> torch.Tensor:
    caches = [KVCache(forward.layers) for _ in _TRIAL_TOKENS]
    prompts = [
        NewTokens(row[None, :tokens], None, torch.arange(tokens, device=ids.device)[None], cache)
        for row, tokens, cache in zip(ids, _TRIAL_TOKENS, caches, strict=True)
    ]
    logits = forward(prompts)
    positions = torch.tensor(_TRIAL_TOKENS, device=ids.device)[:, None]
    batch = KVCache.merge([(cache, [0]) for cache in caches])
    return torch.cat([logits, forward([NewTokens(ids[:, -1:], None, positions, batch)])]).float()
