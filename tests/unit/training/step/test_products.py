"""Products of layers side by side: those of each layer, with adapters and without, and the same gradients."""

import pytest
import torch
from torch import nn

from convmodel.training.step.products import JointProducts, OptimizerSteps, UnknownLayerError


def layers(bias: bool = False) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(6, outputs, bias=bias) for outputs in (4, 2, 5)]


def adapted(plain: list[nn.Linear], **options: object) -> list[nn.Module]:
    from peft.tuners.lora.config import LoraConfig
    from peft.tuners.lora.layer import Linear

    found = [Linear(layer, "default", LoraConfig(r=2, lora_alpha=3, **options), r=2, lora_alpha=3) for layer in plain]
    for layer in found:
        nn.init.normal_(layer.lora_B["default"].weight)
        layer.base_layer.requires_grad_(False)
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_adapters", [True, False])
def test_values_and_gradients_are_those_of_the_layers(with_adapters: bool, bias: bool) -> None:
    parts = adapted(layers(bias)) if with_adapters else layers(bias)
    states, gradient = torch.randn(7, 6), torch.randn(7, 11)
    results, gradients = [], []
    for multiply in (
        lambda given: JointProducts(parts, OptimizerSteps())(given, torch.float32),
        lambda given: torch.cat([layer(given) for layer in parts], dim=1),
    ):
        given = states.clone().requires_grad_()
        results.append(multiply(given))
        results[-1].backward(gradient)
        named = [(name, each) for layer in parts for name, each in layer.named_parameters() if each.requires_grad]
        gradients.append([given.grad, *(each.grad for _, each in named)])
        for _, each in named:
            each.grad = None
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*gradients)
    assert len(gradients[0]) == 1 + 3 * (2 if with_adapters else 1 + bias)


def test_some_layers_may_have_adapters() -> None:
    plain = layers()
    parts = [adapted(plain[:1])[0], plain[1], plain[2]]
    states = torch.randn(7, 6)
    torch.testing.assert_close(
        JointProducts(parts, OptimizerSteps())(states, torch.float32),
        torch.cat([layer(states) for layer in parts], dim=1),
    )


@pytest.mark.parametrize("fused", [True, False])
def test_weights_are_converted_again_when_they_have_changed_only(fused: bool) -> None:
    [layer, *_] = layers()
    states = torch.randn(3, 6)

    def expected() -> torch.Tensor:
        return states.bfloat16() @ layer.weight.detach().bfloat16().t()

    with OptimizerSteps() as steps:
        products = JointProducts([layer], steps)
        first = products(states, torch.bfloat16)
        converted = products._in(torch.bfloat16, [layer.weight])
        assert products._in(torch.bfloat16, [layer.weight]) is converted

        first.float().sum().backward()
        torch.optim.AdamW([layer.weight], lr=0.1, fused=fused).step()
        assert not torch.equal(expected(), first)
        assert torch.equal(products(states, torch.bfloat16), expected())

        with torch.no_grad():
            layer.weight.mul_(2)
        assert torch.equal(products(states, torch.bfloat16), expected())
        layer.weight.data = torch.zeros(4, 6)
        assert not products(states, torch.bfloat16).any()

    count = steps.count
    torch.optim.AdamW([layer.weight]).step()
    assert steps.count == count  # it counts inside the block only


def test_frozen_weights_are_converted_once() -> None:
    [layer, *_] = layers()
    layer.requires_grad_(False)
    with OptimizerSteps() as steps:
        products, states = JointProducts([layer], steps), torch.randn(3, 6)
        converted = products._in(torch.bfloat16, [layer.weight])
        steps.count += 1
        products(states, torch.bfloat16)
        assert products._in(torch.bfloat16, [layer.weight]) is converted


def test_gradients_of_bf16_are_in_the_weights_precision() -> None:
    [layer, *_] = layers()
    JointProducts([layer], OptimizerSteps())(torch.randn(3, 6), torch.bfloat16).float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"lora_dropout": 0.1}, "it has lora_dropout"), ({"lora_bias": True}, "its adapters are not plain linear layers")],
)
def test_adapters_that_do_more_are_named(options: dict[str, object], reason: str) -> None:
    from peft.tuners.lora.config import LoraConfig
    from peft.tuners.lora.layer import Linear

    config = LoraConfig(r=2, **options)
    layer = Linear(nn.Linear(6, 4), "default", config, r=2, **options)
    with pytest.raises(UnknownLayerError, match=reason):
        JointProducts([layer], OptimizerSteps())


def test_adapters_that_are_merged_are_named() -> None:
    [layer, *_] = adapted(layers())
    products = JointProducts([layer], OptimizerSteps())
    assert not products.are_merged
    layer.merge()
    assert products.are_merged
    with pytest.raises(UnknownLayerError, match="exactly one active adapter"):
        JointProducts([layer], OptimizerSteps())


def test_layers_that_cannot_be_joined_are_named() -> None:
    for other in (nn.Linear(6, 2, bias=True), nn.Linear(6, 2, bias=False).bfloat16()):
        with pytest.raises(UnknownLayerError, match="differ in dtype, or in having a bias"):
            JointProducts([layers()[0], other], OptimizerSteps())


def test_a_layer_that_does_more_is_named() -> None:
    class Scaled(nn.Linear):
        pass

    with pytest.raises(UnknownLayerError, match="it is not a plain linear layer"):
        JointProducts([Scaled(2, 2)], OptimizerSteps())
