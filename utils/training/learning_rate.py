"""The course of learning rates over a run: that of MARS and RaSa, and that of IRRA and RDE.

Epochs and iterations are counted from 0.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from pydantic import Field

from utils.config import Count, Fraction, NotNegative, Positive, Section, Whole


class ScheduleSettings(Section):
    """What every schedule is configured by.

    steps: the run has so many, whatever epochs they make, and the schedule of `epochs` is drawn over them.
    """

    epochs: Count = 30
    steps: Count | None = None
    warmup_epochs: Whole = 1

    @property
    def all_epochs(self) -> int | None:
        """Epochs of the run; None = as many as `steps` make."""
        return self.epochs if self.steps is None else None

    @property
    def by_step(self) -> bool:
        """Whether rates move with every step, and not by epoch."""
        return False

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Pairs (key, what is wrong) for values that do not fit each other."""
        if self.steps is not None and not self.by_step:
            yield "steps", "rates must move with every step then; set `schedular.sched` to cosine_step"

    def position(self, epoch: int, iteration: int, iterations: int) -> float:
        """Where the schedule is before this iteration of `iterations` in this epoch, in epochs."""
        if self.steps is not None:
            return self.epochs * (epoch * iterations + iteration) / self.steps
        return epoch + iteration / iterations if self.by_step else epoch

    @property
    def unread_rate(self) -> float | None:
        """A learning rate that a file names, and that changes nothing: the rate is the optimizer's."""
        return None


class Schedule(ScheduleSettings):
    """Learning rate. `cosine` moves by epoch as published, `cosine_step` by step.

    `lr` and `decay_rate` are in published files and change nothing: the rate is the optimizer's, and
    decay belongs to cycles after the first, which there is none of.
    """

    sched: Literal["cosine", "cosine_step"] = "cosine"
    lr: Positive | None = None
    min_lr: NotNegative = 1e-6
    decay_rate: Fraction = 1
    warmup_lr: NotNegative = 1e-5
    cooldown_epochs: Whole = 0

    @property
    def all_epochs(self) -> int | None:
        """Those after the cosine's end included."""
        return self.epochs + self.cooldown_epochs if self.steps is None else None

    @property
    def by_step(self) -> bool:
        return self.sched == "cosine_step"

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().conflicts()
        if self.steps is not None and self.cooldown_epochs:
            yield "steps", f"the run ends with them; leave out `schedular.cooldown_epochs` {self.cooldown_epochs}"

    @property
    def unread_rate(self) -> float | None:
        return self.lr


class FactorSchedule(ScheduleSettings):
    """One factor for the learning rates of all parameters, which differ (IRRA, RDE).

    `cosine` and `step` move by epoch as published, `cosine_step` by step: a linear rise from warmup_factor to 1, then
    half a cosine down to min_lr, or times gamma at each of the milestones.
    """

    sched: Literal["cosine", "cosine_step", "step"] = "cosine"
    epochs: Count = 60
    min_lr: NotNegative = 0.0
    warmup_epochs: Whole = 5
    warmup_factor: Fraction = 0.1
    milestones: list[Count] = Field(default=[20, 50])
    gamma: Positive = 0.1

    @property
    def by_step(self) -> bool:
        return self.sched == "cosine_step"

    def factor(self, done: float) -> float:
        """What learning rates are multiplied with after so many epochs."""
        if done < self.warmup_epochs:
            return self.warmup_factor + (1 - self.warmup_factor) * done / self.warmup_epochs
        if self.sched == "step":
            return self.gamma ** bisect_right(sorted(self.milestones), done)
        falling = max(1, self.epochs - self.warmup_epochs)
        return (1 + math.cos(math.pi * min(1.0, (done - self.warmup_epochs) / falling))) / 2

    def rate(self, full: float, done: float) -> float:
        """A learning rate after so many epochs, `full` where the factor is 1. Only half the cosine ends at min_lr."""
        least = 0.0 if self.sched == "step" or done < self.warmup_epochs else self.min_lr
        return least + (full - least) * self.factor(done)


class LearningRate(ABC):
    """Sets the learning rates of an optimizer's groups before each step."""

    @abstractmethod
    def move_to(self, epoch: int, iteration: int, iterations: int) -> None:
        """Set the learning rates for this iteration of `iterations` in this epoch."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as released ones have it; nothing is restored from it."""
        return {}


class CosineRate(LearningRate):
    """timm's cosine schedule at the published positions.

    by_step False: position e + warmup_epochs for epoch e > 0, and in epoch 0 iteration // 100 up to
    warmup_epochs. by_step True: epochs as a fraction, moving with every step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: Schedule):
        from timm.scheduler.cosine_lr import CosineLRScheduler  # slow to import, and evaluation does not need it

        self.settings = settings
        self.schedule = CosineLRScheduler(
            optimizer,
            t_initial=settings.epochs,
            lr_min=settings.min_lr,
            cycle_decay=settings.decay_rate,
            warmup_lr_init=settings.warmup_lr,
            warmup_t=settings.warmup_epochs,
        )

    def state(self) -> dict[str, Any]:
        return self.schedule.state_dict()

    def position(self, epoch: int, iteration: int, iterations: int) -> float:
        warmup = self.settings.warmup_epochs
        if self.settings.by_step:
            return self.settings.position(epoch, iteration, iterations)
        return epoch + warmup if epoch > 0 else min(iteration // 100, warmup)

    def move_to(self, epoch: int, iteration: int, iterations: int) -> None:
        position = self.position(epoch, iteration, iterations)
        self.schedule.step(cast(int, position))  # timm says int, and interpolates fractions


class FactorRate(LearningRate):
    """Each group's own learning rate, as a `FactorSchedule` has it move."""

    def __init__(self, optimizer: torch.optim.Optimizer, settings: FactorSchedule):
        self.optimizer, self.settings = optimizer, settings
        self.full = [group["lr"] for group in optimizer.param_groups]

    def move_to(self, epoch: int, iteration: int, iterations: int) -> None:
        done = self.settings.position(epoch, iteration, iterations)
        for group, full in zip(self.optimizer.param_groups, self.full, strict=True):
            group["lr"] = self.settings.rate(full, done)
