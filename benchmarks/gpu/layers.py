"""Layers alone: attention by each of torch's kernels, lengths that are new to it, and the scan of Vision Mamba."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.record import one_line
from benchmarks.gpu.timing import time_once
from benchmarks.scan import Size, make_inputs, passes
from models.kernels.attention import attend_plainly
from models.kernels.scan import scan_by_doubling
from utils.precision import set_precision

KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
NEW_LENGTHS = {True: (41, 43, 47), False: (53, 59, 61)}  # by whether cuDNN is allowed; in rows that no item has
NEW_ROWS = 37


@dataclass(frozen=True)
class Shape:
    """rows B, heads A, queries T, keys N, width of a head d; padded: with a mask of keys."""

    rows: int
    heads: int
    queries: int
    keys: int
    width: int
    padded: bool = False
    dropout: float = 0.0


# of a training step at a batch of 64
SHAPES = {
    "image": Shape(64, 12, 577, 577, 64),
    "text": Shape(320, 12, 60, 60, 64, padded=True, dropout=0.1),
    "text_evaluated": Shape(320, 12, 60, 60, 64, padded=True),
    "text_to_image": Shape(64, 12, 240, 577, 64, dropout=0.1),
    "decoder": Shape(64, 8, 577, 577, 96),
    "decoder_to_text": Shape(64, 8, 577, 60, 96, padded=True),
}


@dataclass(frozen=True)
class AttentionFigures:
    """One attention product in bfloat16, forward and backward.

    chosen: the kernel that torch takes. kernels: by name {"ms", "first_ms" (of the first call), "difference" (of the
    result from plain products in float32, the greatest; None with dropout)}, or the reason why it refuses.
    """

    shape: dict[str, Any]
    chosen: str
    kernels: dict[str, dict[str, float | None] | str]


def measure_attention(bench: Bench, name: str) -> AttentionFigures:
    """name: of SHAPES."""
    set_precision("fp32", bench.device)  # of the plain products
    shape = SHAPES[name]
    if bench.quick:
        shape = replace(shape, rows=2, heads=2, queries=min(shape.queries, 16), keys=min(shape.keys, 16))
    query, keys, values, mask = make_attention(bench, shape)
    run = partial(scaled_dot_product_attention, query, keys, values, attn_mask=mask, dropout_p=shape.dropout)
    expected = None if shape.dropout else plain_result(query, keys, values, mask)
    kernels: dict[str, dict[str, float | None] | str] = {}
    for kernel, backend in KERNELS.items():
        with warnings.catch_warnings(record=True) as reasons, sdpa_kernel([backend]):
            warnings.simplefilter("always")
            try:
                kernels[kernel] = measure_kernel(bench, run, (query, keys, values), expected)
            except RuntimeError as error:  # refuses such inputs
                kernels[kernel] = one_line(error) + reason_of(reasons)
    number = torch._fused_sdp_choice(query, keys, values, mask, shape.dropout)
    names = {backend.value: kernel for kernel, backend in KERNELS.items()}
    return AttentionFigures(asdict(shape), names.get(number, str(number)), kernels)


def reason_of(told: Sequence[warnings.WarningMessage]) -> str:
    """What torch says of kernels that it did not take, in a line."""
    texts = (str(one.message).partition("(Triggered")[0] for one in told)
    return "".join(f"; {' '.join(text.split())}" for text in texts)[:300]


def make_attention(bench: Bench, shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Query, keys and values, which want gradients, and the mask: the last keys of every other row are padding."""
    generator = torch.Generator(bench.device).manual_seed(0)
    options: dict[str, Any] = {"generator": generator, "device": bench.device, "dtype": torch.bfloat16}
    query, keys, values = (
        torch.randn(shape.rows, shape.heads, length, shape.width, requires_grad=True, **options)
        for length in (shape.queries, shape.keys, shape.keys)
    )
    if not shape.padded:
        return query, keys, values, None
    mask = torch.ones(shape.rows, 1, 1, shape.keys, dtype=torch.bool, device=bench.device)
    mask[::2, :, :, 2 * shape.keys // 3 :] = False
    return query, keys, values, mask


@torch.no_grad()
def plain_result(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """By products and softmax in float32."""
    return attend_plainly(query.float(), keys.float(), values.float(), mask, 0.0)


def measure_kernel(
    bench: Bench, run: Callable[[], Tensor], inputs: tuple[Tensor, ...], expected: Tensor | None
) -> dict[str, float | None]:
    """Forward and backward by the kernel that is allowed now."""

    def both() -> None:
        torch.autograd.grad(run().sum(), inputs)

    first = time_once(both)
    times = bench.time_calls(both, warm_up=1)
    with torch.no_grad():
        difference = None if expected is None else (run().float() - expected).abs().max().item()
    return {"ms": times.ms, "first_ms": first.ms, "difference": difference}


@dataclass(frozen=True)
class LengthFigures:
    """Attention among padded text of lengths that were never met, forward and backward: of the first call, and the
    median of those after it; by the kernel that torch takes, and without cuDNN's."""

    lengths: list[int]
    first_ms: list[float]
    again_ms: list[float]
    lengths_without_cudnn: list[int]
    first_ms_without_cudnn: list[float]
    again_ms_without_cudnn: list[float]


def measure_lengths(bench: Bench) -> LengthFigures:
    """Without dropout, as an evaluation has it and masked attention to text in training."""
    found: list[list[Any]] = []
    for cudnn, lengths in NEW_LENGTHS.items():
        with cudnn_attention(cudnn):
            times = [time_new_length(bench, length) for length in lengths]
        found += [list(lengths), *map(list, zip(*times, strict=True))]
    return LengthFigures(*found)


@contextmanager
def cudnn_attention(allowed: bool) -> Iterator[None]:
    """Within, attention may use cuDNN's kernels, or not."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(allowed)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def time_new_length(bench: Bench, length: int) -> tuple[float, float]:
    """Milliseconds of the first call, and of later ones."""
    rows, heads = (2, 2) if bench.quick else (NEW_ROWS, 12)
    query, keys, values, mask = make_attention(bench, Shape(rows, heads, length, length, 64, padded=True))

    def both() -> None:
        found = scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        torch.autograd.grad(found.sum(), (query, keys, values))

    return time_once(both).ms, bench.time_calls(both, warm_up=0).ms


@dataclass(frozen=True)
class ScanFigures:
    """Vision Mamba's scan of base size in float32, forward and with its backward pass: as the product has it on this
    device, and in a loop over its steps, each with how often the product is as fast; forward in few operations on more
    memory (doubling). difference: the greatest of result and gradients from those of the loop, relative to their norm.
    """

    batch: int
    steps: int
    forward_ms: float
    both_ms: float
    loop_forward_ms: float
    loop_both_ms: float
    forward_ratio: float
    both_ratio: float
    doubling_ms: float
    difference: float


def measure_scan(bench: Bench) -> ScanFigures:
    """In the direction from the first to the last step."""
    set_precision("fp32", bench.device)
    size = Size(2, 70, 24, 4) if bench.quick else Size()
    both_ways = passes(str(bench.device), size)
    found = {way: function() for way, function in both_ways["forward and backward"].items()}
    difference = max(
        ((one - other).norm() / other.norm()).item() for one, other in zip(found["product"], found["loop"], strict=True)
    )
    u, delta, A, B, C, D, bias = (part.detach().to(bench.device) for part in make_inputs(size))
    ms = {
        (name, way): bench.time_calls(function, 2, 1).ms
        for name, functions in both_ways.items()
        for way, function in functions.items()
    }
    forward, both = ms["forward", "product"], ms["forward and backward", "product"]
    loop_forward, loop_both = ms["forward", "loop"], ms["forward and backward", "loop"]
    return ScanFigures(
        batch=size.batch,
        steps=size.steps,
        forward_ms=forward,
        both_ms=both,
        loop_forward_ms=loop_forward,
        loop_both_ms=loop_both,
        forward_ratio=loop_forward / forward,
        both_ratio=loop_both / both,
        doubling_ms=bench.time_calls(lambda: scan_by_doubling(u, delta, A, B, C, D, bias, reverse=False), 2, 1).ms,
        difference=difference,
    )
