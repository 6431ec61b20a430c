"""What a training step is made of on the device: its kernels, and the ways to launch or join them."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks.full_size import SPECIAL
from benchmarks.gpu.bench import Bench, words_of
from benchmarks.gpu.steps import StepTaker
from benchmarks.measure import finish_queued
from models.build import compile_model
from models.person_search import PersonSearchModel
from utils.training.optimization import clip_gradients

BUSIEST = 40  # kernels that are listed


@dataclass(frozen=True)
class KernelFigures:
    """Kernels of a step (on a CPU: operations), the time for which they keep the device busy, and that of the step.

    busiest: [name, how often, milliseconds together], the longest first.
    """

    batch: int
    words: int
    kernels: int
    busy_ms: float
    ms: float
    busiest: list[tuple[str, int, float]]


def count_kernels(bench: Bench, size: int, precision: str) -> KernelFigures:
    """By torch's profiler, over one step; `ms` is taken without it."""
    size = bench.batch_size(size)
    taker = StepTaker(bench, bench.inputs(size), precision)
    times = bench.time_calls(taker.step, repeats=3)
    activity = ProfilerActivity.CUDA if bench.on_cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        taker.step()
        finish_queued()
    wanted = "CUDA" if bench.on_cuda else "CPU"
    events = [one for one in profiler.events() if one.device_type.name == wanted and not one.is_user_annotation]
    by_name: dict[str, list[float]] = defaultdict(list)
    for one in events:
        by_name[one.name[:100]].append(milliseconds_of(one))
    spent = sorted(((name, len(ms), sum(ms)) for name, ms in by_name.items()), key=lambda kernel: -kernel[2])
    busy = sum(ms for _, _, ms in spent)
    return KernelFigures(size, words_of(taker.batch), len(events), busy, times.ms, spent[:BUSIEST])


def milliseconds_of(event: FunctionEvent) -> float:
    """Of a kernel, or of an operation on a CPU without those that it calls."""
    microseconds = event.self_cpu_time_total if event.device_type.name == "CPU" else event.time_range.elapsed_us()
    return microseconds / 1e3


@dataclass(frozen=True)
class GraphFigures:
    """Forward and backward as one CUDA graph: of a replay alone, and of a step with optimizer and momentum model.

    total: the weighted sum of losses of the first replay, with dropout.
    """

    batch: int
    words: int
    replay_ms: float
    ms: float
    host_ms: float
    samples_per_second: float
    total: float


def measure_graph(bench: Bench, size: int, precision: str) -> GraphFigures:
    """Needs CUDA."""
    size = bench.batch_size(size)
    taker = StepTaker(bench, bench.inputs(size), precision)
    graph, total = capture(taker)
    graph.replay()
    first = total.item()
    replay = bench.time_calls(graph.replay)

    def step() -> None:
        graph.replay()
        clip_gradients(taker.model, None)
        taker.optimizer.step()
        taker.model.follow(taker.model.objective.momentum)

    times = bench.time_calls(step)
    taker.model.zero_grad(set_to_none=True)  # gradients lie in the memory of the graph
    samples = 1e3 * size / times.ms
    return GraphFigures(size, words_of(taker.batch), replay.ms, times.ms, times.host_ms, samples, first)


def capture(taker: StepTaker) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A graph that writes gradients, and the weighted sum of losses that it writes too.

    Kernels choose their ways in calls on another stream before, as torch asks for.
    """

    def both() -> Tensor:
        found, _ = taker.losses()
        total = taker.total_of(found)
        total.backward()
        return total.detach()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            taker.model.zero_grad(set_to_none=True)
            both()
    torch.cuda.current_stream().wait_stream(side)
    taker.model.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total = both()
    return graph, total


@dataclass(frozen=True)
class CompiledFigures:
    """A step with `compile`: the first one, with which kernels are written, and those after it.

    total: as in `StepFigures`.
    """

    batch: int
    words: int
    first_s: float
    ms: float
    host_ms: float
    samples_per_second: float
    total: float


def measure_compiled(bench: Bench, how: str, size: int, precision: str) -> CompiledFigures:
    """Needs CUDA, for which torch writes other kernels than for a CPU. how: "layers", the whole "step", or its
    CUDA "graphs"."""
    batch, draws = bench.inputs(bench.batch_size(size))
    if how != "layers":
        batch = batch.with_few_shapes(SPECIAL.pad, bench.config.bert_config.max_position_embeddings)
    with compiled(bench.model, how):
        taker = StepTaker(bench, (batch, draws), precision)

        def step() -> None:
            if how == "graphs":
                torch.compiler.cudagraph_mark_step_begin()
            totals.append(taker.step())

        totals: list[Tensor] = []
        began = time.perf_counter()
        step()
        finish_queued()
        first = time.perf_counter() - began
        times = bench.time_calls(step)
    samples = 1e3 * batch.size / times.ms
    return CompiledFigures(batch.size, words_of(taker.batch), first, times.ms, times.host_ms, samples, totals[2].item())


@contextmanager
def compiled(model: PersonSearchModel, how: str) -> Iterator[None]:
    """Within, a model is compiled as in training with `compile`, or with `cuda_graphs`."""
    if how == "graphs":
        compile_model(model, "step", cuda_graphs=True)
    else:
        compile_model(model, how)
    try:
        yield
    finally:
        for module in model.modules():
            module._compiled_call_impl = None
