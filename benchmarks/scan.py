"""The selective scan of Vision Mamba: forward, and forward with backward, against a loop over its steps.

The plain way is the one that Mamba's reference takes where no kernel is compiled, in its order of axes:
what each step multiplies with and adds is made for all steps at once, [B, I, L, N], then a loop goes
over the steps and autograd remembers all of it. Full size is that of a Vision Mamba of base size at
384x384 with a batch of 8. Each way runs in fresh processes, which tell their peak memory; what such a
process holds before it begins (its libraries) is told beside it. The product's process keeps freed
memory, as the driver's does (`utils.memory`); `plain, freed memory kept` is the loop in such a process.
Where there is a GPU its kernels are measured too, against the product's loop over steps on it.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.measure import (
    MIB,
    describe_machine,
    in_turn,
    parse_arguments,
    peak_memory_of,
    ratio_of,
    seconds_of,
    show,
)
from models.kernels import scan_loop
from models.kernels.scan import selective_scan, way_for
from utils.errors import run_command_line
from utils.memory import keep_freed_memory

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


@dataclass(frozen=True)
class Size:
    """Batch, steps, channels, states of a channel."""

    batch: int = 8
    steps: int = 577
    channels: int = 1536
    states: int = 16


QUICK = Size(batch=2, channels=768)


def make_inputs(size: Size) -> list[Tensor]:
    """Of the magnitudes that a fresh encoder has; they want gradients."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows, columns = (size.batch, size.steps, size.channels), (size.batch, size.steps, size.states)
    decay = -torch.arange(1.0, size.states + 1).repeat(size.channels, 1)
    bias = torch.full((size.channels,), -4.6)  # d = 0.01
    inputs = [draw(*rows), 0.1 * draw(*rows), decay, draw(*columns), draw(*columns), torch.ones(size.channels), bias]
    return [value.requires_grad_() for value in inputs]


def plain_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """The twin of `selective_scan`."""
    u, delta, B, C = (part.transpose(1, 2).contiguous() for part in (u, delta, B, C))  # [B, I or N, L]
    d = torch.nn.functional.softplus(delta + delta_bias[:, None])
    pace = torch.exp(torch.einsum("bil,in->biln", d, A))
    added = torch.einsum("bil,bnl,bil->biln", d, B, u)
    state, seen = u.new_zeros(u.shape[0], *A.shape), []
    for step in range(u.shape[2]):
        state = pace[:, :, step] * state + added[:, :, step]
        seen.append(torch.einsum("bin,bn->bi", state, C[:, :, step]))
    return (torch.stack(seen, dim=2) + D[:, None] * u).transpose(1, 2)


KEPT = "plain, freed memory kept"
WAYS: dict[str, Callable[..., Tensor]] = {"plain": plain_scan, KEPT: plain_scan, "product": selective_scan}


def forward(way: str, size: Size, repeats: int) -> list[float]:
    """Seconds of each repeat."""
    if way != "plain":
        keep_freed_memory()
    inputs = make_inputs(size)
    with torch.inference_mode():
        return [seconds_of(lambda: WAYS[way](*inputs)) for _ in range(repeats)]


def forward_and_backward(way: str, size: Size, repeats: int) -> list[float]:
    """Seconds of each repeat."""
    if way != "plain":
        keep_freed_memory()
    inputs = make_inputs(size)
    gradient = torch.randn(size.batch, size.steps, size.channels)
    return [seconds_of(lambda: torch.autograd.grad(WAYS[way](*inputs), inputs, gradient)) for _ in range(repeats)]


def nothing() -> None:
    """What a process is before it begins."""


def differences(size: Size) -> dict[str, float]:
    """How far the result and each gradient are from the plain ones, relative to their norm."""
    inputs = make_inputs(size)
    weight = torch.randn(size.batch, size.steps, size.channels, generator=torch.Generator().manual_seed(1))
    results = []
    for scan in (selective_scan, plain_scan):
        y = scan(*inputs)
        results.append([y.detach(), *torch.autograd.grad(y, inputs, weight)])
    return {
        name: float((one - other).norm() / other.norm())
        for name, one, other in zip(("y", *(f"gradient of {name}" for name in NAMES)), *results, strict=True)
    }


def pass_of(way: ModuleType, inputs: list[Tensor], gradient: Tensor | None) -> list[Tensor]:
    """y, and with the gradient of y those of all inputs, by a way to compute the scan (`models.kernels`)."""
    y, entries = way.scan(*inputs, reverse=False, keep=gradient is not None)
    return [y] if gradient is None else [y, *way.gradients(gradient, *inputs, entries, reverse=False)]


def passes(device: str, size: Size) -> dict[str, dict[str, Callable[[], list[Tensor]]]]:
    """By pass, the product's loop over steps and what it takes on this device."""
    inputs = [part.detach().to(device) for part in make_inputs(size)]
    weight = torch.randn(size.batch, size.steps, size.channels, generator=torch.Generator().manual_seed(1)).to(device)
    ways = {"loop": scan_loop, "product": way_for(inputs[0])}
    return {
        name: {way: partial(pass_of, module, inputs, gradient) for way, module in ways.items()}
        for name, gradient in (("forward", None), ("forward and backward", weight))
    }


def compare_on(device: str, size: Size, repeats: int) -> None:
    """Print times and memory of both on a GPU, their ratios, and how far their results differ."""
    print(f"on the {describe_machine(device)}")
    for name, functions in passes(device, size).items():
        peaks, found = {}, {}
        for way, function in functions.items():  # the first calls, in which kernels are made
            function()
            torch.cuda.reset_peak_memory_stats()
            found[way] = function()
            peaks[way] = torch.cuda.max_memory_allocated() / MIB
        times = in_turn(functions, repeats)
        show({f"GPU, {name}, {way}": seconds for way, seconds in times.items()}, "scan")
        print(f"peak memory on the GPU: loop {peaks['loop']:.0f} MiB, product {peaks['product']:.0f} MiB")
        print(f"ratio on the GPU, {name}: {ratio_of(times['loop'], times['product']):.1f}")
        worst = max(
            ((one - other).norm() / other.norm()).item()
            for one, other in zip(found["product"], found["loop"], strict=True)
        )
        print(f"greatest difference on the GPU, relative: {worst:.1e}")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = parse_arguments(__doc__, arguments)
    size = QUICK if options.quick else Size()
    print(describe_machine())
    _, libraries = peak_memory_of(nothing)
    print(f"B={size.batch} L={size.steps} I={size.channels} N={size.states}, float32")
    most = options.repeats
    for name, run, least in (("forward", forward, most), ("forward and backward", forward_and_backward, 0)):
        found = {way: peak_memory_of(run, way, size, 1 + (most if way == "product" else least)) for way in WAYS}
        # the first call of a process gets its memory from the system
        times = {way: seconds[1:] or seconds for way, (seconds, _) in found.items()}
        show({f"{name}, {way}": seconds for way, seconds in times.items()}, "scan")
        plain, product = (found[way][1] for way in ("plain", "product"))
        print(
            f"peak memory: plain {plain:.0f} MiB, product {product:.0f} MiB ({product / plain:.0%});"
            f" beyond the {libraries:.0f} MiB of libraries {plain - libraries:.0f} and {product - libraries:.0f}"
            f" ({(product - libraries) / (plain - libraries):.0%})"
        )
        for way in ("plain", KEPT):
            ratio = statistics.median(times[way]) / statistics.median(times["product"])
            print(f"ratio {name}{way.removeprefix('plain')}: {ratio:.1f}")
    small = Size(2, 150, 64, size.states)
    worst = max(differences(small).items(), key=lambda item: item[1])
    print(f"greatest difference of result and gradients, relative: {worst[1]:.1e} ({worst[0]})")
    if torch.cuda.is_available():
        compare_on("cuda", size, options.repeats)


if __name__ == "__main__":
    run_command_line(main)
