"""What a GPU computes, against the CPU; skips, saying so, where there is no GPU."""

from copy import deepcopy

import pytest
import torch
from tiny_model import IDENTITIES, lived_in, tiny_batch, tiny_draws, tiny_model

from benchmarks.scan import Size, make_inputs
from models.kernels.scan import SelectiveScan
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


@pytest.mark.parametrize("reverse", [False, True])
def test_the_scan_and_its_gradients_are_those_of_the_cpu(reverse):
    results = []
    for device in ("cpu", GPU):
        inputs = [part.detach().to(device).requires_grad_() for part in make_inputs(Size(2, 70, 24, 4))]
        seen = SelectiveScan.apply(*inputs, reverse)
        seen.square().sum().backward()
        results.append([seen.detach().cpu(), *(part.grad.cpu() for part in inputs)])
    for expected, found in zip(*results, strict=True):
        assert (found - expected).norm() <= 1e-5 * expected.norm()
