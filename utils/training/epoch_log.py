"""What an epoch looked like: means of losses, curves, throughput; part of a checkpoint, so that none of it is lost."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from utils.processes.distributed import mean_over_processes

PORTIONS = 20  # points of the curves of an epoch


@dataclass(frozen=True)
class Step:
    """Where a run stands: epoch and iteration in it (both 0-based), iterations of an epoch, step of the run.

    iteration = iterations: all steps of the epoch are taken, and its evaluation is not done.
    """

    epoch: int
    iteration: int
    iterations: int
    number: int

    @property
    def next(self) -> "Step":
        return Step(self.epoch, self.iteration + 1, self.iterations, self.number + 1)

    @property
    def next_epoch(self) -> "Step":
        return Step(self.epoch + 1, 0, self.iterations, self.number)


class Sums:
    """Sums of named scalars, kept on the device so that no step waits for them."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.totals = torch.empty(0)
        self.count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Scalars that have the same names every time."""
        added = torch.stack([value.detach().float() for value in values.values()])
        self.names, self.totals = tuple(values), self.totals + added if self.count else added
        self.count += 1

    @property
    def mean_values(self) -> dict[str, Tensor]:
        """Means over what was added on this process, by name; not waited for."""
        return dict(zip(self.names, (self.totals / max(self.count, 1)).unbind(), strict=True))

    def means(self) -> dict[str, float]:
        """Means over what was added, on all processes alike."""
        if not self.names:
            return {}
        return dict(zip(self.names, mean_over_processes(self.totals / self.count).tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """For `restored`: sums as a mean over processes."""
        totals = mean_over_processes(self.totals.clone()).tolist() if self.names else []
        return {"count": self.count, "values": dict(zip(self.names, totals, strict=True))}

    @classmethod
    def restored(cls, state: Mapping[str, Any], device: torch.device) -> "Sums":
        sums = cls()
        sums.count = int(state["count"])
        sums.names = tuple(state["values"])
        sums.totals = torch.tensor([float(value) for value in state["values"].values()], device=device)
        return sums


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
        lists: dict[str, list[float]] = {"epoch": [], "step": [], "lr": []}
        for step, lr, sums in self.portions.values():
            epoch = step.epoch + (step.iteration + 1) / step.iterations
            for name, value in {"epoch": epoch, "step": step.number + 1, "lr": lr, **sums.means()}.items():
                lists.setdefault(name, []).append(value)
        return lists


class EpochLog:
    """Gathers an epoch's steps; `samples` and `seconds` count this process, evaluation aside."""

    def __init__(self) -> None:
        self.sums, self.curves = Sums(), Curves()
        self.samples, self.skipped = 0, 0
        self.before = 0.0  # seconds of training up to the last start
        self.began: float | None = None  # the last start

    def add(self, values: Mapping[str, Tensor], step: Step, lr: float, samples: int) -> None:
        """A step with its losses by name, "total" and "grad_norm"."""
        self.sums.add(values)
        self.curves.add(values, step, lr)
        self.samples += samples

    def skip(self, samples: int) -> None:
        """A step that was not taken."""
        self.skipped += 1
        self.samples += samples

    def mean_loss(self) -> str:
        """The mean of the weighted sum of losses so far, for a progress bar; waits for the device."""
        return f"{float(self.sums.mean_values['total']):.3f}" if self.sums.count else "-"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time within is training time."""
        self.began = time.perf_counter()
        try:
            yield
        finally:
            self.before, self.began = self.seconds, None

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return self.before + (0.0 if self.began is None else time.perf_counter() - self.began)

    def record(self, step: Step, lr: float) -> dict[str, Any]:
        """The epoch's line in the log, when the run stands at `step`."""
        seconds = self.seconds
        means = self.sums.means()
        norm = means.pop("grad_norm", 0.0)
        skipped = {"skipped_steps": self.skipped} if self.skipped else {}
        return {
            "epoch": step.epoch,
            "steps": step.number,
            "train": means,
            "lr": lr,
            "grad_norm": norm,
            **skipped,
            "seconds": round(seconds, 3),
            "samples_per_second": round(self.samples / max(seconds, 1e-9), 2),
            "curve": self.curves.record(),
        }

    def state(self) -> dict[str, Any]:
        """For a checkpoint; all processes take part."""
        portions = [
            {"number": number, "step": list(astuple(step)), "lr": lr, "sums": sums.state()}
            for number, (step, lr, sums) in self.curves.portions.items()
        ]
        counts = {"samples": self.samples, "skipped": self.skipped, "seconds": self.seconds}
        return {"sums": self.sums.state(), "portions": portions, **counts}

    @classmethod
    def restored(cls, state: Mapping[str, Any], device: torch.device) -> "EpochLog":
        """Raises KeyError, TypeError or ValueError when `state` is none."""
        log = cls()
        log.sums = Sums.restored(state["sums"], device)
        for portion in state["portions"]:
            step = Step(*map(int, portion["step"]))
            sums = Sums.restored(portion["sums"], device)
            log.curves.portions[int(portion["number"])] = step, float(portion["lr"]), sums
        log.samples, log.skipped = int(state["samples"]), int(state["skipped"])
        log.before = float(state["seconds"])
        return log
