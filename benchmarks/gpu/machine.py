"""The machine, and the most that it can do: products of matrices, copies, launches."""

import shutil
import subprocess
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size import make_batch
from benchmarks.gpu.bench import Bench
from benchmarks.measure import describe_machine
from dataset.batch import LoadedBatch, Samples, TrainBatch
from dataset.train_set import NoiseSource
from utils.memory import GIB
from utils.precision import set_precision

ROOT = Path(__file__).resolve().parents[2]
TERA = 1e12
# rows, outputs and inputs of products of a step: ViT's at batches of 64 and 8, fusion's, vocabulary logits
PRODUCTS = (
    (36928, 3072, 768),
    (36928, 768, 3072),
    (36928, 768, 768),
    (4616, 768, 768),
    (1920, 768, 768),
    (4608, 30522, 768),
)
LAUNCHES = 2000


def describe(device: torch.device) -> dict[str, Any]:
    """Date, commit, processor and card, by names that tables use."""
    about: dict[str, Any] = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": answer_of("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*") or "unknown",
        "device": str(device),
        "card": "none",
        "machine": describe_machine(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        query = "--query-gpu=driver_version,clocks.sm,clocks.max.sm,power.limit"
        about |= {
            "card": card.name,
            "memory_gib": round(card.total_memory / GIB, 1),
            "multiprocessors": card.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": answer_of("nvidia-smi", query, "--format=csv,noheader"),
        }
    return about


def answer_of(*command: str) -> str:
    """What a program prints, in one line; empty where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(done.stdout.strip().splitlines())


@dataclass(frozen=True)
class PeakFigures:
    """Products in TFLOP/s: square matrices by precision, those of a step in bfloat16 by their sizes; copies in
    TB/s (read and written); microseconds in which the processor launches a kernel."""

    square: dict[str, float]
    products: dict[str, float]
    copy_tb_per_second: float
    launch_us: float


def measure_peaks(bench: Bench) -> PeakFigures:
    """What other figures are a share of; those of square matrices are kept in `bench.peaks`."""
    size, device = 256 if bench.quick else 8192, bench.device
    for precision in ("bf16", "tf32", "fp32"):
        set_precision(precision, device)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        bench.peaks[precision] = tera_flop(bench, (size, size, size), dtype)
    products = {}
    for rows, outputs, inputs in PRODUCTS:
        rows = 64 if bench.quick else rows
        products[f"{rows}x{outputs}x{inputs}"] = tera_flop(bench, (rows, outputs, inputs), torch.bfloat16)
    large = torch.empty(2**18 if bench.quick else 2**29, device=device)
    copied = bench.time_calls(large.clone)
    one = torch.ones(16, device=device)
    launched = bench.time_calls(lambda: [one.add_(1) for _ in range(LAUNCHES)], repeats=3)
    return PeakFigures(
        square=dict(bench.peaks),
        products=products,
        copy_tb_per_second=2 * large.nbytes / (copied.ms / 1e3) / TERA,
        launch_us=1e3 * launched.host_ms / LAUNCHES,
    )


def tera_flop(bench: Bench, sizes: tuple[int, int, int], dtype: torch.dtype) -> float:
    """TFLOP/s of a product as linear layers have it: sizes are rows, outputs and inputs."""
    rows, outputs, inputs = sizes
    left = torch.randn(rows, inputs, device=bench.device).to(dtype)
    right = torch.randn(outputs, inputs, device=bench.device).to(dtype)
    times = bench.time_calls(lambda: torch.nn.functional.linear(left, right), repeats=10)
    return 2 * rows * outputs * inputs / (times.ms / 1e3) / TERA


@dataclass(frozen=True)
class TransferFigures:
    """A batch of training, uint8 images in pinned memory, on its way to the device."""

    batch: int
    mib: float
    ms: float


def measure_transfer(bench: Bench) -> TransferFigures:
    """Needs CUDA."""
    size = 4 if bench.quick else 64
    batch = as_loaded(make_batch(bench.config, size)).pin_memory()
    return TransferFigures(size, batch.views.nbytes / 2**20, bench.time_calls(lambda: batch.to(bench.device)).ms)


def as_loaded(batch: TrainBatch, noise: NoiseSource | None = None) -> LoadedBatch:
    """A batch as loaders make it: one uint8 image for both views, and the noise of the first epoch."""
    views = (40 * batch.image1[None] + 128).clamp(0, 255).byte()
    mirrored = torch.tensor([[False, True]]).repeat(batch.size, 1)
    kept = {part.name: getattr(batch, part.name) for part in fields(Samples)}
    drawn = noise(0, batch.index.tolist()) if noise else None
    return LoadedBatch(**{**kept, "noise": drawn}, views=views, mirrored=mirrored)
