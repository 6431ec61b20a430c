"""The selective scan of Mamba (Gu and Dao, 2023, section 3): a linear recurrence whose step size depends on the input.

Letters: B batch, L steps, I channels, N states of a channel, c steps of a chunk.

    s_t = exp(d_t A) s_{t-1} + d_t B_t u_t        d = softplus(delta + bias), s_0 = 0, [B, I, N]
    y_t = <C_t, s_t> + D u_t                      [B, I]

Steps follow each other, but what surrounds them does not depend on the state: it is computed for a chunk at once. The
states, N times as large as all inputs together, are never kept: the backward pass starts from those at the borders of
chunks and computes the others again.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

CHUNK_ELEMENTS = 3 * 2**20  # [B, c, N, I] of a chunk: small enough for caches, large enough to keep all cores busy
SHORTEST, LONGEST = 8, 64  # steps of a chunk


@torch.compiler.disable  # would be unrolled, step by step
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, reverse: bool = False
) -> Tensor:
    """y [B, L, I] in the type of u; states are float32 (float64 when u is) whatever the type of the inputs.

    u, delta [B, L, I]; A [I, N], negative; B, C [B, L, N]; D, delta_bias [I].
    reverse: from the last step to the first. Uses the kernel of mamba-ssm on CUDA where that package is installed.
    """
    if torch.compiler.is_exporting():
        return scan_by_doubling(u, delta, A, B, C, D, delta_bias, reverse)
    if u.is_cuda and find_spec("mamba_ssm") is not None:
        return scan_by_kernel(u, delta, A, B, C, D, delta_bias, reverse)
    return SelectiveScan.apply(u, delta, A, B, C, D, delta_bias, reverse)


def scan_by_kernel(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, reverse: bool
) -> Tensor:
    """The same by mamba-ssm, which knows one direction and has steps last."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    parts = [part.flip(1) if reverse else part for part in (u, delta, B, C)]
    u, delta, B, C = (part.to(u.dtype).transpose(1, 2).contiguous() for part in parts)
    y = selective_scan_fn(
        u, delta, A.float(), B, C, D.float(), z=None, delta_bias=delta_bias.float(), delta_softplus=True
    ).transpose(1, 2)
    return y.flip(1) if reverse else y


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


def chunks_of(steps: int, elements: int, reverse: bool) -> Iterator[slice]:
    """The chunks of a scan in its order; elements: B * N * I."""
    length = min(LONGEST, max(SHORTEST, CHUNK_ELEMENTS // max(1, elements)))
    starts = range(0, steps, length)
    return (slice(start, min(start + length, steps)) for start in (reversed(starts) if reverse else starts))


class Chunk:
    """Some steps in a row, and their states.

    d, u [B, c, I]; B [B, c, N]; decay [B, c, N, I] = exp(d A); states [B, c, N, I], and `before`: those a step earlier.
    """

    def __init__(self, d: Tensor, u: Tensor, B: Tensor, A: Tensor, entry: Tensor, reverse: bool):
        """A [N, I]; entry [B, N, I]: the state before the first step."""
        self.reverse, self.du = reverse, d * u
        steps = d.shape[1]
        self.decay = (d.unsqueeze(2) * A).exp_()
        # one slot more, for the state at entry: before the first step in the order of the scan
        slots = torch.empty(d.shape[0], steps + 1, *entry.shape[1:], dtype=d.dtype, device=d.device)
        self.states, self.before = (slots[:, :-1], slots[:, 1:]) if reverse else (slots[:, 1:], slots[:, :-1])
        self.before[:, self.order()[0]] = entry
        torch.mul(self.du.unsqueeze(2), B.unsqueeze(3), out=self.states)
        for step in self.order():
            self.states[:, step].addcmul_(self.decay[:, step], self.before[:, step])

    def order(self) -> range:
        """Steps in the order of the scan."""
        steps = range(self.decay.shape[1])
        return steps[::-1] if self.reverse else steps

    def last(self) -> Tensor:
        """The state [B, N, I] after the last step."""
        return self.states[:, self.order()[-1]]


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp x), to the last digits for any x.

    By torch's logarithm of 1 + e, corrected for what the sum rounds off: its log1p takes longer than all else that a
    chunk needs before its first step.
    """
    small = x.abs().neg_().exp_()
    whole = small + 1
    found = torch.log(whole).mul_(small).div_((whole - 1).clamp_(min=torch.finfo(x.dtype).tiny))
    return torch.where(whole == 1, small, found).add_(x.clamp(min=0))


def rows_times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Sum over N of rows [B, c, N] times matrix [B, c, N, I]: [B, c, I]."""
    return (rows.unsqueeze(2) @ matrix).squeeze(2)


def matrix_times(matrix: Tensor, columns: Tensor) -> Tensor:
    """Sum over I of matrix [B, c, N, I] times columns [B, c, I]: [B, c, N]."""
    return (matrix @ columns.unsqueeze(3)).squeeze(3)


class SelectiveScan(torch.autograd.Function):
    """`selective_scan` in plain PyTorch, on any device."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        delta_bias: Tensor,
        reverse: bool,
    ) -> Tensor:
        """Shapes as in `selective_scan`: y [B, N, I]."""
        dtype = torch.promote_types(u.dtype, torch.float32)
        transposed, bias, skip = A.to(dtype).t().contiguous(), delta_bias.to(dtype), D.to(dtype)
        y, entries = torch.empty_like(u, memory_format=torch.contiguous_format), []
        state = u.new_zeros(u.shape[0], *transposed.shape, dtype=dtype)
        for part in chunks_of(u.shape[1], state.numel(), reverse):
            entries.append(state)
            d, given = softplus(delta[:, part].to(dtype) + bias), u[:, part].to(dtype)
            chunk = Chunk(d, given, B[:, part].to(dtype), transposed, state, reverse)
            y[:, part] = rows_times(C[:, part].to(dtype), chunk.states).addcmul_(given, skip)
            state = chunk.last().clone()
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, torch.stack(entries))
            ctx.reverse = reverse
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """From the gradient [B, N, I] of y those of all inputs but `reverse`."""
        u, delta, A, B, C, D, delta_bias, entries = ctx.saved_tensors
        reverse, dtype = ctx.reverse, entries.dtype
        transposed, bias, skip = A.to(dtype).t().contiguous(), delta_bias.to(dtype), D.to(dtype)
        of_u, of_delta, of_B, of_C = (torch.empty_like(part) for part in (u, delta, B, C))
        of_A, of_D, of_bias = torch.zeros_like(transposed), torch.zeros_like(skip), torch.zeros_like(bias)
        arriving = torch.zeros_like(entries[0])  # gradient of the state after a chunk
        parts = list(chunks_of(u.shape[1], arriving.numel(), reverse))
        for part, entry in zip(reversed(parts), reversed(entries.unbind()), strict=True):
            raw, given, of_y = delta[:, part].to(dtype) + bias, u[:, part].to(dtype), gradient[:, part].to(dtype)
            B_part, d = B[:, part].to(dtype), softplus(raw)
            chunk = Chunk(d, given, B_part, transposed, entry, reverse)
            of_states, arriving = gradients_of_states(chunk, C[:, part].to(dtype), of_y, arriving)
            of_C[:, part] = matrix_times(chunk.states, of_y)
            of_B[:, part] = matrix_times(of_states, chunk.du)
            of_du = rows_times(B_part, of_states)
            # through the decay: d (exp(d A) s) = exp(d A) s (A dd + d dA)
            through_decay = of_states.mul_(chunk.decay).mul_(chunk.before)
            of_A += (through_decay * d.unsqueeze(2)).sum((0, 1))
            of_d = through_decay.mul_(transposed).sum(2).addcmul_(of_du, given)
            of_raw = of_d.mul_(torch.sigmoid(raw))
            of_delta[:, part] = of_raw
            of_u[:, part] = of_du.mul_(d).addcmul_(of_y, skip)
            of_bias += of_raw.sum((0, 1))
            of_D += (of_y * given).sum((0, 1))
        of_A, of_D, of_bias = of_A.t().to(A.dtype), of_D.to(D.dtype), of_bias.to(delta_bias.dtype)
        return of_u, of_delta, of_A, of_B, of_C, of_D, of_bias, None


def gradients_of_states(chunk: Chunk, C: Tensor, of_y: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence backwards: gradients [B, c, N, I] of the states of a chunk, and that [B, N, I] of its entry."""
    gradients, order = of_y.unsqueeze(2) * C.unsqueeze(3), chunk.order()
    gradients[:, order[-1]] += arriving
    for step, following in zip(order[-2::-1], order[:0:-1], strict=True):
        gradients[:, step].addcmul_(chunk.decay[:, following], gradients[:, following])
    return gradients, gradients[:, order[0]] * chunk.decay[:, order[0]]
