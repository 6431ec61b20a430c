"""What all benchmarks share: arguments, the machine, times side by side, peak memory, matrix products.

The machine may be busy with other work: figures to quote are ratios of times taken in turn.
"""

import argparse
import gc
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from models.kernels.linear import product
from utils.errors import CommandParser
from utils.processes.parallel import available_cores

MIB = 2**20
GIGA = 1e9


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser with `--quick`, which every benchmark has; it raises UserError for wrong arguments."""
    prog = f"python -m benchmarks.{Path(sys.argv[0]).stem}"
    parser = CommandParser(prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="reduced size, below a minute; other options go over it")
    return parser


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """What reads a whole number of an argument that has no meaning below `least`, nor above `most`."""

    def whole_number(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text):
            raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}")
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {value}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"must be {most} or less, not {value}")
        return value

    return whole_number


def parse_arguments(
    description: str,
    arguments: list[str] | None = None,
    add: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> argparse.Namespace:
    """`--quick`, `--repeats` for what is measured several times, and what `add` adds."""
    parser = make_parser(description)
    add(parser)
    parser.add_argument("--repeats", type=at_least(1), default=3, help="measurements in turn; the medians count")
    return parser.parse_args(arguments)


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device`, for what can be measured on a GPU too."""
    choices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    parser.add_argument("--device", choices=choices, default="cpu", help="cuda where there is a GPU (%(default)s)")


def describe_machine(device: str = "cpu") -> str:
    """Processor, cores that may be used, memory, versions; the GPU where that is the device."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f"{torch.cuda.get_device_name()}; " if device == "cuda" else ""
    return (
        f"{gpu}{model}, {available_cores()} cores, {torch.get_num_threads()} threads, {gib:.0f} GiB; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def seconds_of(function: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, until a GPU that it used is done with it."""
    gc.collect()
    finish_queued()
    began = time.perf_counter()
    function()
    finish_queued()
    return time.perf_counter() - began


def finish_queued() -> None:
    """Wait for what a GPU was given to do, where this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def in_turn(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each function, A B C A B C ..., so that other load on the machine meets all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(seconds_of(function))
    return times


def ratio_of(slow: list[float], fast: list[float]) -> float:
    """How many times faster: the median over pairs of measurements taken next to each other."""
    return statistics.median(one / other for one, other in zip(slow, fast, strict=True))


def peak_memory_of(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Result of `function(*arguments)`, run in a fresh process, and the most memory it held in MiB (Linux).

    That of tensors on the GPU where it uses one, else of the process, with what importing takes.
    The function must be importable, and its result picklable.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_peak, function, arguments).result()


def _with_peak(function: Callable[..., Any], arguments: tuple) -> tuple[Any, float]:
    result = function(*arguments)
    if torch.cuda.is_initialized():
        return result, torch.cuda.max_memory_allocated() / MIB
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent held at the fork
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return result, kib * 1024 / MIB


def available_memory() -> float:
    """MiB that processes can still have (Linux)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024


def matmul_peak(dtype: torch.dtype, device: str = "cpu", repeats: int = 10) -> float:
    """GFLOP/s of a square matrix product on this machine: the best of several, by torch and by the model's way."""
    size = 2048 if device == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    ways = (partial(torch.matmul, left, right), partial(product, left, right, None))
    times = [seconds_of(way) for way in ways for _ in range(repeats)]
    return 2 * size**3 / min(times) / GIGA


def show(times: Mapping[str, list[float]], unit: str, per: float = 1.0) -> None:
    """A line per name: median, least and greatest of its seconds, divided by `per`."""
    for name, values in times.items():
        low, middle, high = (f(values) / per for f in (min, statistics.median, max))
        print(f"{name:34} {middle:10.4f} s per {unit}   ({low:.4f} to {high:.4f})")
