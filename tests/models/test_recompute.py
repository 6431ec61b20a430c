"""What is computed again in the backward pass: same values, same gradients, less memory."""

import pytest
import torch
from tiny_model import IDENTITIES, lived_in, step, tiny_batch, tiny_model
from torch.nn.functional import dropout, gelu

from models.kernels import attend, bytes_of, checkpointed, recompute
from utils.precision import autocast


@pytest.fixture
def always(monkeypatch):
    """Nothing is too small to be computed again."""
    monkeypatch.setattr(recompute, "WORTHWHILE", 0)


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
    for worthwhile in (2**60, 0):
        monkeypatch.setattr(recompute, "WORTHWHILE", worthwhile)
        model = lived_in(tiny_model())
        with autocast(precision, "cpu"):
            losses = step(model, tiny_batch(IDENTITIES))
        sum(losses.values()).backward()
        found.append([*losses.values(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
