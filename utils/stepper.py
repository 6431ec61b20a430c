"""Steps of training, whatever the model: accumulation, clipping, precision, progress, steps that fail.

A model is called through a given function and returns a dict of losses; `advance` is called after each step.
"""

import contextlib
import logging
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

from utils.epoch_log import EpochLog, Step, Sums
from utils.errors import UserError
from utils.optimization import LearningRate, clip_gradients
from utils.processes.distributed import gather_objects, is_main, max_over_processes, rank

logger = logging.getLogger(__name__)

LOOK_EVERY = 20  # steps between looks at the mean loss, for the progress bar
PATIENCE = 3  # steps in a row that may not be finite until the run ends


@dataclass(frozen=True)
class StepRules:
    """How losses become a step."""

    weights: Mapping[str, float]
    precision: Callable[[], AbstractContextManager]
    accumulate: int
    clip: float | None
    seed: int


@dataclass(frozen=True)
class Wishes:
    """What a process wants after the step under way: to end by a signal (its number), to save a checkpoint."""

    signal: int = 0
    save: bool = False


@dataclass(frozen=True)
class Trained:
    """A model in training.

    forward(batch, step, first) -> losses by name; `first` is True for the first micro-batch of a step. advance():
    after a step that was taken. describe(batch): which samples these are, for messages.
    """

    model: nn.Module
    forward: Callable[[Any, Step, bool], dict[str, Tensor]]
    advance: Callable[[], None]
    describe: Callable[[Any], str]


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


class Stepper:
    """Takes steps.

    failed: steps in a row that were not taken because something was not finite.
    """

    def __init__(self, trained: Trained, optimizer: Optimizer, schedule: LearningRate, rules: StepRules):
        self.trained, self.optimizer, self.schedule, self.rules = trained, optimizer, schedule, rules
        self.failed = 0

    def run_epoch(
        self,
        batches: Iterator[Any],
        start: Step,
        log: EpochLog,
        stop_after: int | None,
        wishes: Callable[[Step], Wishes],
        fulfil: Callable[[Step, Wishes], None],
    ) -> Step:
        """Train from `start` to the end of its epoch, or until the run has `stop_after` steps; returns the last place.

        wishes(step) is asked before each step is finished, fulfil(step, wishes) called after it with what any process
        wished for.

        Raises UserError when losses or gradients are not finite for PATIENCE steps in a row.
        """
        self.trained.model.train()
        left = start.iterations - start.iteration
        left = left if stop_after is None else min(left, stop_after - start.number)
        bar = tqdm(total=start.iterations, initial=start.iteration, desc=f"epoch {start.epoch}", disable=not is_main())
        step = start
        with log.running(), bar:
            for _ in range(left):
                granted = self.take_step(list(islice(batches, self.rules.accumulate)), step, log, wishes)
                step = step.next
                bar.update()
                if log.sums.count and (step.iteration % LOOK_EVERY == 0 or step.iteration == step.iterations):
                    bar.set_postfix(loss=f"{float(log.sums.values['total']) / log.sums.count:.3f}")
                fulfil(step, granted)
        return step

    def take_step(self, portion: list[Any], step: Step, log: EpochLog, wishes: Callable[[Step], Wishes]) -> Wishes:
        """One optimizer step over its micro-batches, or none on any process when one has a value that is not finite.

        Returns what the processes together wish for.
        """
        self.schedule.move_to(step.epoch, step.iteration, step.iterations)
        values = self.compute_gradients(portion, step)
        values["grad_norm"] = clip_gradients(self.trained.model, self.rules.clip)
        own, samples = wishes(step), sum(batch.size for batch in portion)
        sound = torch.stack(list(values.values())).isfinite().all()
        # the one place where a step waits for its device, and for the other processes
        broken, signal, save = max_over_processes([1 - sound.float(), own.signal, own.save], sound.device)
        if broken:
            self.skip_step(portion, values, step)
            log.skip(samples)
        else:
            self.failed = 0
            self.optimizer.step()
            self.trained.advance()
            log.add(values, step, self.optimizer.param_groups[0]["lr"], samples)
        self.optimizer.zero_grad(set_to_none=True)
        return Wishes(int(signal), bool(save))

    def compute_gradients(self, portion: list[Any], step: Step, share: bool = True) -> dict[str, Tensor]:
        """Gradients of the mean over micro-batches; returns the mean of each loss and of their weighted "total".

        share: average gradients over processes.
        """
        torch.manual_seed((self.rules.seed * 1_000_003 + step.number) * 4_099 + rank())  # dropout
        sums, model = Sums(), self.trained.model
        for number, batch in enumerate(portion):
            waits = isinstance(model, DistributedDataParallel) and (not share or number < len(portion) - 1)
            with model.no_sync() if waits else contextlib.nullcontext():
                with self.rules.precision():
                    values = self.trained.forward(batch, step, number == 0)
                total = sum(self.rules.weights[name] * value for name, value in values.items())
                (total / len(portion)).backward()
            sums.add({**values, "total": total})
        return {name: value / sums.count for name, value in sums.values.items()}

    def skip_step(self, portion: list[Any], values: Mapping[str, Tensor], step: Step) -> None:
        """Tell what was not finite and where; raises UserError when it happens too often."""
        broken = [name for name, value in values.items() if not value.isfinite() and name not in ("total", "grad_norm")]
        guilty = self.blame(broken, portion)
        if not guilty:  # the averaged gradient is the same on all processes: look at each one's own
            self.optimizer.zero_grad(set_to_none=True)
            self.compute_gradients(portion, step, share=False)
            own_norm = clip_gradients(self.trained.model, None)
            guilty = self.blame([] if own_norm.isfinite() else ["gradient"], portion)
        self.failed += 1
        problem = f"step {step.number} (epoch {step.epoch}): {' | '.join(guilty) or 'a gradient was not finite, once'}"
        if self.failed >= PATIENCE:
            raise UserError(
                f"training diverged: {self.failed} steps in a row were not finite; {problem}; lower optimizer.lr,"
                " set clip_grad_norm, or use precision fp32, and go on with --resume"
            )
        if is_main():
            logger.warning("skipped %s", problem)

    def blame(self, broken: list[str], portion: list[Any]) -> list[str]:
        """What was `broken` on which process, for the processes where anything was."""
        samples = "; ".join(self.trained.describe(batch) for batch in portion)
        own = f"process {rank()}: {', '.join(broken)} not finite for {samples}" if broken else ""
        return [text for text in gather_objects(own) if text]
