"""All that is measured, the most valuable first."""

from functools import partial

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.kernels import count_kernels, measure_compiled, measure_graph
from benchmarks.gpu.layers import SHAPES, measure_attention, measure_lengths, measure_scan
from benchmarks.gpu.machine import measure_peaks, measure_transfer
from benchmarks.gpu.record import Item
from benchmarks.gpu.reranking import measure_gallery, measure_published_rerank, measure_rerank
from benchmarks.gpu.steps import measure_step, measure_training


def items_of(bench: Bench) -> list[Item]:
    """Items in their order; the figures of some (peaks, gallery) are part of those of later ones.

    RaSa was published with batches of 52, 13 on each of four GPUs; MARS with 8 on each.
    """
    items = [
        Item("peaks", 8, partial(measure_peaks, bench)),
        *(step(bench, size, precision) for size, precision in ((8, "bf16"), (52, "bf16"), (8, "tf32"), (8, "fp32"))),
        *(published(bench, size) for size in (8, 13)),
        *(training(bench, size) for size in (52, 8)),
        *(kernels(bench, size) for size in (52, 8)),
        *(step(bench, size, "bf16") for size in (13, 32, 64, 128)),
        Item("gallery/bf16", 6, partial(measure_gallery, bench, "bf16")),
        rerank(bench, "bf16", same=False),
        rerank(bench, "bf16", same=True),
        Item("rerank/published", 12, partial(measure_published_rerank, bench)),
        *(Item(f"attention/{name}", 5, partial(measure_attention, bench, name)) for name in SHAPES),
        Item("new_lengths", 8, partial(measure_lengths, bench)),
        step(bench, 52, "tf32"),
        Item("transfer", 3, partial(measure_transfer, bench), needs_cuda=True),
        Item("scan", 10, partial(measure_scan, bench)),
        *(graph(bench, size) for size in (8, 13, 52)),  # which may break what follows
        *(compiled(bench, "layers", size) for size in (8, 52)),
        *(compiled(bench, "step", size) for size in (52, 8)),
        *(compiled(bench, "graphs", size) for size in (8, 13)),
        *(step(bench, size, "tf32") for size in (13, 32, 64, 128)),
        published(bench, 32),
        Item("gallery/fp32", 8, partial(measure_gallery, bench, "fp32")),
        rerank(bench, "fp32", same=False),
        *(step(bench, size, "fp32") for size in (52, 13, 32, 64, 128)),
    ]
    return [Item(one.name, 1, one.measure, one.needs_cuda) for one in items] if bench.quick else items


def step(bench: Bench, size: int, precision: str) -> Item:
    """Most of its time goes into counting operations and, in float32, into large batches."""
    seconds = 8 + (size / 5 if precision == "fp32" else size / 20)
    return Item(f"step/{precision}/{size}", seconds, partial(measure_step, bench, size, precision))


def published(bench: Bench, size: int) -> Item:
    """In float32, as it was trained."""
    return Item(f"published/fp32/{size}", 6 + size / 2, partial(measure_step, bench, size, "fp32", published=True))


def training(bench: Bench, size: int) -> Item:
    return Item(f"training/bf16/{size}", 10, partial(measure_training, bench, size, "bf16"))


def kernels(bench: Bench, size: int) -> Item:
    return Item(f"kernels/bf16/{size}", 12, partial(count_kernels, bench, size, "bf16"))


def rerank(bench: Bench, precision: str, same: bool) -> Item:
    name = f"rerank/{precision}/{'same' if same else 'own'}"
    return Item(name, 12 if precision == "bf16" else 25, partial(measure_rerank, bench, precision, same))


def graph(bench: Bench, size: int) -> Item:
    return Item(f"graph/bf16/{size}", 10, partial(measure_graph, bench, size, "bf16"), needs_cuda=True)


def compiled(bench: Bench, how: str, size: int) -> Item:
    """Most of its time goes into writing kernels."""
    seconds = 70 if how == "layers" else 180
    measure = partial(measure_compiled, bench, how, size, "bf16")
    return Item(f"compiled/bf16/{size}/{how}", seconds, measure, needs_cuda=True)
