"""Where a run stands, as a checkpoint holds it beside the model and its optimizer.

All that is random in a run is made from its seed and the index of a step or sample, and no state of a generator is
needed to resume it: the parameters, the optimizer and where the run stands are all. So a run that was killed and
resumed ends with the same bits as one that was not.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from utils.checkpoints.fields import CheckpointFields, read_fields
from utils.checkpoints.run_folder import settings_of_run
from utils.errors import UserError
from utils.processes.distributed import is_main
from utils.training.epoch_log import EpochLog, Step
from utils.training.optimization import load_moments
from utils.training.stepper import Stepper


class RunFields(CheckpointFields):
    """What a checkpoint must hold of a run to resume it, model aside."""

    optimizer: dict[str, Any]
    next_epoch: int
    next_iteration: int
    iterations: int
    step: int
    failed: int
    evaluated: bool
    epoch_log: dict[str, Any]
    best: float
    best_epoch: int
    metrics: dict[str, Any] | None
    seed: int


class CheckpointClock:
    """When a checkpoint within an epoch is due: so many minutes after the last one, or with every so many steps."""

    def __init__(self, minutes: float | None, steps: int | None):
        self.minutes, self.steps = minutes, steps
        self.start()

    def start(self) -> None:
        """From now on minutes count, as a checkpoint was just written."""
        self.started = time.monotonic()

    def is_due(self, step: Step) -> bool:
        """Whether one is, with this step; time is that of the main process."""
        overdue = self.minutes is not None and is_main() and time.monotonic() - self.started >= 60 * self.minutes
        return overdue or (self.steps is not None and (step.number + 1) % self.steps == 0)


@dataclass
class RunState:
    """What a run carries from step to step.

    step: where it stands; log: of the epoch under way; evaluated: whether what was trained so far is evaluated and
    logged; best, best_epoch: score and number of the best epoch; metrics: of the last evaluation, if any.
    """

    step: Step
    log: EpochLog = field(default_factory=EpochLog)
    evaluated: bool = True
    best: float = -1.0
    best_epoch: int = -1
    metrics: dict[str, Any] | None = None

    @classmethod
    def at_start(cls, iterations: int) -> "RunState":
        """A new run, of so many steps an epoch."""
        return cls(Step(0, 0, iterations, 0))

    @property
    def kept(self) -> str:
        """What a run that ends now has in its last checkpoint, for messages; nothing before its first step."""
        return f" after step {self.step.number}; continue with --resume" if self.step.number else ""

    @property
    def epoch_done(self) -> bool:
        """Whether all steps of the epoch are taken."""
        return self.step.iteration == self.step.iterations

    @property
    def trained_epoch(self) -> int:
        """The last epoch that was trained, in part at least."""
        return self.step.epoch if self.step.iteration else self.step.epoch - 1

    @property
    def first_logged(self) -> int:
        """The first epoch that will be logged from here on."""
        return self.step.epoch + (self.evaluated and self.step.iteration > 0)

    def finished(self, epochs: int | None, steps: int | None) -> bool:
        """Whether all steps of a run of so many epochs, or steps, are taken; None = no such end."""
        by_epochs = epochs is not None and self.step.epoch + self.epoch_done >= epochs
        return by_epochs or (steps is not None and self.step.number >= steps)

    def close_epoch(self) -> None:
        """What was trained is evaluated and logged; the next epoch begins, if all steps of this one are taken."""
        self.evaluated = True
        if self.epoch_done:
            self.step, self.log = self.step.next_epoch, EpochLog()

    def forget_best(self) -> None:
        """The file of the best epoch is not there: the next one evaluated is the best."""
        self.best, self.best_epoch = -1.0, -1

    def content(self, stepper: Stepper, seed: int) -> dict[str, Any]:
        """For a checkpoint to resume from; all processes take part."""
        return {
            "optimizer": stepper.optimizer.state_dict(),
            "lr_scheduler": stepper.schedule.state(),
            "failed": stepper.failed,
            "next_epoch": self.step.epoch,
            "next_iteration": self.step.iteration,
            "iterations": self.step.iterations,
            "evaluated": self.evaluated,
            "epoch_log": self.log.state(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "metrics": self.metrics,
            "seed": seed,
        }

    def restore(self, checkpoint: Mapping[str, Any], stepper: Stepper, seed: int) -> None:
        """Stand where a checkpoint stopped, the optimizer with its moments; the model has its parameters already.

        Raises UserError when the checkpoint is of a run with other steps or another seed.
        """
        where, iterations = checkpoint["path"], self.step.iterations
        found = read_fields(RunFields, checkpoint, where)
        epoch, iteration, of_run = found.next_epoch, found.next_iteration, found.iterations
        try:
            load_moments(stepper.optimizer, found.optimizer)
            device = stepper.optimizer.param_groups[0]["params"][0].device
            self.log = EpochLog.restored(found.epoch_log, device)
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"checkpoint {where} does not hold this run's state: {error}") from None
        if (iteration and of_run != iterations) or not 0 <= iteration <= iterations:
            raise UserError(
                f"checkpoint {where} stopped after step {iteration} of {of_run} in an epoch, which here has"
                f" {iterations} (see batch_size_train, accumulate_steps, number of processes); {settings_of_run(where)}"
            )
        if found.seed != seed:
            raise UserError(f"checkpoint {where} is of a run with --seed {found.seed}; leave out --seed to resume it")
        self.step, self.evaluated, self.metrics = (
            Step(epoch, iteration, iterations, found.step),
            found.evaluated,
            found.metrics,
        )
        self.best, self.best_epoch, stepper.failed = found.best, found.best_epoch, found.failed
        if found.step:  # rates are as the last step left them
            before = (epoch, iteration - 1) if iteration else (epoch - 1, of_run - 1)
            stepper.schedule.move_to(*before, of_run)
