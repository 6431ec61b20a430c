"""What is computed again in the backward pass: same values, same gradients, less memory."""

import pytest
import torch
from tiny_model import IDENTITIES, lived_in, step, tiny_batch, tiny_model
from torch.nn.functional import dropout, gelu
from torch.utils.checkpoint import checkpoint

from models.kernels import LayerNorm, Linear, attend, bytes_of, checkpointed, recompute
from models.kernels.linear import product
from utils.precision import autocast


@pytest.fixture
def always(monkeypatch):
    """Nothing is too small to be computed again."""
    monkeypatch.setattr(recompute, "WORTHWHILE", 1)


def kept_bytes(function, *inputs) -> int:
    """What autograd keeps of function(*inputs), its inputs aside."""
    own, kept = {part.untyped_storage()._cdata for part in inputs}, {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function(*inputs)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


def test_bytes_of_a_shape():
    assert bytes_of(3, 5, like=torch.empty(0, dtype=torch.bfloat16)) == 30


def test_small_results_are_kept_and_large_ones_are_not():
    given = torch.randn(100, 16, requires_grad=True)

    def narrow(states):
        return gelu(states).exp().sum()

    few, many = (lambda states, kept=kept: checkpointed(narrow, states, kept=kept) for kept in (1000, 2**30))
    assert kept_bytes(few, given) == given.nbytes  # the result of exp; gelu keeps its input
    assert kept_bytes(many, given) == 0


def normed_product(norm: type, linear: type) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(norm(16), linear(16, 24))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_output_of_a_norm_is_not_kept_for_the_product_after_it(always, precision):
    given = torch.randn(100, 16, requires_grad=True)
    ours = normed_product(LayerNorm, Linear)
    theirs = normed_product(torch.nn.LayerNorm, torch.nn.Linear)
    with autocast(precision, "cpu"):
        few, many = (
            kept_bytes(lambda states, *_, module=module: module(states), given, *module.parameters())
            for module in (ours, theirs)
        )
    # in bfloat16, nor are the weight's and the output's copies in it; means and deviations are kept by both
    spared = given.nbytes if precision == "fp32" else (given.nbytes + 16 * 24 * 4) // 2
    assert many - few == spared


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_follows_a_norm_has_the_gradients_of_torch_s_layers(always, precision, outside):
    found = []
    for module in (normed_product(LayerNorm, Linear), normed_product(torch.nn.LayerNorm, torch.nn.Linear)):
        given = torch.randn(100, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with autocast(precision, "cpu"):
            output = checkpoint(module, given, use_reentrant=False) if outside else module(given)
        for last in (False, True):
            gradients = torch.autograd.grad(
                output.float().square().sum(), [given, *module.parameters()], retain_graph=not last
            )
            found.append([output, *gradients])
    for other in found[1:]:
        for one, its in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, its, atol=1e-4, rtol=1e-4)


def test_no_product_is_made_twice(always, monkeypatch):
    made = []
    monkeypatch.setattr("models.kernels.linear.product", lambda *parts: made.append(None) or product(*parts))
    module, given = normed_product(LayerNorm, Linear), torch.randn(100, 16, requires_grad=True)
    module(given).sum().backward()
    assert len(made) == 3  # forward, and the gradients of states and of the weight


def test_random_draws_are_the_same_again(always):
    given = torch.randn(50, 16, requires_grad=True)
    output = checkpointed(lambda states: dropout(states, 0.5).exp(), given, kept=1, random=True)
    output.sum().backward()
    # where nothing was dropped the slope is 2 exp(2 x), elsewhere 0
    dropped = output == 1
    assert 0.3 < dropped.float().mean() < 0.7
    torch.testing.assert_close(given.grad, torch.where(dropped, 0.0, 2 * output.detach()))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_bfloat16_on_a_cpu(always, masked):
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(2, 3, n, 8, generator=generator).bfloat16() for n in (5, 7, 7))
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., 4:] = not masked
    exact = [part.double().requires_grad_() for part in (query, keys, values)]
    scores = exact[0] @ exact[1].transpose(-1, -2) / 8**0.5
    expected = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ exact[2]
    ours = [part.requires_grad_() for part in (query, keys, values)]
    with autocast("bf16", "cpu"):
        found = attend(*ours, mask if masked else None)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=0.02, rtol=0.02)
    found.float().square().sum().backward()
    expected.square().sum().backward()
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, atol=0.1, rtol=0.05)


def test_attention_with_dropout_keeps_its_mean_and_drops_whole_answers():
    query, keys = torch.zeros(1, 1, 4000, 2), torch.zeros(1, 1, 2, 2)
    values = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])  # each query gets 1/2 of both, doubled or dropped
    found = attend(query, keys, values, dropout=0.5)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert found.mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_has_the_same_losses_and_gradients(monkeypatch, precision):
    found = []
    for worthwhile in (2**60, 1):
        monkeypatch.setattr(recompute, "WORTHWHILE", worthwhile)
        model = lived_in(tiny_model())
        with autocast(precision, "cpu"):
            losses = step(model, tiny_batch(IDENTITIES))
        sum(losses.values()).backward()
        found.append([*losses.values(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
