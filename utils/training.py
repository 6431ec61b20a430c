"""One epoch of steps, whatever the model: accumulation, clipping, precision, progress, sums of losses.

A model is called as `model(batch)` through the given function and returns a dict of losses.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from tqdm import tqdm

from utils.distributed import is_main, mean_over_processes, rank
from utils.errors import UserError
from utils.optimization import LearningRate, clip_gradients

LOOK_EVERY = 20  # steps between looks at the losses; each look waits for the device
PORTIONS = 20  # points of the curves of an epoch


@dataclass(frozen=True)
class Step:
    """Where a run stands: epoch and iteration in it (both 0-based), iterations of an epoch, step of the run."""

    epoch: int
    iteration: int
    iterations: int
    number: int


@dataclass(frozen=True)
class StepRules:
    """How losses become a step."""

    weights: Mapping[str, float]
    precision: Callable[[], AbstractContextManager]
    accumulate: int
    clip: float | None
    seed: int


class Sums:
    """Sums of named scalars, kept on the device so that no step waits for them."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self.count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        self.count += 1
        for name, value in values.items():
            held = self.values.get(name)
            self.values[name] = value.detach().float() if held is None else held + value.detach()

    def means(self) -> dict[str, float]:
        """Means over what was added, on all processes alike."""
        if not self.values:
            return {}
        stacked = mean_over_processes(torch.stack(list(self.values.values())) / self.count)
        return dict(zip(self.values, stacked.tolist(), strict=True))


class Curves:
    """Means of the steps' scalars over equal portions of an epoch, for the log."""

    def __init__(self) -> None:
        self.portions: dict[int, tuple[Step, float, Sums]] = {}  # by number: last step, learning rate, sums

    def add(self, values: Mapping[str, Tensor], step: Step, lr: float) -> None:
        """The scalars of `step`, which was taken with this learning rate."""
        number = step.iteration * PORTIONS // step.iterations
        sums = self.portions[number][-1] if number in self.portions else Sums()
        sums.add(values)
        self.portions[number] = step, lr, sums

    def record(self) -> dict[str, list[float]]:
        """Lists with one value per portion: "epoch" and "step" trained by its end, "lr", and the means by name."""
        means = [sums.means() for _, _, sums in self.portions.values()]
        lists: dict[str, list[float]] = {"epoch": [], "step": [], "lr": [], **{name: [] for name in means[0]}}
        for (step, lr, _), values in zip(self.portions.values(), means, strict=True):
            epoch = step.epoch + (step.iteration + 1) / step.iterations
            for name, value in {"epoch": epoch, "step": step.number + 1, "lr": lr, **values}.items():
                lists[name].append(value)
        return lists


def wrap(model: nn.Module, device: torch.device, world: int, some_unused: bool) -> nn.Module:
    """The model as it is called in training: synchronised between processes when there are several."""
    if world == 1:
        return model
    return DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        forward_sync_buffers=False,
        find_unused_parameters=some_unused,
        gradient_as_bucket_view=True,
    )


def run_epoch(
    model: nn.Module,
    forward: Callable[[Any, Step, bool], dict[str, Tensor]],
    batches: Iterator[Any],
    optimizer: Optimizer,
    schedule: LearningRate,
    rules: StepRules,
    start: Step,
    stop_after: int | None,
) -> tuple[Step, dict[str, Any]]:
    """Train from `start` to the end of its epoch, or until the run has `stop_after` steps.

    forward(batch, step, first) -> losses by name; `first` is True for the first micro-batch of a
    step. Returns where the run stands now and the epoch's record for the log.

    Raises UserError when the loss is no longer finite.
    """
    model.train()
    sums, curves, began, samples = Sums(), Curves(), time.perf_counter(), 0
    last = start.iterations if stop_after is None else min(
        start.iterations, start.iteration + stop_after - start.number
    )
    bar = tqdm(total=start.iterations, initial=start.iteration, desc=f"epoch {start.epoch}", disable=not is_main())
    step = start
    while step.iteration < last:
        torch.manual_seed((rules.seed * 1_000_003 + step.number) * 4_099 + rank())  # dropout
        schedule.move_to(step.epoch, step.iteration, step.iterations)
        portion = list(islice(batches, rules.accumulate))
        values = take_step(model, forward, portion, optimizer, rules, step)
        samples += sum(batch.size for batch in portion)
        sums.add(values)
        curves.add(values, step, optimizer.param_groups[0]["lr"])
        step = Step(step.epoch, step.iteration + 1, step.iterations, step.number + 1)
        bar.update()
        if step.iteration % LOOK_EVERY == 0 or step.iteration == last:
            look(sums, bar, step)
    bar.close()
    record = make_record(step, sums.means(), optimizer, time.perf_counter() - began, samples)
    return step, {**record, "curve": curves.record()}


def take_step(
    model: nn.Module,
    forward: Callable[[Any, Step, bool], dict[str, Tensor]],
    portion: list[Any],
    optimizer: Optimizer,
    rules: StepRules,
    step: Step,
) -> dict[str, Tensor]:
    """One optimizer step over its micro-batches; returns losses, their total and the gradient norm."""
    sums = Sums()
    for number, batch in enumerate(portion):
        is_last = number == len(portion) - 1
        waits = isinstance(model, DistributedDataParallel) and not is_last
        with model.no_sync() if waits else contextlib.nullcontext():
            with rules.precision():
                values = forward(batch, step, number == 0)
            total = sum(rules.weights[name] * value for name, value in values.items())
            (total / len(portion)).backward()
        sums.add({**values, "total": total})
    norm = clip_gradients(model, rules.clip)
    optimizer.step()
    (model.module if isinstance(model, DistributedDataParallel) else model).advance()
    optimizer.zero_grad(set_to_none=True)
    return {name: value / sums.count for name, value in sums.values.items()} | {"grad_norm": norm}


def look(sums: Sums, bar: tqdm, step: Step) -> None:
    """Show the mean loss; stop a run that has diverged."""
    total = float(sums.values["total"]) / sums.count
    bar.set_postfix(loss=f"{total:.3f}")
    if not math.isfinite(total):
        broken = [name for name, value in sums.values.items() if not math.isfinite(float(value))]
        raise UserError(
            f"training diverged by step {step.number}: {', '.join(broken)} not finite; lower optimizer.lr,"
            " set clip_grad_norm, or use precision fp32"
        )


def make_record(
    step: Step, means: dict[str, float], optimizer: Optimizer, seconds: float, samples: int
) -> dict[str, Any]:
    """The epoch's line in the log; `samples_per_second` counts this process."""
    norm = means.pop("grad_norm", 0.0)
    return {
        "epoch": step.epoch,
        "steps": step.number,
        "train": means,
        "lr": optimizer.param_groups[0]["lr"],
        "grad_norm": norm,
        "seconds": round(seconds, 3),
        "samples_per_second": round(samples / max(seconds, 1e-9), 2),
    }
