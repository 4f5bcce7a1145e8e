"""Context managers that change a model for training and restore it afterwards.

Owns: fused activations, dropout and other noise, gradient checkpointing and compilation. Does not know the loss.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn
from transformers.activations import FastGELUActivation, NewGELUActivation

from convmodel.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


@contextmanager
def fused_activations(model: nn.Module) -> Iterator[None]:
    """Replaces GPT-2's GELU, eight operations in a row, by the single operation of torch that computes the same.

    The tanh approximation of Hendrycks and Gimpel (2016), arXiv:1606.08415, in both cases.
    """
    slow = (NewGELUActivation, FastGELUActivation)
    replaced = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, slow)
    ]
    for parent, name, _ in replaced:
        setattr(parent, name, nn.GELU("tanh"))
    try:
        yield
    finally:
        for parent, name, child in replaced:
            setattr(parent, name, child)


@contextmanager
def dropout_of(model: nn.Module, rate: float) -> Iterator[None]:
    """Sets the rate of all dropout inside the block: of layers, and of modules with a rate as an attribute.

    Attention weights are never dropped: no fast attention on a CPU supports it, and a step would take twice as long.
    """
    before = [
        (module, name, value, 0.0 if _of_attention(path, name) else rate)
        for path, module in model.named_modules()
        if "lora_" not in path  # LoRA's dropout, named lora_dropout, has its own option
        for name, value in vars(module).items()
        if isinstance(value, float) and (name.endswith("dropout") or (name == "p" and isinstance(module, nn.Dropout)))
    ]
    if rate and not any(value for *_, value in before):
        logger.warning("dropout changes nothing: this model has only attention dropout, which stays 0")
    try:
        for module, name, _, value in before:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value, _ in before:
            setattr(module, name, value)


_NOISE = frozenset({"jitter_noise", "input_jitter_noise", "layerdrop"})


@contextmanager
def without_noise(model: nn.Module) -> Iterator[None]:
    """Turns off what else is random in training, so that a batch of 8 and 8 batches of 1 give the same step.

    These are noise on the inputs of experts, layers that are left out, and the choice of experts in Phi-3.5-MoE, whose
    routers stay in evaluation mode.
    """
    before = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if name in _NOISE and isinstance(value, float)
    ]
    routers = [(module, module.training) for module in model.modules() if hasattr(module, "router_jitter_noise")]
    try:
        for module, name, _ in before:
            setattr(module, name, 0.0)
        for router, _ in routers:
            router.eval()
            router.train = lambda mode=True, router=router: router  # type: ignore[method-assign, misc]
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        for router, training in routers:
            del router.train
            router.train(training)


def _of_attention(path: str, name: str) -> bool:
    """Returns whether a rate is for attention weights: `attn_dropout.p`, `attention_dropout`, `self_attn.dropout`."""
    return "att" in name or (name in ("p", "dropout") and "att" in path.rpartition(".")[2])


@contextmanager
def checkpointing(hf_model: "PreTrainedModel", enabled: bool) -> Iterator[None]:
    """Recomputes activations in the backward pass instead of keeping them, if enabled."""
    if not enabled or any(getattr(module, "gradient_checkpointing", False) for module in hf_model.modules()):
        yield
        return
    if not hf_model.supports_gradient_checkpointing:
        raise ConfigError(
            f"{hf_model.config.model_type} does not support gradient checkpointing: leave out gradient_checkpointing"
        )
    # The name in newer versions of transformers comes first.
    kind = "activation" if hasattr(hf_model, "activation_checkpointing_enable") else "gradient"
    getattr(hf_model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(hf_model, f"{kind}_checkpointing_disable")()


@contextmanager
def compiled(module: nn.Module, enabled: bool) -> Iterator[None]:
    """Compiles a module, if enabled."""
    with own_attributes(module, "_compiled_call_impl"):
        if enabled:
            module.compile()
        yield


@contextmanager
def own_attributes(module: nn.Module, *names: str) -> Iterator[None]:
    """Restores attributes of a module itself, rather than of its class, afterwards; those it lacked are removed."""
    before = {name: vars(module)[name] for name in names if name in vars(module)}
    try:
        yield
    finally:
        for name in names:
            vars(module).pop(name, None)
        vars(module).update(before)
