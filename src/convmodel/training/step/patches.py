"""Context managers that change a model while it is trained and change it back afterwards.

Owns: fused activations, dropout, gradient checkpointing and compilation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn
from transformers.activations import FastGELUActivation, NewGELUActivation

from convmodel.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def fused_activations(model: nn.Module) -> Iterator[None]:
    """Replaces GPT-2's GELU, eight operations in a row, by torch's one operation that computes the same.

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
    """Sets the rate of all dropout inside the block: of layers, and of modules that keep a rate themselves.

    Attention weights are never dropped: no fast attention on a CPU knows how, and a step would take twice as long.
    """
    before = [
        (module, name, value, 0.0 if _of_attention(path, name) else rate)
        for path, module in model.named_modules()
        if "lora_" not in path  # LoRA's own, named lora_dropout, has a setting of its own
        for name, value in vars(module).items()
        if isinstance(value, float) and (name.endswith("dropout") or (name == "p" and isinstance(module, nn.Dropout)))
    ]
    try:
        for module, name, _, wanted in before:
            setattr(module, name, wanted)
        yield
    finally:
        for module, name, value, _ in before:
            setattr(module, name, value)


def _of_attention(path: str, name: str) -> bool:
    """Tells whether a rate is that of attention weights: `attn_dropout.p`, `attention_dropout`, `self_attn.dropout`."""
    return "att" in name or (name in ("p", "dropout") and "att" in path.rpartition(".")[2])


@contextmanager
def checkpointing(hf_model: "PreTrainedModel", wanted: bool) -> Iterator[None]:
    """Computes activations a second time in the backward pass instead of keeping them, if that is wanted."""
    if not wanted or any(getattr(module, "gradient_checkpointing", False) for module in hf_model.modules()):
        yield
        return
    if not hf_model.supports_gradient_checkpointing:
        raise ConfigError(f"{hf_model.config.model_type} cannot checkpoint gradients: leave gradient_checkpointing out")
    # What newer versions of transformers call them comes first.
    kind = "activation" if hasattr(hf_model, "activation_checkpointing_enable") else "gradient"
    getattr(hf_model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(hf_model, f"{kind}_checkpointing_disable")()


@contextmanager
def compiled(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Compiles what a module computes, if that is wanted."""
    with own_attributes(module, "_compiled_call_impl"):
        if wanted:
            module.compile()
        yield


@contextmanager
def own_attributes(module: nn.Module, *names: str) -> Iterator[None]:
    """Puts back afterwards what a module itself, rather than its class, has under some names; often nothing."""
    before = {name: vars(module)[name] for name in names if name in vars(module)}
    try:
        yield
    finally:
        for name in names:
            vars(module).pop(name, None)
        vars(module).update(before)
