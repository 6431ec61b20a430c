"""The selective scan (`models.kernels.scan`) on CUDA: one Triton kernel for the forward and one for the backward pass.

Letters: B batch, L steps, I channels, N states of a channel, c steps of a chunk, G groups of channels.

A program has one sample and one group of channels, and walks over chunks; within a chunk all states are computed at
once, [c, I, N], as an associative scan whose steps lie in one thread. Sums over programs are of what each of them
leaves, in a fixed order: results are the same bits in every run.
"""

# mypy: disable-error-code="no-untyped-def"
# what Triton compiles has blocks and pointers for values, which are not Python's

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 16  # steps
GROUP = 16  # channels
WARPS = 4


@triton.jit
def softplus(x):
    """log(1 + exp x): log(1 + e) as a series, for which the logarithm of a GPU is too coarse where e is small."""
    e = tl.exp(-tl.abs(x))
    z = e / (2 + e)  # at most 1/3
    z2 = z * z
    series = 1 / 11 + z2 * (1 / 13 + z2 * (1 / 15))
    series = 1 + z2 * (1 / 3 + z2 * (1 / 5 + z2 * (1 / 7 + z2 * (1 / 9 + z2 * series))))
    return tl.maximum(x, 0) + 2 * z * series


@triton.jit
def join(decay, added, later_decay, later_added):
    """Two steps s -> decay s + added as one."""
    return decay * later_decay, later_decay * added + later_added


@triton.jit
def chunk_of(start, steps, REVERSE: tl.constexpr, CHUNK: tl.constexpr):
    """Where in memory the steps of a chunk lie, and which of them there are."""
    step = start + tl.arange(0, CHUNK)
    return tl.where(REVERSE, steps - 1 - step, step), step < steps


@triton.jit
def states_of(d, u, A, B, entry, CHUNK: tl.constexpr):
    """States [c, I, N] and what each step adds to them; d, u [c, I], A and entry [I, N], B [c, N]."""
    added = (d * u)[:, :, None] * B[:, None, :]
    decay = tl.exp(d[:, :, None] * A[None, :, :])
    first = (tl.arange(0, CHUNK) == 0)[:, None, None]
    _, states = tl.associative_scan((decay, tl.where(first, added + decay * entry[None, :, :], added)), 0, join)
    return states, added


@triton.jit
def scan_kernel(
    u_, delta_, A_, B_, C_, D_, bias_, y_, entries_,
    steps, channels, states, u_batch, delta_batch, B_batch, C_batch, u_step, delta_step, B_step, C_step,
    REVERSE: tl.constexpr, KEEP: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """y [B, L, I], and entries [B, chunks, I, N]: the states before each chunk."""
    sample = tl.program_id(0).to(tl.int64)
    i, n = tl.program_id(1) * GROUP + tl.arange(0, GROUP), tl.arange(0, STATES)
    has_i, has_n = i < channels, n < states
    of_state, has_state = i[:, None] * states + n[None, :], has_i[:, None] & has_n[None, :]
    A = tl.load(A_ + of_state, has_state, 0.0)
    D, bias = tl.load(D_ + i, has_i, 0.0), tl.load(bias_ + i, has_i, 0.0)
    entry = tl.zeros((GROUP, STATES), tl.float32)
    entries_ += sample * tl.cdiv(steps, CHUNK) * channels * states
    for start in range(0, steps, CHUNK):
        if KEEP:
            tl.store(entries_ + of_state, entry, has_state)
            entries_ += channels * states
        t, has_t = chunk_of(start, steps, REVERSE, CHUNK)
        has_ti, has_tn = has_t[:, None] & has_i[None, :], has_t[:, None] & has_n[None, :]
        u = tl.load(u_ + sample * u_batch + t[:, None] * u_step + i[None, :], has_ti, 0.0).to(tl.float32)
        raw = tl.load(delta_ + sample * delta_batch + t[:, None] * delta_step + i[None, :], has_ti, 0.0)
        B = tl.load(B_ + sample * B_batch + t[:, None] * B_step + n[None, :], has_tn, 0.0).to(tl.float32)
        C = tl.load(C_ + sample * C_batch + t[:, None] * C_step + n[None, :], has_tn, 0.0).to(tl.float32)
        d = tl.where(has_ti, softplus(raw.to(tl.float32) + bias[None, :]), 0.0)
        s, _ = states_of(d, u, A, B, entry, CHUNK)
        y = tl.sum(s * C[:, None, :], 2) + D[None, :] * u
        tl.store(y_ + (sample * steps + t[:, None]) * channels + i[None, :], y.to(y_.dtype.element_ty), has_ti)
        last = (tl.arange(0, CHUNK) == CHUNK - 1)[:, None, None]  # where steps are missing, states stay as they are
        entry = tl.sum(tl.where(last, s, 0.0), 0)


@triton.jit
def gradients_kernel(
    of_y_, u_, delta_, A_, B_, C_, D_, bias_, entries_,
    of_u_, of_delta_, of_A_, of_B_, of_C_, of_D_, of_bias_,
    batch, steps, channels, states,
    u_batch, delta_batch, B_batch, C_batch, u_step, delta_step, B_step, C_step,
    REVERSE: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """Gradients: of u and delta [B, L, I]; of A [B, I, N], D and bias [B, I], of each sample; of B and C [G, B, L, N],
    of each group of channels. The gradient of a state is what y takes of it, and what the next state does."""
    sample, group = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    i, n = tl.program_id(1) * GROUP + tl.arange(0, GROUP), tl.arange(0, STATES)
    has_i, has_n = i < channels, n < states
    of_state, has_state = i[:, None] * states + n[None, :], has_i[:, None] & has_n[None, :]
    A = tl.load(A_ + of_state, has_state, 0.0)
    D, bias = tl.load(D_ + i, has_i, 0.0), tl.load(bias_ + i, has_i, 0.0)
    arriving = tl.zeros((GROUP, STATES), tl.float32)  # gradient of the first state of the chunk after
    of_A = tl.zeros((GROUP, STATES), tl.float32)
    of_D, of_bias = tl.zeros((GROUP,), tl.float32), tl.zeros((GROUP,), tl.float32)
    chunks = tl.cdiv(steps, CHUNK)
    entries_ += (sample * chunks + chunks - 1) * channels * states
    for done in range(0, chunks):
        chunk = chunks - 1 - done
        t, has_t = chunk_of(chunk * CHUNK, steps, REVERSE, CHUNK)
        has_ti, has_tn = has_t[:, None] & has_i[None, :], has_t[:, None] & has_n[None, :]
        u = tl.load(u_ + sample * u_batch + t[:, None] * u_step + i[None, :], has_ti, 0.0).to(tl.float32)
        raw = tl.load(delta_ + sample * delta_batch + t[:, None] * delta_step + i[None, :], has_ti, 0.0)
        raw = raw.to(tl.float32) + bias[None, :]
        B = tl.load(B_ + sample * B_batch + t[:, None] * B_step + n[None, :], has_tn, 0.0).to(tl.float32)
        C = tl.load(C_ + sample * C_batch + t[:, None] * C_step + n[None, :], has_tn, 0.0).to(tl.float32)
        of_ti = (sample * steps + t[:, None]) * channels + i[None, :]
        of_y = tl.load(of_y_ + of_ti, has_ti, 0.0).to(tl.float32)
        d = tl.where(has_ti, softplus(raw), 0.0)
        entry = tl.load(entries_ + of_state, has_state, 0.0)
        entries_ -= channels * states
        s, added = states_of(d, u, A, B, entry, CHUNK)

        after, has_after = chunk_of(chunk * CHUNK + 1, steps, REVERSE, CHUNK)
        has_after = has_after[:, None] & has_i[None, :]
        raw_after = tl.load(delta_ + sample * delta_batch + after[:, None] * delta_step + i[None, :], has_after, 0.0)
        d_after = tl.where(has_after, softplus(raw_after.to(tl.float32) + bias[None, :]), 0.0)
        decay = tl.exp(d_after[:, :, None] * A[None, :, :])
        taken = of_y[:, :, None] * C[:, None, :]
        last = (tl.arange(0, CHUNK) == CHUNK - 1)[:, None, None]
        taken = tl.where(last, taken + decay * arriving[None, :, :], taken)
        _, of_s = tl.associative_scan((decay, taken), 0, join, reverse=True)
        first = (tl.arange(0, CHUNK) == 0)[:, None, None]
        arriving = tl.sum(tl.where(first, of_s, 0.0), 0)

        of_tn = ((group * batch + sample) * steps + t[:, None]) * states + n[None, :]
        tl.store(of_C_ + of_tn, tl.sum(s * of_y[:, :, None], 1), has_tn)
        tl.store(of_B_ + of_tn, tl.sum(of_s * (d * u)[:, :, None], 1), has_tn)
        of_du = tl.sum(of_s * B[:, None, :], 2)
        # through the decay: d (exp(d A) s) = exp(d A) s (A dd + d dA), where exp(d A) s is what a step does not add
        through = of_s * (s - added)
        of_A += tl.sum(through * d[:, :, None], 0)
        of_raw = (tl.sum(through * A[None, :, :], 2) + of_du * u) / (1 + tl.exp(-raw))
        tl.store(of_u_ + of_ti, (of_du * d + of_y * D[None, :]).to(of_u_.dtype.element_ty), has_ti)
        tl.store(of_delta_ + of_ti, of_raw.to(of_delta_.dtype.element_ty), has_ti)
        of_bias += tl.sum(tl.where(has_ti, of_raw, 0.0), 0)
        of_D += tl.sum(of_y * u, 0)
    tl.store(of_A_ + sample * channels * states + of_state, of_A, has_state)
    tl.store(of_D_ + sample * channels + i, of_D, has_i)
    tl.store(of_bias_ + sample * channels + i, of_bias, has_i)


def shape_of_entries(batch: int, steps: int, channels: int, states: int) -> tuple[int, ...]:
    """Of what `scan` keeps: [B, chunks, I, N]."""
    return batch, -(-steps // CHUNK), channels, states


def scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor]:
    """y [B, L, I], and the states before each chunk in the order of the scan; none unless they are to be kept.

    Other shapes as in `models.kernels.scan.selective_scan`.
    """
    (batch, steps, channels), states = u.shape, A.shape[1]
    y = u.new_empty(u.shape)
    entries = u.new_empty(shape_of_entries(batch, steps, channels, states) if keep else 0, dtype=torch.float32)
    rows, weights = ready_rows(u, delta, B, C), ready_weights(A, D, delta_bias)
    with torch.cuda.device_of(u):
        scan_kernel[batch, triton.cdiv(channels, GROUP)](
            *rows[:2], weights[0], *rows[2:], *weights[1:], y, entries, steps, channels, states,
            *(row.stride(0) for row in rows), *(row.stride(1) for row in rows),
            reverse, keep, CHUNK, GROUP, triton.next_power_of_2(states), num_warps=WARPS,
        )  # fmt: skip
    return y, entries


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

    entries: what `scan` kept. Takes about as much memory as u, in float32, for each of B and C.
    """
    (batch, steps, channels), states = u.shape, A.shape[1]
    groups = triton.cdiv(channels, GROUP)
    of_u, of_delta = u.new_empty(u.shape), delta.new_empty(delta.shape)
    of_A = entries.new_empty(batch, channels, states)
    of_D, of_bias = entries.new_empty(2, batch, channels)
    of_B, of_C = entries.new_empty(2, groups, batch, steps, states)
    rows, weights = ready_rows(u, delta, B, C), ready_weights(A, D, delta_bias)
    with torch.cuda.device_of(u):
        gradients_kernel[batch, groups](
            gradient.contiguous(), *rows[:2], weights[0], *rows[2:], *weights[1:], entries,
            of_u, of_delta, of_A, of_B, of_C, of_D, of_bias, batch, steps, channels, states,
            *(row.stride(0) for row in rows), *(row.stride(1) for row in rows),
            reverse, CHUNK, GROUP, triton.next_power_of_2(states), num_warps=WARPS,
        )  # fmt: skip
    summed = ((of_A, A), (of_B, B), (of_C, C), (of_D, D), (of_bias, delta_bias))
    return of_u, of_delta, *(parts.sum(0).to(given.dtype) for parts, given in summed)


def ready_rows(*parts: Tensor) -> list[Tensor]:
    """Tensors [B, L, ...] whose last axis lies in one piece, without a copy where it does."""
    return [part if part.stride(-1) == 1 else part.contiguous() for part in parts]


def ready_weights(*parts: Tensor) -> list[Tensor]:
    return [part.float().contiguous() for part in parts]
