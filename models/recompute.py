"""Memory for time: what is cheap to compute again is not kept for the backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

WORTHWHILE = 5 * 2**20  # bytes; below that, keeping costs less than the bookkeeping of computing again


def recomputed(function: Callable[..., Tensor], *inputs: Tensor, kept: int, random: bool = False) -> Tensor:
    """function(*inputs), whose inner results the backward pass computes again when they take many bytes.

    kept: bytes that would be kept otherwise. random: `function` draws random numbers (dropout), the same
    again in the backward pass. The second computation ends where the last product of `function` begins:
    its own result is not needed.
    """
    if kept < WORTHWHILE or not torch.is_grad_enabled() or not any(part.requires_grad for part in inputs):
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=random)


def bytes_of(*shape: int, like: Tensor) -> int:
    """Bytes of a tensor of this shape and the type of `like`. (torch.compile cannot follow `Tensor.nbytes`.)"""
    return torch.Size(shape).numel() * like.element_size()
