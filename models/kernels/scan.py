"""The selective scan of Mamba (Gu and Dao, 2023, section 3): a linear recurrence whose step size depends on the input.

Letters: B batch, L steps, I channels, N states of a channel.

    s_t = exp(d_t A) s_{t-1} + d_t B_t u_t        d = softplus(delta + bias), s_0 = 0, [B, I, N]
    y_t = <C_t, s_t> + D u_t                      [B, I]

The states, N times as large as all inputs together, are never kept: the backward pass starts from those at the borders
of chunks of steps and computes the others again. On CUDA that is one Triton kernel for each pass (`scan_triton`),
elsewhere a loop (`scan_loop`). To torch.compile it is one operator.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from models.kernels import scan_loop

logger = logging.getLogger(__name__)


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, reverse: bool = False
) -> Tensor:
    """y [B, L, I] in the type of u; states are float32 (float64 when u is) whatever the type of the inputs.

    u, delta [B, L, I]; A [I, N], negative; B, C [B, L, N]; D, delta_bias [I].
    reverse: from the last step to the first.
    """
    given = (u, delta, A, B, C, D, delta_bias)
    if torch.compiler.is_exporting():
        return scan_by_doubling(*given, reverse)
    learns = torch.is_grad_enabled() and any(part.requires_grad for part in given)
    return scan_operator(*given, reverse, learns)[0]


def scan_by_doubling(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, reverse: bool
) -> Tensor:
    """The same in as many rounds as L has binary digits (Hillis and Steele, 1986): few operations, but more memory
    than a loop. For graphs that would hold every step of a loop, as ONNX does."""
    if reverse:
        u, delta, B, C = (part.flip(1) for part in (u, delta, B, C))
    dtype, given = torch.promote_types(u.dtype, torch.float32), u
    u, delta, A, B, C, D, delta_bias = (part.to(dtype) for part in (u, delta, A, B, C, D, delta_bias))
    d = torch.nn.functional.softplus(delta + delta_bias)
    decay = torch.exp(d.unsqueeze(3) * A)  # [B, L, I, N]
    states = (d * u).unsqueeze(3) * B.unsqueeze(2)  # as if the state `reach` steps ago had been 0
    reach = 1
    while reach < u.shape[1]:
        further = (0, 0, 0, 0, reach, 0)
        states = states + decay * pad(states[:, :-reach], further)
        decay = decay * pad(decay[:, :-reach], further, value=1.0)
        reach *= 2
    y = ((states * C.unsqueeze(2)).sum(3) + D * u).to(given.dtype)
    return y.flip(1) if reverse else y


# ---- which way -------------------------------------------------------------------------


def way_for(u: Tensor) -> ModuleType:
    """The module whose `scan` and `gradients` serve such an input."""
    if u.is_cuda and u.dtype != torch.float64 and triton_works(u.device):
        return import_module("models.kernels.scan_triton")
    return scan_loop


@cache
def triton_works(device: torch.device) -> bool:
    """Whether Triton is installed and can make a kernel for this device; if not, says why, once."""
    try:
        with ThreadPoolExecutor(1) as thread:  # in which tensors are real, also where torch.compile asks
            thread.submit(try_triton, device).result()
    except Exception as error:  # no package, no C compiler, a card that is too old: of nearly any type
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        logger.warning("Vision Mamba's scan takes many times as long, for want of its Triton kernel: %s", reason)
        return False
    return True


def try_triton(device: torch.device) -> None:
    """Raises nearly any exception where Triton does not work."""
    one = torch.ones(1, 1, 1, device=device)
    kernels = import_module("models.kernels.scan_triton")
    kernels.scan(one, one, -one[0], one, one, one[0, 0], one[0, 0], reverse=False, keep=False)


# ---- one operator for autograd and torch.compile ---------------------------------------


@torch.library.custom_op("person_search::selective_scan", mutates_args=())
def scan_operator(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor]:
    """y, and what `scan_gradients` starts from, if it is to be kept."""
    return way_for(u).scan(u, delta, A, B, C, D, delta_bias, reverse, keep)


@torch.library.custom_op("person_search::selective_scan_gradients", mutates_args=())
def scan_gradients(
    gradient: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    entries: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """From the gradient of y those of all tensors that `scan_operator` takes."""
    found = way_for(u).gradients(gradient, u, delta, A, B, C, D, delta_bias, entries, reverse)
    of_u, of_delta, of_A, of_B, of_C, of_D, of_bias = found
    return of_u, of_delta, of_A, of_B, of_C, of_D, of_bias


@scan_operator.register_fake
def describe_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor]:
    """Shapes and types alone."""
    wide = torch.promote_types(u.dtype, torch.float32)
    shape = way_for(u).shape_of_entries(*u.shape, A.shape[1]) if keep else (0,)
    return u.new_empty(u.shape), u.new_empty(shape, dtype=wide)


@scan_gradients.register_fake
def describe_gradients(gradient: Tensor, *given: Any) -> tuple[Tensor, ...]:
    """Shapes and types alone."""
    return tuple(part.new_empty(part.shape) for part in given[:7])


def keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *given, ctx.reverse, _ = inputs
    ctx.save_for_backward(*given, output[1])
    ctx.set_materialize_grads(False)


def backward(ctx: Any, gradient: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    """The second output is for `scan_gradients` alone."""
    if gradient is None:
        return (None,) * 9
    return *scan_gradients(gradient, *ctx.saved_tensors, ctx.reverse), None, None


scan_operator.register_autograd(backward, setup_context=keep_inputs)
