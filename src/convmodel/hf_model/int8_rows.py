"""Single trained rows of an int8 embedding or head, such as a new separator's.

Owns: peft's layer of trained rows for packed weights, whose float matrix does not exist.
"""

from typing import Any

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer

from convmodel.hf_model.int8_layers import Int8Embedding


class Int8RowsLayer(TrainableTokensLayer):
    """Replaces what an int8 embedding or head computes for some rows, and leaves its integers as they are.

    Therefore nothing is merged, and switching the adapters off needs no undoing.
    """

    @classmethod
    def take_over(cls, rows: TrainableTokensLayer) -> None:
        """Makes a layer that peft added over a stand-in compute with packed weights, from which its rows start."""
        if isinstance(rows, cls):
            return
        rows.__class__ = cls
        if rows.tied_adapter is not None:
            return
        base_layer: Any = rows.base_layer
        matrix = base_layer.matrix
        for name, numbers in rows.token_indices.items():
            values = matrix.values_of(numbers)
            rows.trainable_tokens_delta[name].data = values
            rows.trainable_tokens_original[name] = values.clone()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Does nothing: there is no matrix to write to."""

    def get_merged_weights(self, active_adapters: list[str]) -> torch.Tensor:
        """Returns all values of the matrix, with the rows replaced; for who needs the matrix itself."""
        base_layer: Any = self.base_layer
        weights: torch.Tensor = base_layer.matrix.values(torch.float32)
        for numbers, values in self._trained(active_adapters):
            weights = weights.index_copy(0, torch.tensor(numbers), values)
        return weights

    def forward_adapters(self, x: torch.Tensor, active_adapters: list[str], *args: Any, **more: Any) -> torch.Tensor:
        """Embeds ids, or computes logits of hidden states."""
        result: torch.Tensor = self.base_layer(x)
        if self.disable_adapters:
            return result
        for numbers, values in self._trained(active_adapters):
            if isinstance(self.base_layer, Int8Embedding):
                for number, row in zip(numbers, self.base_layer.scaled(values), strict=True):
                    result = torch.where((x == number)[..., None], row, result)
            else:
                logits = torch.nn.functional.linear(x.to(values.dtype), values, self._bias_of(numbers))
                result = result.index_copy(-1, torch.tensor(numbers), logits.to(result.dtype))
        return result

    def _trained(self, active_adapters: list[str]) -> list[tuple[list[int], torch.Tensor]]:
        return [(self.token_indices[name], self.trainable_tokens_delta[name]) for name in active_adapters]

    def _bias_of(self, numbers: list[int]) -> torch.Tensor | None:
        base_layer: Any = self.base_layer
        bias: torch.Tensor | None = base_layer.bias
        return None if bias is None else bias[numbers]
