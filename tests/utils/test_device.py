"""Every command prepares its process in the same way."""

import numpy as np
import pytest
import torch

from utils import device
from utils.device import prepare_device, prepare_precision, upload
from utils.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def kernels():
    """Leaves the process's choice of kernels as it was."""
    before, cudnn = torch.are_deterministic_algorithms_enabled(), torch.backends.cuda.cudnn_sdp_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
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
    # else the backward pass of attention on CUDA stays as it is, with a warning
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    prepare_precision("fp32", CPU)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()


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


@pytest.mark.parametrize(("name", "expected"), [("cuda", [False]), ("cpu", [])])
def test_attention_on_a_gpu_is_not_left_to_cudnn(kernels, monkeypatch, name, expected):
    allowed = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", allowed.append)
    prepare_precision("bf16", torch.device(name))
    assert allowed == expected


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_arrays_go_to_a_device_together_and_nothing_waits(monkeypatch, dtype):
    arrays, moves = [np.array([1, 2], dtype), np.array([], dtype), np.array([3], dtype)], []
    assert [part.tolist() for part in upload(arrays, CPU)] == [[1, 2], [], [3]]
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: moves.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *to, non_blocking: moves.append((*to, non_blocking)) or self)
    assert [part.tolist() for part in upload(arrays, torch.device("cuda"))] == [[1, 2], [], [3]]
    assert moves == ["pinned", (torch.device("cuda"), True)]
