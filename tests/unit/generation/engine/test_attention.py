"""Which positions new tokens attend to; that attention is right is tested with the lean pass."""

import torch

from convmodel.generation.engine.attention import View, capped
from convmodel.generation.engine.kv_cache import KVCache


def test_a_mask_is_where_the_model_is() -> None:
    cache = KVCache(1)
    cache.layers[0].update(*[torch.ones(1, 1, 4, 2, device="meta")] * 2)
    view = View.of(cache, 3, None, torch.device("meta"))
    assert view.mask is not None
    assert (view.mask.device.type, view.mask.shape, view.is_causal) == ("meta", (3, 7), False)


def test_only_the_window_is_attended_to() -> None:
    cache = KVCache(1)
    cache.layers[0].update(*[torch.ones(1, 1, 10, 2)] * 2)
    assert View.of(cache, 1, 4, torch.device("cpu")) == View(7, None, is_causal=False)
    assert View.of(cache, 1, 11, torch.device("cpu")) == View(0, None, is_causal=False)
    view = View.of(cache, 2, 4, torch.device("cpu"))
    assert view.mask is not None
    assert view.mask.int().tolist() == [[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]]


def test_a_cap_limits_softly() -> None:
    values = torch.tensor([-100.0, 0.0, 0.01, 100.0])
    torch.testing.assert_close(capped(values, 2.0), torch.tensor([-2.0, 0.0, 0.01, 2.0]), atol=1e-5, rtol=0)
    assert capped(values, None) is values


def test_capped_attention_is_where_the_model_is() -> None:
    states = torch.ones(1, 1, 3, 2, device="meta")
    attended = View(0, None, is_causal=True).attend(states, states, states, 1.0, 5.0)
    assert (attended.device.type, attended.shape) == ("meta", states.shape)
