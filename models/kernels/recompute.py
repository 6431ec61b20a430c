"""Memory for time: what is cheap to compute again is not kept for the backward pass.

A norm or an activation is a few passes over memory, the product after it many times as much. So the `Linear` layer
that reads the output of `LayerNorm`, `GELU` or `elementwise` does not keep that output, only the way to it, whose
inputs are kept in any case.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WORTHWHILE = 5 * 2**20  # bytes; below that, keeping costs less than the bookkeeping of computing again


def checkpointed(function: Callable[..., Tensor], *inputs: Tensor, kept: int, random: bool = False) -> Tensor:
    """function(*inputs), whose inner results the backward pass computes again when they take many bytes.

    kept: bytes that would be kept otherwise. random: `function` draws random numbers (dropout), the same
    again in the backward pass. The second computation ends where the last product of `function` begins:
    its own result is not needed.
    """
    if not worthwhile(kept, *inputs):
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=random)


def worthwhile(kept: int, *inputs: Tensor) -> bool:
    """Whether a backward pass through `inputs` would keep so many bytes that they are better computed again.

    On a GPU nothing is (`gradient_checkpointing` saves more of its memory for less), and a compiler decides by itself.
    """
    if torch.compiler.is_compiling() or kept < WORTHWHILE or not torch.is_grad_enabled():
        return False
    return any(part.requires_grad and part.device.type != "cuda" for part in inputs)


def bytes_of(*shape: int, like: Tensor) -> int:
    """Bytes of a tensor of this shape and the type of `like`. (torch.compile cannot follow `Tensor.nbytes`.)"""
    return torch.Size(shape).numel() * like.element_size()


@dataclass(frozen=True)
class Recipe:
    """How a tensor is computed again: function(*inputs)."""

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]

    @torch.no_grad()
    def follow(self, *inputs: Tensor) -> Tensor:
        """The tensor from its inputs, which autograd has kept."""
        return self.function(*inputs)


def elementwise(function: Callable[..., Tensor], *inputs: Tensor, inner: int = 0) -> Tensor:
    """function(*inputs), which a `Linear` layer that reads it need not keep.

    inner: bytes that `function` itself would keep beside its inputs; see `checkpointed`.
    """
    output = checkpointed(function, *inputs, kept=inner)
    if worthwhile(bytes_of(*output.shape, like=output), *inputs):
        output.recipe = Recipe(function, inputs)  # type: ignore[attr-defined]
    return output


def recipe_of(tensor: Tensor) -> Recipe | None:
    """How `elementwise` made this tensor, if it did and the tensor is big."""
    return getattr(tensor, "recipe", None)


class LayerNorm(nn.LayerNorm):
    """torch's layer, whose output the `Linear` layer that reads it need not keep. Not for several readers."""

    def forward(self, input: Tensor) -> Tensor:
        return elementwise(super().forward, input)


class GELU(nn.GELU):
    """torch's layer, whose output the `Linear` layer that reads it need not keep."""

    def forward(self, input: Tensor) -> Tensor:
        return elementwise(super().forward, input)
