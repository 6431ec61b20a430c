"""Every command prepares its process in the same way."""

import pytest
import torch

from utils import device
from utils.device import prepare_device, prepare_precision
from utils.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def kernels():
    """Leaves the process's choice of kernels as it was."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(before, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def test_a_cpu_keeps_freed_memory(monkeypatch):
    called = []
    monkeypatch.setattr(device, "keep_freed_memory", lambda: called.append(True))
    assert prepare_device("cpu") == CPU and called == [True]
    with pytest.raises(UserError, match="--device 'gpu' is unknown"):
        prepare_device("gpu")


def test_kernels_are_deterministic_on_a_cpu_and_where_that_is_asked_for(kernels):
    prepare_precision("fp32", torch.device("cuda"))  # nothing is computed: no CUDA device is needed
    assert not torch.are_deterministic_algorithms_enabled()
    prepare_precision("fp32", torch.device("cuda"), deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    prepare_precision("fp32", CPU)
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_precision_is_that_of_products_within(kernels, precision, dtype):
    in_precision, ones = prepare_precision(precision, CPU), torch.ones(2, 2)
    with in_precision():
        assert (ones @ ones).dtype == dtype
    assert (ones @ ones).dtype == torch.float32


def test_tf32_is_chosen_for_the_process(kernels):
    prepare_precision("tf32", CPU)
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    prepare_precision("fp32", CPU)
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
