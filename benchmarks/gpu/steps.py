"""Training steps: by precision and batch, as published, and as training takes them."""

import os
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.full_size import drawn_lengths, make_batch
from benchmarks.gpu.bench import ALPHA, Bench, words_of
from benchmarks.gpu.machine import ROOT, as_loaded
from benchmarks.gpu.timing import time_once
from benchmarks.measure import MIB
from benchmarks.published_step import PublishedStep
from dataset.batch import LoadedBatch, TrainBatch
from models.randomness import RandomDraws
from models.training_step import QueueEntry
from utils.device import Autocast
from utils.precision import set_precision
from utils.training.epoch_log import EpochLog, Step
from utils.training.learning_rate import CosineRate
from utils.training.optimization import clip_gradients
from utils.training.stepper import Stepper, StepRules

LENGTHS = 4  # batches of other longest captions that a step is taken on
SEED = 42


@dataclass(frozen=True)
class StepFigures:
    """A step of forward, backward, gradient norm, AdamW, queues and momentum model, with dropout.

    words: tokens of the longest caption. ms, host_ms: until the device is done, until the processor has given it all
    work. tflop: of the matrix products of a step, peak_share: of what products of large matrices reach in that
    precision; of the project's own step alone. losses, gradient_norm: of the first step, without dropout, so that
    ways can be compared; total: the weighted sum of losses of the third step, with dropout.
    """

    batch: int
    words: int
    ms: float
    host_ms: float
    samples_per_second: float
    tflop: float | None
    peak_share: float | None
    peak_mib: float | None
    losses: dict[str, float]
    gradient_norm: float
    total: float


class StepTaker:
    """Takes the same step again and again."""

    def __init__(self, bench: Bench, inputs: tuple[TrainBatch, RandomDraws], precision: str):
        (self.model, self.optimizer), self.weights = bench.restart(), bench.config.weights
        self.batch, self.draws = inputs
        self.precision: Autocast = set_precision(precision, bench.device)

    def losses(self) -> tuple[Mapping[str, Tensor], QueueEntry | None]:
        """Losses by name, and what enters the queues."""
        with self.precision():
            return self.model(self.batch, self.draws, ALPHA)

    def gradients(self) -> tuple[Mapping[str, Tensor], QueueEntry | None]:
        """Forward and backward."""
        found, queued = self.losses()
        self.total_of(found).backward()
        return found, queued

    def total_of(self, found: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of losses."""
        return torch.stack([self.weights[name] * value for name, value in found.items()]).sum()

    def update(self, queued: QueueEntry | None) -> None:
        """What follows the backward pass."""
        clip_gradients(self.model, None)
        self.optimizer.step()
        if queued is not None:
            self.model.advance([queued])

    def step(self) -> Tensor:
        """A whole step; returns the weighted sum of losses."""
        found, queued = self.gradients()
        self.update(queued)
        self.optimizer.zero_grad(set_to_none=True)
        return self.total_of({name: value.detach() for name, value in found.items()})

    def compared(self) -> tuple[dict[str, float], float]:
        """Losses by name and the norm of their gradient without dropout; the step is not taken."""
        self.model.eval()
        found, _ = self.gradients()
        norm = clip_gradients(self.model, None)
        self.optimizer.zero_grad(set_to_none=True)
        self.model.train()
        return {name: value.item() for name, value in found.items()}, norm.item()


class PublishedStepTaker(StepTaker):
    """The published formulation, with torch's own choice of how AdamW goes through parameters."""

    def __init__(self, bench: Bench, inputs: tuple[TrainBatch, RandomDraws], precision: str):
        super().__init__(bench, inputs, precision)
        kept = ("params", "lr", "weight_decay", "betas", "eps")
        groups = [{name: group[name] for name in kept} for group in self.optimizer.param_groups]
        self.optimizer = torch.optim.AdamW(groups)

    def losses(self) -> tuple[Mapping[str, Tensor], QueueEntry | None]:
        with self.precision():
            return PublishedStep(self.model, self.batch, self.draws, ALPHA).losses(), None

    def update(self, queued: QueueEntry | None) -> None:
        self.optimizer.step()


def measure_step(bench: Bench, size: int, precision: str, published: bool = False) -> StepFigures:
    size = bench.batch_size(size)
    inputs = bench.inputs(size)
    taker = (PublishedStepTaker if published else StepTaker)(bench, inputs, precision)
    totals: list[Tensor] = []
    losses, norm = taker.compared()
    if published:  # whose forward pass moves queues and momentum model
        bench.restart()
    if bench.on_cuda:
        torch.cuda.reset_peak_memory_stats()
    times = bench.time_calls(lambda: totals.append(taker.step()))
    tflop = None if published else bench.tera_flop(size)
    peak = bench.peaks.get(precision)
    return StepFigures(
        batch=size,
        words=words_of(taker.batch),
        ms=times.ms,
        host_ms=times.host_ms,
        samples_per_second=1e3 * size / times.ms,
        tflop=tflop,
        peak_share=tflop / (times.ms / 1e3) / peak if tflop and peak else None,
        peak_mib=torch.cuda.max_memory_allocated() / MIB if bench.on_cuda else None,
        losses=losses,
        gradient_norm=norm,
        total=totals[2].item(),
    )


@dataclass(frozen=True)
class TrainingFigures:
    """A step as training takes it: batches from pinned memory, random draws, finite or not, log.

    ms: median of steps on lengths of captions that were met before; new_length_ms: of each batch of a new longest
    caption (words). syncs: where a step waits for the device, and how often; None where it is not known.
    """

    batch: int
    words: list[int]
    ms: float
    new_length_ms: list[float]
    samples_per_second: float
    total: float
    syncs: dict[str, int] | None


def measure_training(bench: Bench, size: int, precision: str) -> TrainingFigures:
    """The steps of `Retrieval.py` without its loader."""
    size = bench.batch_size(size)
    noise = bench.model.noise_source(SEED)
    batches = [as_loaded(make_batch(bench.config, size, drawn_lengths, number), noise) for number in range(LENGTHS + 1)]
    batches = [batch.pin_memory() for batch in batches] if bench.on_cuda else batches
    take, log = training_step_of(bench, precision), EpochLog()
    first, *others = batches
    for _ in range(2):
        take(first, log)
    fresh, again = ([time_once(partial(take, batch, log)).ms for batch in others] for _ in range(2))
    ms = statistics.median(again)
    return TrainingFigures(
        batch=size,
        words=[words_of(batch) for batch in others],
        ms=ms,
        new_length_ms=fresh,
        samples_per_second=1e3 * size / ms,
        total=log.record(Step(0, 1, 1, 1), 0.0)["train"]["total"],
        syncs=count_syncs(lambda: take(first, log)) if bench.on_cuda else None,
    )


def training_step_of(bench: Bench, precision: str) -> Callable[[LoadedBatch, EpochLog], None]:
    """What takes a step on a batch in main memory, in the order of `Retrieval.py:Trainer.train_step`."""
    (model, optimizer), config = bench.restart(), bench.config
    rules = StepRules(config.weights, set_precision(precision, bench.device), config.clip_grad_norm, SEED)
    stepper = Stepper(model, optimizer, CosineRate(optimizer, config.schedular), rules)
    step = Step(0, 0, 1000, 0)

    def take(batch: LoadedBatch, log: EpochLog) -> None:
        nonlocal step
        stepper.schedule.move_to(step.epoch, step.iteration, step.iterations)
        given = batch.to(bench.device)
        inputs = [(given, model.make_draws(batch.noise, given.caption).to(bench.device), ALPHA)]
        queued, taken = stepper.take_step(inputs, step, batch.size, lambda: "made-up samples", log)
        model.advance(queued, taken)
        step = step.next

    return take


def count_syncs(function: Callable[[], Any]) -> dict[str, int]:
    """Lines from which a call waits for the device, with how often (CUDA)."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = [one for one in caught if "called a synchronizing" in str(one.message)]
    return dict(Counter(f"{short_path(one.filename)}:{one.lineno}" for one in found))


def short_path(file: str) -> str:
    """Within the repository, or within the packages that are installed."""
    return file.split("site-packages/")[-1].removeprefix(f"{ROOT}{os.sep}")
