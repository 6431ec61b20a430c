"""Dropout with a cheap mask: torch's meaning, its generator, and nothing drawn where nothing is dropped."""

import shutil

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.kernels.dropout import BLOCK, LEVELS, Dropout, DropPath, dropout

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
SHAPE = (3, BLOCK // 2 + 5)  # more than a block, and its end is no whole word of random bits


def seeded(states, p, seed=0):
    torch.manual_seed(seed)
    return dropout(states, p)


def scale(p):
    """What elements are multiplied with that are kept."""
    return LEVELS / round((1 - p) * LEVELS)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_of_kept_elements_is_that_asked_for(p):
    count = 2**22
    kept = int((seeded(torch.ones(count), p) != 0).sum())
    deviation = (count * p * (1 - p)) ** 0.5
    assert abs(kept - count * (1 - p)) < 4 * deviation


@pytest.mark.parametrize("p", [0.1, 0.3, 0.999, 1e-7, 1 - 1e-7])
def test_probability_is_exact_to_a_level_and_the_mean_to_rounding(monkeypatch, p):
    """Every number of 16 bits, once: what is kept is counted and not sampled."""
    numbers = torch.arange(LEVELS, dtype=torch.int32).to(torch.int16).numpy().view("uint64")

    class Counter:
        def __init__(self, seed):
            pass

        def random_raw(self, count):
            return numbers[:count]

    monkeypatch.setattr("models.kernels.dropout.np.random.SFC64", Counter)
    found = dropout(torch.ones(LEVELS, dtype=torch.float64), p)
    assert abs(int((found != 0).sum()) - (1 - p) * LEVELS) <= 1
    assert found.mean().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_elements_are_scaled_and_others_are_zero(dtype):
    states = torch.rand(SHAPE).add(0.5).to(dtype)
    found = seeded(states, 0.3)
    assert found.dtype == dtype and found.shape == states.shape
    kept = found != 0
    assert torch.equal(found[kept], states[kept] * scale(0.3))
    assert torch.equal(kept, seeded(torch.ones(SHAPE), 0.3) != 0)  # the mask is the same for all dtypes


def test_the_mask_is_that_of_the_seed():
    states = torch.ones(SHAPE)
    first, second = seeded(states, 0.5), dropout(states, 0.5)
    assert torch.equal(first, seeded(states, 0.5))
    assert not torch.equal(first, second)
    assert not torch.equal(first, seeded(states, 0.5, seed=1))


def test_the_mask_does_not_depend_on_the_number_of_threads():
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(seeded(torch.ones(10 * BLOCK), 0.1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_the_mask_of_a_seed_stays_the_same_in_later_versions():
    """A run that is resumed draws what it would have drawn."""
    kept = seeded(torch.ones(16), 0.5) != 0
    assert "".join("01"[int(one)] for one in kept) == "1001011110000001"


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_neighbours_are_independent(p):
    count = 2**20
    kept = (seeded(torch.ones(count), p) != 0).double() - (1 - p)
    for distance in (1, 2, 3, 4, 5, 64, 192, BLOCK):
        correlation = (kept[distance:] * kept[:-distance]).mean() / (p * (1 - p))
        assert abs(correlation) < 5 / count**0.5, distance


def test_masks_of_calls_that_follow_are_independent():
    count = 2**20
    torch.manual_seed(0)
    first, second = ((dropout(torch.ones(count), 0.5) != 0).double() - 0.5 for _ in range(2))
    assert abs((first * second).mean() / 0.25) < 5 / count**0.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_mask_times_scale(dtype):
    states = torch.rand(SHAPE).add(0.5).to(dtype).requires_grad_()
    found = seeded(states, 0.3)
    found.backward(torch.full_like(found, 3))
    assert states.grad.dtype == dtype
    assert torch.equal(states.grad, torch.where(found != 0, torch.full_like(found, 3) * scale(0.3), 0))


def test_gradients_have_gradients():
    states = torch.rand(4, 5, dtype=torch.float64).add(0.5).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda given: seeded(given, 0.3) ** 2, states)


def test_one_byte_per_element_is_kept_for_the_backward_pass():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part) or part, lambda part: part):
        dropout(torch.ones(SHAPE, requires_grad=True), 0.3)
    assert sum(part.untyped_storage().nbytes() for part in kept) == SHAPE[0] * SHAPE[1]


def test_recomputation_draws_the_same_mask():
    found = []
    for recomputes in (False, True):
        states = torch.linspace(-1, 1, 1000).requires_grad_()
        torch.manual_seed(0)

        def function(given):
            return (dropout(given, 0.5).exp() * dropout(given, 0.2)).sin()

        output = checkpoint(function, states, use_reentrant=False) if recomputes else function(states)
        dropout(torch.ones(7), 0.5)  # what is drawn in between changes nothing
        output.sum().backward()
        found.append((output, states.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.3, False), (1.0, False), (1.0, True)])
def test_nothing_is_drawn_where_nothing_is_left_to_chance(p, training):
    states, before = torch.rand(100), torch.get_rng_state()
    found = dropout(states, p, training)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found, torch.zeros(100) if training and p == 1 else states)


def test_one_number_is_drawn_for_a_mask():
    torch.manual_seed(0)
    dropout(torch.ones(SHAPE), 0.5)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    torch.empty((), dtype=torch.int64).random_()
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_p_is_a_probability(p):
    with pytest.raises(ValueError, match="probability"):
        dropout(torch.ones(3), p)
    with pytest.raises(ValueError, match="probability"):
        Dropout(p)


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_empty_tensors(shape):
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_the_order_in_memory_does_not_matter():
    states = torch.rand(6, 7, 8).add(0.5)
    turned = states.transpose(0, 2)
    assert torch.equal(seeded(turned, 0.5), seeded(turned.contiguous(), 0.5))
    assert torch.equal(seeded(states[:, ::2], 0.5), seeded(states[:, ::2].contiguous(), 0.5))
    single = torch.ones(()).expand(4, 5)
    assert torch.equal(seeded(single, 0.5), seeded(torch.ones(4, 5), 0.5))


def test_the_input_is_not_changed():
    states = torch.ones(100)
    dropout(states, 0.5)
    assert torch.equal(states, torch.ones(100))


def test_elsewhere_it_is_torchs():
    found = dropout(torch.ones(3, 4, device="meta"), 0.5)
    assert found.shape == (3, 4) and found.is_meta


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_is_torchs():
    states = torch.ones(1000, device="cuda")
    torch.manual_seed(0)
    expected = functional.dropout(states, 0.3)
    assert torch.equal(seeded(states, 0.3), expected)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
def test_compiled_it_is_one_graph():
    compiled = torch.compile(lambda states: dropout(states, 0.5) + 1, fullgraph=True)
    assert set(compiled(torch.ones(1000)).tolist()) == {1.0, 3.0}


def test_the_layer_drops_in_training_alone():
    layer, states = Dropout(0.3), torch.ones(SHAPE)
    assert isinstance(layer, nn.Dropout) and not layer.state_dict()
    torch.manual_seed(0)
    assert torch.equal(layer(states), seeded(states, 0.3))
    assert layer.eval()(states) is states


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_branches_are_left_out_as_by_timm(rate):
    branch = torch.randn(64, 3, 5, generator=torch.Generator().manual_seed(0))
    for training in (True, False):
        found = []
        for layer in (DropPath(rate), timm.layers.DropPath(rate)):
            torch.manual_seed(7)
            found.append(layer.train(training)(branch))
        assert torch.equal(*found)
    dropped = (DropPath(0.3)(branch) == 0).flatten(1).all(1)
    assert 5 < dropped.sum() < 35
