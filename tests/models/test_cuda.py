"""What a GPU computes, against the CPU; skips, saying so, where there is no GPU."""

from copy import deepcopy

import pytest
import torch
from tiny_model import IDENTITIES, lived_in, tiny_batch, tiny_draws, tiny_model

from benchmarks.scan import Size, make_inputs
from models.kernels import scan, scan_loop
from models.kernels.scan import selective_scan
from models.vision_mamba import VisionMamba
from models.vision_transformer import VisionTransformer
from utils.precision import set_precision

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def full_precision_products():
    """A GPU's shorter floats are another matter."""
    set_precision("fp32", GPU)


@pytest.mark.parametrize("encoder", [VisionTransformer, VisionMamba])
def test_a_step_has_the_losses_gradients_and_queues_of_the_cpu(encoder):
    model = lived_in(tiny_model(encoder=encoder))
    twin = deepcopy(model).to(GPU)
    batch, draws = tiny_batch(IDENTITIES), tiny_draws(len(IDENTITIES))
    expected, queued = model(batch, draws, 0.4)
    found, queued_there = twin(batch.to(GPU), draws.to(GPU), 0.4)
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name].cpu(), value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for one, losses, entry in ((model, expected, queued), (twin, found, queued_there)):
        sum(losses.values()).backward()
        one.advance([entry])
    for (name, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        if parameter.grad is not None:
            error = (other.grad.cpu() - parameter.grad).norm()
            assert error <= 1e-3 * parameter.grad.norm() + 1e-5, name
    for (name, buffer), other in zip(model.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(other.cpu(), buffer, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def results(device, reverse, dtype=torch.float32):
    """y of a scan and all gradients, in float64 on the CPU. dtype: of what a model has in its precision."""
    inputs = [part.detach() for part in make_inputs(Size(2, 70, 24, 4))]
    inputs = [part.to(device, dtype if part.dim() == 3 else torch.float32).requires_grad_() for part in inputs]
    y = selective_scan(*inputs, reverse)
    found = torch.autograd.grad(y.square().sum(), inputs)
    assert [one.dtype for one in found] == [part.dtype for part in inputs]
    return [part.detach().cpu().double() for part in (y, *found)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("way", ["loop", "triton"])
def test_the_scan_and_its_gradients_are_those_of_the_cpu(reverse, way, monkeypatch):
    if way == "loop":
        monkeypatch.setattr(scan, "way_for", lambda u: scan_loop)
    elif scan.way_for(torch.zeros(1, device=GPU)) is scan_loop:
        pytest.skip("Triton does not work here")
    for expected, found in zip(results("cpu", reverse), results(GPU, reverse), strict=True):
        # a GPU's exp is exact to 2^-22, and decays are products of up to 70 of them
        assert (found - expected).norm() <= (1e-5 if way == "loop" else 1e-4) * expected.norm()
    for expected, found in zip(results("cpu", reverse), results(GPU, reverse, torch.bfloat16), strict=True):
        assert (found - expected).norm() <= 0.03 * expected.norm()


def test_the_scan_has_the_same_bits_in_every_run():
    first, second = results(GPU, True), results(GPU, True)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
