"""Numerical precision of matrix products: fp32, tf32 or bf16 (float32 parameters in all)."""

import os
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch


def set_precision(precision: str, device: torch.device):
    """Choose the precision of this process; returns a function that makes an autocast context."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return partial(autocast, precision, device.type)


def autocast(precision: str, device_type: str) -> AbstractContextManager:
    """bf16 autocast, or nothing."""
    return torch.autocast(device_type, torch.bfloat16) if precision == "bf16" else nullcontext()


def full_precision(tensor: torch.Tensor) -> AbstractContextManager:
    """Products on the device of `tensor` in their own precision, whatever autocast says around."""
    kind = tensor.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def be_deterministic() -> None:
    """Choose kernels that give the same bits every time: on a CPU at no cost, on CUDA where there are any, slower."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # our memory is written before it is read


def product_type(device: torch.device) -> torch.dtype:
    """What autocast, if it is on, makes of the float32 operands of matrix products."""
    kind = device.type
    return torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else torch.float32
