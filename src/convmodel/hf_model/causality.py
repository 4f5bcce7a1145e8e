"""Refusing models that are no causal language models.

Owns: trial passes that show whether a prediction depends on a later token, and whether positions are counted from 0.
The class of a model does not tell: transformers loads masked language models (BERT, RoBERTa) as causal ones, too.
"""

import inspect
from typing import TYPE_CHECKING, Any

import torch

from convmodel.errors import ModelLoadError
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.hf_model.int8_layers import count_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KNOWN_CAUSAL = frozenset(
    {"gpt2", "gpt_neo", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text"}
    | {"phi", "phi3", "smollm3", "olmo2", "falcon", "bloom", "opt"}
)
"""Model types that need no trial."""

_LENGTH = 6  # tokens of the trial


def require_causal(hf_model: "PreTrainedModel") -> None:
    """Checks that the logits of a position depend on it and those before it alone, unless the type is known.

    Raises:
        ModelLoadError: If they do not, or the model does not turn token ids into logits, or counts positions from
            another number than generation does.
    """
    config: Any = getattr(hf_model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind is None:  # something else than a model is refused when its rows are counted
        return
    # A setting of Gemma 3, which EmbeddingGemma has.
    if kind in KNOWN_CAUSAL and not getattr(config.get_text_config(), "use_bidirectional_attention", False):
        return
    try:
        is_causal, from_zero = _is_causal(hf_model), _counts_from_zero(hf_model)
    except Exception as error:  # whatever the model's own code raises
        reason = (str(error).splitlines() or [""])[0]
        raise ModelLoadError(
            f"{kind} cannot be used: a trial pass over token ids alone ended in {type(error).__name__}: {reason}: "
            "choose another causal language model, such as GPT-2, Llama or Qwen"
        ) from error
    if not is_causal:
        raise ModelLoadError(
            f"this {kind} predicts a token from those after it, as masked language models do: choose a causal language "
            "model, or set is_decoder to true (of Gemma, use_bidirectional_attention to false) in its config.json and "
            "train it as one"
        )
    if not from_zero:
        raise ModelLoadError(
            f"{kind} cannot be used: it does not count positions from 0, as generation does, and would generate "
            "something else than it learns: choose another causal language model, such as GPT-2, Llama or Qwen"
        )


def _is_causal(hf_model: "PreTrainedModel") -> bool:
    """Returns whether the last of some tokens has no influence on the logits before it.

    The influence is a gradient, which is exactly zero where attention is masked, whatever the precision.
    """
    embedding: Any = hf_model.get_input_embeddings()
    embedded: list[torch.Tensor] = []

    def watch(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1].clone()  # since some models change it in place

    handle = embedding.register_forward_hook(watch)
    try:
        with evaluation_mode(hf_model), torch.enable_grad():
            logits = hf_model(input_ids=_trial_ids(hf_model), use_cache=False).logits
            [influence] = torch.autograd.grad(logits[0, :-1].float().square().sum(), embedded[:1])
    finally:
        handle.remove()
    return not influence[0, -1].nan_to_num().any()


def _counts_from_zero(hf_model: "PreTrainedModel") -> bool:
    """Returns whether a model's own positions, RoBERTa's not among them, give the logits of positions from 0."""
    if "position_ids" not in inspect.signature(hf_model.forward).parameters:
        return True
    ids = _trial_ids(hf_model)
    with evaluation_mode(hf_model), torch.no_grad():
        own = hf_model(input_ids=ids, use_cache=False).logits
        counted = hf_model(input_ids=ids, position_ids=torch.arange(_LENGTH).to(ids)[None], use_cache=False).logits
    return torch.allclose(own, counted, rtol=0.0, atol=0.01 * own.abs().max().item(), equal_nan=True)


def _trial_ids(hf_model: "PreTrainedModel") -> torch.Tensor:
    middle = count_rows(hf_model.get_input_embeddings()) // 2  # far from special ids, such as that of padding
    return torch.arange(middle, middle + _LENGTH, device=hf_model.device)[None]
