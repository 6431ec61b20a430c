"""The linear layer of the encoders: torch's, and faster ways to compute it.

On a CPU, torch multiplies float32 matrices with MKL, which leaves half of the arithmetic of a processor
that is not Intel's unused. oneDNN, which torch brings along for its compiler, does not.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from models.recompute import bytes_of, recomputed
from utils.precision import product_type


class Linear(nn.Linear):
    """torch's layer and its parameters.

    prepared: weight and bias in the type and order of products, see `prepare_weights`.
    adds_bias: False leaves the bias to whoever reads the product.
    """

    prepared: tuple[Tensor, Tensor | None] | None = None
    adds_bias = True

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if self.prepared is not None:
            return product(states.to(self.prepared[0].dtype), *self.prepared)
        if {states.dtype, product_type(states.device)} == {torch.float32} and by_onednn(states):
            return OneDnnLinear.apply(states, self.weight, self.added())
        return linear(states, self.weight, self.added())

    def added(self) -> Tensor | None:
        """The bias, if it is added here."""
        return self.bias if self.adds_bias else None


def for_products(states: Tensor) -> Tensor:
    """`states` in the type of products, for layers that read the same: autocast would convert them for each of them."""
    return states.to(product_type(states.device)) if states.dtype == torch.float32 else states


def through(cheap: Callable[[Tensor], Tensor], layer: nn.Linear, states: Tensor) -> Tensor:
    """layer(cheap(states)) for an activation or a norm; what lies between is not kept if it is big."""
    return recomputed(lambda given: layer(cheap(given)), states, kept=bytes_of(*states.shape, like=states))


class OneDnnLinear(torch.autograd.Function):
    """`product` with its gradients, which are such products too (training in float32 on a CPU)."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        states = states.contiguous()  # of rows with gaps, as a part of wider ones, oneDNN has slow products alone
        ctx.save_for_backward(states, weight)
        return product(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        states, weight = ctx.saved_tensors
        of_states, of_weight, of_bias = ctx.needs_input_grad
        flat = gradient.flatten(0, -2)  # [rows, out]
        return (
            product(gradient, weight.t(), None) if of_states else None,
            product(flat.t(), states.flatten(0, -2).t(), None) if of_weight else None,
            flat.sum(0) if of_bias else None,
        )


def product(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear` without gradients."""
    if by_onednn(states):
        return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return linear(states, weight, bias)


def by_onednn(tensor: Tensor) -> bool:
    """Whether oneDNN computes products of this tensor: on a CPU that it knows the type on, unless it is empty.

    What is compiled chooses its products itself.
    """
    if torch.compiler.is_compiling() or tensor.device.type != "cpu" or tensor.numel() == 0:
        return False
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    half = tensor.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return tensor.dtype == torch.float32 or half


@contextmanager
def prepare_weights(module: nn.Module, precision: Callable[[], AbstractContextManager]) -> Iterator[None]:
    """Within, linear layers of `module` hold a copy of their weights as products in `precision` need them.

    Without it autocast converts all weights at every call (it remembers them in training alone). In
    float32 there is nothing to convert. For many calls without gradients and changes of parameters.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, Linear)]
    with precision():
        kind = product_type(layers[0].weight.device)
    if kind != torch.float32:
        for layer in layers:
            bias = None if layer.added() is None else layer.bias.detach().to(kind)
            layer.prepared = in_order(layer.weight.detach().to(kind)), bias
    try:
        yield
    finally:
        for layer in layers:
            layer.prepared = None


def in_order(weight: Tensor) -> Tensor:
    """A weight in the memory order that oneDNN's products want."""
    return torch.ops.mkldnn._reorder_linear_weight(weight) if by_onednn(weight) else weight
