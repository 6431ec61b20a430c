"""The selective scan against its recurrence, step by step."""

import pytest
import torch
from plain_mamba import scan

from models.kernels import scan as operators
from models.kernels import scan_loop as module
from models.kernels.scan import scan_by_doubling, selective_scan
from models.kernels.scan_loop import chunks_of, softplus
from models.vision_mamba import Mixer

NAMES = ("u", "delta", "A", "B", "C", "D", "bias")


def inputs(batch=2, steps=7, channels=3, states=4, kind=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(kind)

    A = (-torch.rand(channels, states, generator=generator, dtype=torch.float64) - 0.1).to(kind)
    rows = (batch, steps, channels)
    return [
        draw(*rows),
        draw(*rows),
        A,
        draw(batch, steps, states),
        draw(batch, steps, states),
        draw(channels),
        draw(channels),
    ]


@pytest.fixture(params=[1, 3, 64])
def chunk_length(request, monkeypatch):
    """Chunks of one step, some that do not divide the steps, one that holds them all."""
    monkeypatch.setattr(module, "SHORTEST", request.param)
    monkeypatch.setattr(module, "LONGEST", request.param)
    return request.param


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7, 12])
def test_it_is_the_recurrence(chunk_length, steps, backwards):
    given = inputs(steps=steps)
    torch.testing.assert_close(selective_scan(*given, backwards), scan(*given, backwards), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 12, 33])
def test_it_is_the_recurrence_without_a_loop_too(steps, backwards):
    given = inputs(steps=steps)
    found = scan_by_doubling(*given, backwards)
    torch.testing.assert_close(found, scan(*given, backwards), rtol=1e-10, atol=1e-10)
    short = [part.to(torch.bfloat16) for part in given]
    assert scan_by_doubling(*short, backwards).dtype == torch.bfloat16


@pytest.mark.parametrize("backwards", [False, True])
def test_gradients_are_those_of_finite_differences(chunk_length, backwards):
    given = [value.requires_grad_() for value in inputs()]
    assert torch.autograd.gradcheck(lambda *values: selective_scan(*values, backwards), given)


@pytest.mark.parametrize("backwards", [False, True])
def test_gradients_are_those_of_the_recurrence_in_float32(backwards):
    given = [value.requires_grad_() for value in inputs(3, 150, 20, 16, torch.float32)]
    weight = torch.randn(3, 150, 20)
    expected = torch.autograd.grad((scan(*given, backwards) * weight).sum(), given)
    found = torch.autograd.grad((selective_scan(*given, backwards) * weight).sum(), given)
    for name, one, other in zip(NAMES, found, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm(), name


@pytest.mark.parametrize(("kind", "error"), [(torch.float32, 3e-7), (torch.float64, 1e-15)])
def test_the_pace_is_exact_for_any_input(kind, error):
    x = torch.cat([torch.linspace(-80, 80, 10_001, dtype=kind), torch.tensor([-1e4, 0, 1e4, 1e30], dtype=kind)])
    exact = torch.nn.functional.softplus(x.double(), threshold=700)
    assert ((softplus(x).double() - exact).abs() <= error * exact).all()


def test_backwards_is_the_flipped_scan_of_flipped_inputs():
    u, delta, A, B, C, D, bias = inputs()
    flipped = selective_scan(u.flip(1), delta.flip(1), A, B.flip(1), C.flip(1), D, bias).flip(1)
    torch.testing.assert_close(selective_scan(u, delta, A, B, C, D, bias, True), flipped)


@pytest.mark.parametrize("backwards", [False, True])
def test_bfloat16_inputs_keep_a_float32_state(backwards):
    # the state grows by a little each step: rounded to bfloat16, it would stop growing at 256 times that
    steps = 4000
    one, tiny = torch.ones(1, steps, 1, dtype=torch.bfloat16), torch.full((1, 1), -1e-7)
    zero = torch.zeros(1)
    y = selective_scan(one, 0 * one, tiny, one, one, zero, zero, backwards)
    assert y.dtype == torch.bfloat16
    last = y[0, 0 if backwards else -1, 0]
    assert last.item() == pytest.approx(steps * torch.log(torch.tensor(2.0)).item(), rel=0.01)


def test_bfloat16_gradients_have_the_types_of_their_inputs_and_are_near():
    exact = [value.requires_grad_() for value in inputs(2, 40, 8, 4, torch.float32)]
    rounded = [
        value.detach().to(torch.bfloat16 if n in (0, 1, 3, 4) else torch.float32).requires_grad_()
        for n, value in enumerate(exact)
    ]
    expected = torch.autograd.grad(selective_scan(*exact).sum(), exact)
    found = torch.autograd.grad(selective_scan(*rounded).float().sum(), rounded)
    for one, other, given in zip(found, expected, rounded, strict=True):
        assert one.dtype == given.dtype
        assert (one.float() - other).norm() < 0.03 * other.norm()


def test_what_is_kept_for_the_backward_pass_is_little():
    """The states of all steps, which would be 16 times the inputs, are not among it."""
    given, kept = [value.requires_grad_() for value in inputs(2, 640, 64, 16, torch.float32)], {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        selective_scan(*given, False)
    size = sum(value.untyped_storage().nbytes() for value in given)
    assert sum(kept.values()) < 1.5 * size


def test_chunks_cover_all_steps_in_the_order_of_the_scan():
    forward = [range(100)[part] for part in chunks_of(100, 10**6, False)]
    assert [step for part in forward for step in part] == list(range(100))
    assert list(reversed(forward)) == [range(100)[part] for part in chunks_of(100, 10**6, True)]


def test_nothing_is_kept_and_no_gradient_wanted_in_evaluation():
    with torch.inference_mode():
        given = inputs()
        torch.testing.assert_close(selective_scan(*given), scan(*given))


def test_it_is_a_sound_operator_for_autograd_and_compilers():
    for reverse in (False, True):
        given = [value.requires_grad_() for value in inputs(2, 30, 3, 4, torch.float32)]
        found = torch.library.opcheck(operators.scan_operator, (*given, reverse, True))
        assert len(found) > 3 and set(found.values()) == {"SUCCESS"}


def test_a_compiled_mixer_is_one_graph_with_the_same_gradients():
    torch._dynamo.reset()
    torch.manual_seed(0)
    mixer, tokens = Mixer(16, states=4), torch.randn(2, 9, 16)
    found = []
    for way in (mixer, torch.compile(mixer, backend="aot_eager", fullgraph=True)):
        mixer.zero_grad()
        y = way(tokens)
        y.square().sum().backward()
        found.append([y.detach(), *(parameter.grad.clone() for parameter in mixer.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


def test_the_loop_serves_where_triton_fails_and_says_why_once(monkeypatch, caplog):
    def fail(device):
        raise RuntimeError("Failed to find C compiler.\nInstall one")

    monkeypatch.setattr(operators, "try_triton", fail)
    operators.triton_works.cache_clear()
    device = torch.device("cuda", 7)
    with caplog.at_level("WARNING"):
        assert not operators.triton_works(device) and not operators.triton_works(device)
    operators.triton_works.cache_clear()
    assert [record.message for record in caplog.records] == [
        "Vision Mamba's scan takes many times as long, for want of its Triton kernel: Failed to find C compiler."
        " Install one"
    ]
