"""Numerical precision of matrix products: fp32, tf32 or bf16 (float32 parameters in all)."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch


def choose_precision(precision: str, device: torch.device) -> str:
    """fp32, tf32 or bf16: what `auto` means on a device, bf16 on a GPU that multiplies in it, else fp32."""
    if precision != "auto":
        return precision
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if bf16 else "fp32"


def set_precision(precision: str, device: torch.device) -> Callable[[], AbstractContextManager]:
    """Choose the precision of this process; returns a function that makes an autocast context."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return partial(autocast, precision, device.type)


def autocast(precision: str, device_type: str) -> AbstractContextManager:
    """bf16 autocast, or nothing."""
    return torch.autocast(device_type, torch.bfloat16) if precision == "bf16" else nullcontext()


def full_precision(tensor: torch.Tensor) -> AbstractContextManager:
    """Products on the device of `tensor` in their own precision, whatever autocast says around."""
    device_type = tensor.device.type
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


def be_deterministic(device: torch.device) -> None:
    """Choose kernels that give the same bits every time: on a CPU at no cost, on CUDA slower.

    There an operation that has none raises RuntimeError: where torch is to warn alone, it does not choose the
    deterministic backward pass that its kernels of attention have.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cuda")
    # our memory is written before it is read; to mypy this property of the module is not there
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def product_type(device: torch.device) -> torch.dtype:
    """The dtype to which autocast, if it is on, converts the float32 operands of matrix products."""
    name = device.type
    return torch.get_autocast_dtype(name) if name != "meta" and torch.is_autocast_enabled(name) else torch.float32
