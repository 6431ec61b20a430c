"""A measurement as tables in Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.record import Record
from utils.errors import UserError

Figures = Mapping[str, Any]
NOTHING = "-"
LISTED = 10  # of the busiest kernels


@dataclass(frozen=True)
class Table:
    """title: above it. prefix: of the names of items, each of which is a row. columns: heading -> name of a figure."""

    title: str
    prefix: str
    columns: Mapping[str, str] = field(default_factory=dict)


STEP = {
    "words": "words",
    "ms": "ms",
    "host ms": "host_ms",
    "samples/s": "samples_per_second",
}
TABLES = (
    Table(
        "Training step, as published but for the way to compute it",
        "step/",
        {**STEP, "TFLOP": "tflop", "share of the peak": "peak_share", "peak MiB": "peak_mib"},
    ),
    Table("The published formulation", "published/", {**STEP, "peak MiB": "peak_mib"}),
    Table(
        "A step as training takes it",
        "training/",
        {
            "words": "words",
            "ms": "ms",
            "ms of a new length": "new_length_ms",
            "samples/s": "samples_per_second",
            "total": "total",
            "waits for the device": "syncs",
        },
    ),
    Table("Kernels of a step", "kernels/", {"kernels": "kernels", "busy ms": "busy_ms", "ms": "ms"}),
    Table("Forward and backward as one CUDA graph", "graph/", {**STEP, "replay ms": "replay_ms", "total": "total"}),
    Table("Compiled layers, or the whole step", "compiled/", {**STEP, "first step, s": "first_s", "total": "total"}),
    Table("Images encoded", "gallery/", {"batch": "batch", "images/s": "images_per_second"}),
    Table(
        "Re-ranking",
        "rerank/",
        {
            "images": "images",
            "pairs": "pairs",
            "us per pair, new": "first_us",
            "until issued": "host_us",
            "us per pair, again": "again_us",
            "us per prefix": "prefix_us",
            "CUHK-PEDES, s": "cuhk_s",
            "greatest difference": "difference",
            "of scores that deviate by": "deviation",
            "written out, us per pair": "written_out_us",
            "fused, us per pair": "fused_us",
        },
    ),
    Table(
        "Attention among lengths that are new",
        "new_lengths",
        {
            "words": "lengths",
            "first ms": "first_ms",
            "later ms": "again_ms",
            "words, no cuDNN": "lengths_without_cudnn",
            "first ms, no cuDNN": "first_ms_without_cudnn",
            "later ms, no cuDNN": "again_ms_without_cudnn",
        },
    ),
    Table("A batch on its way to the device", "transfer", {"batch": "batch", "MiB": "mib", "ms": "ms"}),
    Table(
        "Scan of Vision Mamba",
        "scan",
        {
            "batch": "batch",
            "steps": "steps",
            "forward ms": "forward_ms",
            "with backward ms": "both_ms",
            "loop, forward ms": "loop_forward_ms",
            "loop, with backward ms": "loop_both_ms",
            "times as fast as the loop, forward": "forward_ratio",
            "with backward": "both_ratio",
            "by doubling ms": "doubling_ms",
            "difference": "difference",
        },
    ),
    Table(
        "What the card can do",
        "peaks",
        {
            "square products, TFLOP/s": "square",
            "products of a step, TFLOP/s": "products",
            "copies, TB/s": "copy_tb_per_second",
            "launch, us": "launch_us",
        },
    ),
)


def draw_file(path: Path) -> str:
    """The tables of a file. Raises UserError when it is not such a file, or damaged."""
    record = Record.read(path)
    try:
        return draw(record)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        raise UserError(f"{path} is damaged, or of another version: measure again") from None


def draw(record: Record) -> str:
    """All tables for which there are figures, below the card, the date and the commit."""
    about = record.about
    title = f"### {about.get('card')}, {about.get('date')}, commit {about.get('commit')}"
    names = ("machine", "cuda", "cudnn", "driver", "memory_gib", "budget")
    facts = ", ".join(f"{name} {about[name]}" for name in names if about.get(name))
    notes = [facts, *(["**Tiny sizes: these figures mean nothing.**"] if about.get("quick") else [])]
    others = (draw_ratios, draw_losses, draw_attention, draw_kernels, draw_missing)
    parts = [title, *notes, *(draw_table(record, table) for table in TABLES), *(one(record) for one in others)]
    return "\n\n".join(part for part in parts if part)


def draw_table(record: Record, table: Table) -> str:
    """A row per item; columns without any figure are left out."""
    found = chosen(record, table.prefix)
    columns = {
        heading: name
        for heading, name in table.columns.items()
        if any(figures.get(name) is not None for figures in found.values())
    }
    rows = [[name, *(cell(figures.get(key)) for key in columns.values())] for name, figures in found.items()]
    return lay_out(table.title, ["item", *columns], rows)


def chosen(record: Record, *prefixes: str) -> dict[str, Figures]:
    """The items whose names begin so."""
    return {name: figures for name, figures in record.items.items() if name.startswith(prefixes)}


def draw_ratios(record: Record) -> str:
    """How many times as many samples a second as the published formulation in float32, at the batch that suits it."""
    published = chosen(record, "published/fp32/")
    if not published:
        return ""
    best = max(published, key=lambda name: published[name]["samples_per_second"])
    rate = published[best]["samples_per_second"]
    ways = chosen(record, "step/", "published/", "training/", "graph/", "compiled/")
    rows = [[name, f"{figures['samples_per_second'] / rate:.2f}"] for name, figures in ways.items() if name != best]
    return lay_out("Samples per second against the published formulation", ["item", f"{best} = 1"], rows)


def draw_losses(record: Record) -> str:
    """Ways of the same batch, one below the other."""
    found = sorted(chosen(record, "step/", "published/").items(), key=lambda item: (item[1]["batch"], item[0]))
    losses = list(dict.fromkeys(loss for _, figures in found for loss in figures["losses"]))
    rows = [
        [
            name,
            cell(figures["batch"]),
            *(precise(figures["losses"].get(loss)) for loss in losses),
            precise(figures["gradient_norm"]),
            precise(figures["total"]),
        ]
        for name, figures in found
    ]
    title = "Losses of the first step without dropout, and the total of the third step with dropout"
    return lay_out(title, ["item", "batch", *losses, "gradient norm", "total"], rows)


def draw_attention(record: Record) -> str:
    """A row per shape, a column per kernel: ms (first ms)."""
    found = chosen(record, "attention/")
    kernels = list(dict.fromkeys(kernel for figures in found.values() for kernel in figures["kernels"]))

    def times(figures: Figures, kernel: str) -> str:
        measured = figures["kernels"].get(kernel)
        return f"{cell(measured['ms'])} ({cell(measured['first_ms'])})" if isinstance(measured, dict) else "refuses"

    rows = [
        [name, figures["chosen"], *(times(figures, kernel) for kernel in kernels)] for name, figures in found.items()
    ]
    title = "Attention forward and backward, ms (of the first call)"
    return lay_out(title, ["item", "torch takes", *kernels], rows)


def draw_kernels(record: Record) -> str:
    """The busiest kernels of each step."""
    rows = [
        [item, f"`{kernel}`", cell(count), cell(ms)]
        for item, figures in chosen(record, "kernels/").items()
        for kernel, count, ms in figures["busiest"][:LISTED]
    ]
    return lay_out("Busiest kernels", ["item", "kernel", "calls", "ms"], rows)


def draw_missing(record: Record) -> str:
    """What was left out, what failed, what a run did not reach that was cut off."""
    known = record.items.keys() | record.left_out.keys() | record.failed.keys()
    missing = [
        *([name, f"left out: {reason}"] for name, reason in record.left_out.items()),
        *([name, f"failed: {error}"] for name, error in record.failed.items()),
        *([name, "not reached: the run was cut off"] for name in record.planned if name not in known),
    ]
    return lay_out("Not measured", ["item", "why"], missing)


def lay_out(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table below its title; empty without rows."""
    escape: Callable[[str], str] = lambda text: text.replace("|", "\\|")  # noqa: E731
    lines = ["| " + " | ".join(map(escape, row)) + " |" for row in rows]
    rule = "|" + "---|" * len(headings)
    return "\n".join([f"**{title}**", "", "| " + " | ".join(headings) + " |", rule, *lines]) if lines else ""


def cell(value: Any) -> str:
    """A figure in three digits; lists and tables in one cell."""
    if value is None:
        return NOTHING
    if isinstance(value, dict):
        return ", ".join(f"{name}: {cell(part)}" for name, part in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(cell, value)) or "none"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}" if abs(value) >= 1 else f"{value:.3g}"


def precise(value: Any) -> str:
    """A loss in six digits."""
    return f"{value:.6g}" if isinstance(value, int | float) else NOTHING if value is None else str(value)
