"""What a model computes of a response, as the features of a reward model.

Owns: which hidden states these are, and how they are read. Knows no judgements.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from convmodel.data.windows.collate import pad
from convmodel.errors import ConfigError
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.hf_model.log_probs import BATCH_SIZE
from convmodel.hf_model.shared_context import SharedContext, read_shared
from convmodel.layout.architecture import shared_length
from convmodel.layout.sequence import IGNORED, Window
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYERS = 4
"""The maximum number of layers whose outputs are features: the first and the last, and others at equal distances."""


def reward_features(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, windows: Sequence[Window]
) -> torch.Tensor:
    """Returns the features of each window's response, its targets; what all windows begin with is read once.

    Of some layers, these are the mean of the hidden states at the targets, and the state at the last target, which is
    the separator that closes the response, or its last token if it is not closed. The second half are products of
    these with the state at the token before the response, elementwise: whether a response fits its context.

    Returns:
        A tensor of shape (windows, 4 * layers * width), in float32 on the CPU.

    Raises:
        ConfigError: If the model gives no hidden states.
    """
    context, windows = read_shared(hf_model, tokenizer, windows)
    limit = shared_length(hf_model.config)
    longest = max(len(window.input_ids) for window in windows)
    size = BATCH_SIZE if limit is None or longest <= limit else 1
    batches = [windows[start : start + size] for start in range(0, len(windows), size)]
    return torch.cat([_features(hf_model, tokenizer, batch, context) for batch in batches])


def _features(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    windows: Sequence[Window],
    context: SharedContext | None,
) -> torch.Tensor:
    batch = pad(windows, tokenizer.pad_token_id, use_token_types=tokenizer.layout.use_token_types)
    is_target = batch.pop("labels") != IGNORED
    batch.pop("weights", None)
    inputs: dict[str, Any] = {name: tensor.to(hf_model.device) for name, tensor in batch.items()}
    inputs |= {"use_cache": False} if context is None else context.arguments(hf_model, inputs["attention_mask"])
    with evaluation_mode(hf_model), torch.inference_mode():
        states = hf_model.base_model(**inputs, output_hidden_states=True).hidden_states
    if not states:
        raise ConfigError(f"a reward model needs hidden states, and {hf_model.config.model_type} gives none")
    last = is_target.shape[1] - 1 - is_target.flip(1).int().argmax(1)
    begin = (is_target.int().argmax(1) - 1).clamp_min(0)  # the token before the first target
    rows, share = torch.arange(len(last)), is_target / is_target.sum(1, keepdim=True)
    of_response: list[torch.Tensor] = []
    with_context: list[torch.Tensor] = []
    for layer in _spread(len(states) - 1):
        state = states[1 + layer].float().cpu()  # the first is the embedding
        mean, end, before = torch.einsum("bt,btw->bw", share, state), state[rows, last], state[rows, begin]
        of_response += [mean, end]
        with_context += [mean * before, end * before]
    return torch.cat([*of_response, *with_context], dim=1)


def _spread(layers: int) -> list[int]:
    """Returns the numbers of the layers that are used, in order.

    Example:
        >>> _spread(3), _spread(30)
        ([0, 1, 2], [0, 10, 19, 29])
    """
    count = min(layers, LAYERS)
    return [round(number * (layers - 1) / max(1, count - 1)) for number in range(count)]
