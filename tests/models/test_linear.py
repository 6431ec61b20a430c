"""The linear layer against torch's own, with and without gradients, in both precisions."""

from functools import partial

import pytest
import torch
from torch import nn

from models.kernels import Linear, by_one_product, convert_weights, prepare_weights, project
from utils.precision import autocast


def pair(bias: bool = True) -> tuple[Linear, nn.Linear]:
    """Ours and torch's, with the same parameters."""
    torch.manual_seed(0)
    ours, theirs = Linear(20, 30, bias=bias), nn.Linear(20, 30, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(20,), (7, 20), (2, 7, 20), (0, 20)])
def test_without_gradients_it_is_torch_s_layer(shape, bias):
    ours, theirs = pair(bias)
    given = torch.randn(shape)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(ours(given), theirs(given), atol=1e-5, rtol=1e-5)


def test_states_need_not_lie_in_order():
    ours, theirs = pair()
    given = torch.randn(20, 7, 2).permute(2, 1, 0)
    with torch.no_grad():
        torch.testing.assert_close(ours(given), theirs(given), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_with_gradients_it_is_torch_s_layer(bias):
    found = []
    for layer in pair(bias):
        given = torch.randn(7, 20, generator=torch.Generator().manual_seed(1)).requires_grad_()
        output = layer(given)
        output.square().sum().backward()
        found.append([output, given.grad, *(parameter.grad for parameter in layer.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_prepared_weights_give_what_autocast_gives(bias):
    ours, theirs = pair(bias)
    given, precision = torch.randn(7, 20), partial(autocast, "bf16", "cpu")
    with torch.no_grad(), prepare_weights(ours, precision), precision():
        assert ours.prepared is not None
        found, expected = ours(given), theirs(given)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)


def test_prepared_weights_are_dropped_even_after_an_error():
    ours, _ = pair()
    with pytest.raises(ZeroDivisionError), prepare_weights(ours, partial(autocast, "bf16", "cpu")):
        raise ZeroDivisionError
    assert ours.prepared is None
    assert set(ours.state_dict()) == {"weight", "bias"}


def test_float32_needs_no_copy_of_the_weights():
    ours, _ = pair()
    with prepare_weights(ours, partial(autocast, "fp32", "cpu")):
        assert ours.prepared is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_that_read_the_same_are_one_product(precision):
    torch.manual_seed(0)
    layers, given = [Linear(6, 4) for _ in range(3)], torch.randn(2, 5, 6, requires_grad=True)
    found = []
    for join in (False, True):
        with autocast(precision, "cpu"), convert_weights(layers):
            parts = by_one_product(layers, given) if join else [layer(given) for layer in layers]
        assert all(part.shape == (2, 5, 4) for part in parts)
        loss = sum((number + 1) * part.float().square().sum() for number, part in enumerate(parts))
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        found.append([*parts, *torch.autograd.grad(loss, [given, *parameters])])
    for one, other in zip(*found, strict=True):
        error = (other.float() - one.float()).norm() / one.float().norm()
        assert error <= (1e-6 if precision == "fp32" else 0.01)


@pytest.mark.parametrize("bias", [True, False])
def test_parameters_without_a_layer_are_multiplied_as_those_of_one(bias):
    ours, _ = pair(bias)
    given = torch.randn(2, 7, 20, requires_grad=True)
    wanted = [given, *ours.parameters()]
    found = [
        [states, *torch.autograd.grad(states.square().sum(), wanted)]
        for states in (ours(given), project(given, ours.weight, ours.bias))
    ]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
