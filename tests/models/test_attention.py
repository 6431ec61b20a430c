"""Causal attention, by torch's fused kernel and by plain products."""

import pytest
import torch

from models.kernels import attend, in_the_past


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_token_attends_to_a_later_one(dtype):
    torch.manual_seed(0)
    query, keys, values = (torch.randn(2, 3, 6, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    found = attend(query, keys, values, causal=True)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found, attend(query, keys, values, mask), atol=tolerance, rtol=0)
    (gradient,) = torch.autograd.grad(found[:, :, 2].float().sum(), values)
    assert gradient[:, :, :3].any() and not gradient[:, :, 3:].any()
    assert torch.equal(found[:, :, 0], values[:, :, 0])


def test_the_past_of_each_token():
    assert in_the_past(3, torch.device("cpu")).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
