"""The linear layer of the encoders: torch's, and faster ways to compute it.

On a CPU, torch multiplies float32 matrices with MKL, which leaves half of the arithmetic of a processor
that is not Intel's unused. oneDNN, which torch brings along for its compiler, does not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from models.kernels.recompute import Recipe, recipe_of
from utils.precision import product_type


class Linear(nn.Linear):
    """torch's layer and its parameters.

    prepared: weight and bias in the type and order of products, see `prepare_weights`.
    converted: weight and bias in the type of products, with gradients, see `convert_weights`.
    adds_bias: False leaves the bias to whoever reads the product.
    """

    prepared: tuple[Tensor, Tensor | None] | None = None
    converted: tuple[Tensor, Tensor | None] | None = None
    adds_bias = True

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if self.prepared is not None:
            return product(input.to(self.prepared[0].dtype), *self.prepared)
        if self.converted is None:
            return project(input, self.weight, self.added())
        recipe = recipe_of(input)
        return linear(input, *self.converted) if recipe is None else linear_of(recipe, input, *self.converted)

    def operands(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as products take them here."""
        return self.prepared or self.converted or (self.weight, self.added())

    def added(self) -> Tensor | None:
        """The bias, if it is added here."""
        return self.bias if self.adds_bias else None


def project(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """linear(input, weight, bias) [..., in] -> [..., out] as `Linear` computes it, of parameters that have no layer."""
    recipe = recipe_of(input)
    if {input.dtype, product_type(input.device)} == {torch.float32} and by_onednn(input):
        return OneDnnLinear.apply(input, weight, bias, recipe, *(recipe.inputs if recipe else ()))
    return linear(input, weight, bias) if recipe is None else linear_of(recipe, input, weight, bias)


def by_one_product(layers: Sequence[Linear], input: Tensor) -> tuple[Tensor, ...]:
    """What each of these layers, all as wide and with a bias, makes of input [..., in]: [..., out] each.

    One product keeps a GPU busier than many, and its gradient by `input` is not a sum of as many. The results share
    memory, row by row.
    """
    weights, biases = zip(*(layer.operands() for layer in layers), strict=True)
    together = linear(input, torch.cat(weights), torch.cat(biases))
    return together.unflatten(-1, (len(layers), -1)).unbind(-2)


class Converted(torch.autograd.Function):
    """Tensors in another type, and their gradients in their own, each by one call: not a kernel for every tensor."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.like = tensors[0].dtype
        ctx.set_materialize_grads(False)
        return convert(tensors, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found = iter(convert([gradient for gradient in gradients if gradient is not None], ctx.like))
        return None, *(None if gradient is None else next(found) for gradient in gradients)


def convert(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Copies in another type, without gradients."""
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(copies, list(tensors))
    return tuple(copies)


@contextmanager
def convert_weights(layers: Sequence[Linear]) -> Iterator[None]:
    """Within, these layers take weights that were converted to the type of products by one call.

    Autocast would convert each by itself, and those that take no gradient again at every use. In float32 there is
    nothing to convert, and a compiler converts them as it likes.
    """
    dtype = product_type(layers[0].weight.device)
    if dtype == torch.float32 or torch.compiler.is_compiling():
        yield
        return
    for learns in (True, False):
        chosen = [layer for layer in layers if layer.weight.requires_grad == learns]
        parts = {part: None for layer in chosen for part in (layer.weight, layer.added()) if part is not None}
        found = dict(zip(parts, Converted.apply(dtype, *parts) if parts else (), strict=True))
        for layer in chosen:
            bias = layer.added()
            layer.converted = found[layer.weight], None if bias is None else found[bias]
    try:
        yield
    finally:
        for layer in layers:
            layer.converted = None


def cast_once(states: Tensor) -> Tensor:
    """`states` as autocast would convert them for each of the layers that read them."""
    return states.to(product_type(states.device)) if states.dtype == torch.float32 else states


def linear_of(recipe: Recipe, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """linear(states, weight, bias); the backward pass computes `states` again, in what autocast makes of them."""
    given = [states]  # to the first call alone

    def read(*inputs: Tensor) -> Tensor:
        states = given.pop() if given else recipe.follow(*inputs).requires_grad_()
        return linear(states, weight, bias)

    return checkpoint(read, *recipe.inputs, use_reentrant=False, preserve_rng_state=False)


class OneDnnLinear(torch.autograd.Function):
    """`product` with its gradients, which are such products too (training in float32 on a CPU)."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, recipe: Recipe | None, *inputs: Tensor
    ) -> Tensor:
        """recipe, inputs: how the backward pass comes to `states`; None = they are kept."""
        states, ctx.recipe = states.contiguous(), recipe  # of rows with gaps oneDNN has slow products alone
        ctx.save_for_backward(weight, *(inputs if recipe else (states,)))
        return product(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        of_states, of_weight, of_bias, *others = ctx.needs_input_grad
        flat = gradient.flatten(0, -2)  # [rows, out]
        by_weight = None
        if of_weight:
            states = ctx.recipe.follow(*inputs) if ctx.recipe else inputs[0]
            by_weight = product(flat.t(), states.flatten(0, -2).t(), None)
        by_states = product(gradient, weight.t(), None) if of_states else None
        return by_states, by_weight, flat.sum(0) if of_bias else None, *(None for _ in others)


def product(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear` without gradients."""
    if by_onednn(states):
        return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return linear(states, weight, bias)


def by_onednn(tensor: Tensor) -> bool:
    """Whether oneDNN computes products of this tensor: on a CPU that can multiply its dtype, unless it is empty.

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
        dtype = product_type(layers[0].weight.device)
    if dtype != torch.float32:
        for layer in layers:
            bias = None if layer.added() is None else layer.bias.detach().to(dtype)
            layer.prepared = packed(layer.weight.detach().to(dtype)), bias
    try:
        yield
    finally:
        for layer in layers:
            layer.prepared = None


def packed(weight: Tensor) -> Tensor:
    """A weight in the memory order that oneDNN's products want (prepacked)."""
    return torch.ops.mkldnn._reorder_linear_weight(weight) if by_onednn(weight) else weight
