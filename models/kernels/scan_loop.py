"""The selective scan (`models.kernels.scan`) as a loop over its steps, in plain PyTorch, on any device.

Letters: B batch, L steps, I channels, N states of a channel, c steps of a chunk.

Steps follow each other, but what surrounds them does not depend on the state: it is computed for a chunk at once.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ELEMENTS = 3 * 2**20  # [B, c, N, I] of a chunk: small enough for caches, large enough to keep all cores busy
SHORTEST, LONGEST = 8, 64  # steps of a chunk


def chunk_length(elements: int) -> int:
    """Steps of a chunk; elements: B * N * I."""
    return min(LONGEST, max(SHORTEST, CHUNK_ELEMENTS // max(1, elements)))


def shape_of_entries(batch: int, steps: int, channels: int, states: int) -> tuple[int, ...]:
    """Of what `scan` keeps: [chunks, B, N, I]."""
    return -(-steps // chunk_length(batch * channels * states)), batch, states, channels


def chunks_of(steps: int, elements: int, reverse: bool) -> Iterator[slice]:
    """The chunks of a scan in its order; elements: B * N * I."""
    length = chunk_length(elements)
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


def scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor]:
    """y [B, L, I], and the states [chunks, B, N, I] before each chunk, in its order; none unless they are to be kept.

    Other shapes as in `models.kernels.scan.selective_scan`.
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    transposed, bias, skip = A.to(dtype).t().contiguous(), delta_bias.to(dtype), D.to(dtype)
    y, entries = u.new_empty(u.shape), []
    state = u.new_zeros(u.shape[0], *transposed.shape, dtype=dtype)
    for part in chunks_of(u.shape[1], state.numel(), reverse):
        entries.append(state)
        d, given = softplus(delta[:, part].to(dtype) + bias), u[:, part].to(dtype)
        chunk = Chunk(d, given, B[:, part].to(dtype), transposed, state, reverse)
        y[:, part] = rows_times(C[:, part].to(dtype), chunk.states).addcmul_(given, skip)
        state = chunk.last().clone()
    return y, torch.stack(entries) if keep else y.new_empty(0)


def gradients(
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
) -> tuple[Tensor, ...]:
    """From the gradient [B, L, I] of y those of u, delta, A, B, C, D and delta_bias, in their types.

    entries: what `scan` kept.
    """
    dtype = entries.dtype
    transposed, bias, skip = A.to(dtype).t().contiguous(), delta_bias.to(dtype), D.to(dtype)
    of_u, of_delta, of_B, of_C = (part.new_empty(part.shape) for part in (u, delta, B, C))
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
    of_A, of_D, of_bias = of_A.t().to(A.dtype).contiguous(), of_D.to(D.dtype), of_bias.to(delta_bias.dtype)
    return of_u, of_delta, of_A, of_B, of_C, of_D, of_bias


def gradients_of_states(chunk: Chunk, C: Tensor, of_y: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence backwards: gradients [B, c, N, I] of the states of a chunk, and that [B, N, I] of its entry."""
    gradients, order = of_y.unsqueeze(2) * C.unsqueeze(3), chunk.order()
    gradients[:, order[-1]] += arriving
    for step, following in zip(order[-2::-1], order[:0:-1], strict=True):
        gradients[:, step].addcmul_(chunk.decay[:, following], gradients[:, following])
    return gradients, gradients[:, order[0]] * chunk.decay[:, order[0]]
