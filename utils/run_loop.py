"""A run from its first step to its last, whatever the model: epochs, evaluation, checkpoints, signals.

All that is random in a run is made from its seed and the place of a step or sample, and no state of a generator is
needed to go on: the parameters, the optimizer and the place are all. So a run that was killed and resumed ends with
the same bits as one that was not.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from utils.checkpoints.run_folder import RunFolder
from utils.epoch_log import EpochLog, Step
from utils.errors import UserError
from utils.logs import RunLog
from utils.optimization import load_moments
from utils.processes.distributed import barrier, is_main, on_main
from utils.processes.interruption import Interruption, Stopped
from utils.stepper import Stepper, Wishes


@dataclass(frozen=True)
class RunPlan:
    """How long a run is, and what it leaves.

    iterations: optimizer steps of an epoch, of `accumulate` micro-batches each; max_steps: of the run, None = all;
    eval_epoch: the first that is evaluated (0-based; the last always is); checkpoint_minutes, checkpoint_steps:
    between checkpoints within an epoch, None = at its end alone.
    """

    epochs: int
    iterations: int
    accumulate: int
    max_steps: int | None
    eval_epoch: int
    checkpoint_minutes: float | None
    checkpoint_steps: int | None
    seed: int


@dataclass(frozen=True)
class Job:
    """What is trained.

    batches(epoch, skip): micro-batches of an epoch but for the first `skip`; evaluate(): metrics by split, and the
    score that the best epoch has most of; content(): the model and what belongs to it, for a checkpoint.
    """

    batches: Callable[[int, int], Iterator[Any]]
    evaluate: Callable[[], tuple[dict[str, Any], float]]
    content: Callable[[], dict[str, Any]]


class RunLoop:
    """The epoch loop and what it carries from step to step.

    step: where the run stands; log: of the epoch under way; evaluated: whether what was trained up to there is
    evaluated and logged; metrics: of the last evaluation, None when there was none.
    """

    def __init__(self, folder: RunFolder, stepper: Stepper, plan: RunPlan, job: Job, interruption: Interruption):
        self.folder, self.stepper, self.plan, self.job, self.interruption = folder, stepper, plan, job, interruption
        self.step, self.log, self.evaluated = Step(0, 0, plan.iterations, 0), EpochLog(), True
        self.best, self.best_epoch, self.metrics = -1.0, -1, None
        self.saved_at = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether all steps are taken."""
        most, epochs = self.plan.max_steps, self.step.epoch + (self.step.iteration == self.plan.iterations)
        return epochs >= self.plan.epochs or (most is not None and self.step.number >= most)

    def run(self) -> None:
        """All that is left of the run; leaves checkpoints and the log in its folder."""
        first_logged = self.step.epoch + (self.evaluated and self.step.iteration > 0)
        writer = RunLog(self.folder.path, first_logged, self.step.number) if is_main() else None
        try:
            while not (self.finished and self.evaluated):
                if not self.finished and self.step.iteration < self.plan.iterations:
                    self.take_steps()
                self.close_epoch(writer)
        except Stopped as stopped:  # by a signal that met no step
            raise Stopped(stopped.number, stopped.kept or self.kept()) from None
        if writer:
            writer.close()

    # ---- steps ---------------------------------------------------------------------

    def take_steps(self) -> None:
        """The steps that are left of the epoch. A signal ends the run after the step under way, which is kept."""
        batches = self.job.batches(self.step.epoch, self.step.iteration * self.plan.accumulate)
        with self.interruption.deferred():
            self.stepper.run_epoch(batches, self.step, self.log, self.plan.max_steps, self.wishes, self.fulfil)
            self.save()

    def wishes(self, step: Step) -> Wishes:
        """What this process wants after the step under way."""
        minutes, steps = self.plan.checkpoint_minutes, self.plan.checkpoint_steps
        overdue = minutes is not None and is_main() and time.monotonic() - self.saved_at >= 60 * minutes
        return Wishes(self.interruption.received, overdue or (steps is not None and (step.number + 1) % steps == 0))

    def fulfil(self, step: Step, granted: Wishes) -> None:
        """After a step: save, or save and end the run."""
        self.step, self.evaluated = step, False
        if granted.signal or granted.save:
            self.save()
        if granted.signal:
            raise Stopped(granted.signal, self.kept())

    def kept(self) -> str:
        """What a run that ends now has in its last checkpoint, for messages; nothing before its first step."""
        return f" after step {self.step.number}; go on with --resume" if self.step.number else ""

    # ---- the end of an epoch -------------------------------------------------------

    def close_epoch(self, writer: RunLog | None) -> None:
        """Evaluate what was trained, log it, and stand at the beginning of the next epoch."""
        record = self.log.record(self.step, self.stepper.optimizer.param_groups[0]["lr"])
        self.metrics = self.select() if self.step.epoch >= self.plan.eval_epoch or self.finished else None
        with self.interruption.deferred():
            if writer:
                writer.add({**record, **(self.metrics or {})})
            self.evaluated = True
            if self.step.iteration == self.plan.iterations:
                self.step, self.log = self.step.next_epoch, EpochLog()
            self.save()

    def select(self) -> dict[str, Any]:
        """Evaluate; keep the model when it is the best so far."""
        metrics, score = self.job.evaluate()
        if score > self.best:
            self.best, self.best_epoch = score, self.step.epoch
            if is_main():
                self.folder.save_best({**self.content(), "metrics": metrics})
            barrier()
        return metrics

    # ---- checkpoints ---------------------------------------------------------------

    def content(self) -> dict[str, Any]:
        """What every checkpoint holds; "epoch" is the last one trained."""
        trained = self.step.epoch if self.step.iteration else self.step.epoch - 1
        return {**self.job.content(), "epoch": trained, "step": self.step.number}

    def save(self) -> None:
        """Write all that the run is resumed from."""
        log = self.log.state()  # of all processes
        if is_main():
            self.folder.save_last(
                {
                    **self.content(),
                    "optimizer": self.stepper.optimizer.state_dict(),
                    "lr_scheduler": self.stepper.schedule.schedule.state_dict(),
                    "failed": self.stepper.failed,
                    "next_epoch": self.step.epoch,
                    "next_iteration": self.step.iteration,
                    "iterations": self.plan.iterations,
                    "evaluated": self.evaluated,
                    "epoch_log": log,
                    "best": self.best,
                    "best_epoch": self.best_epoch,
                    "metrics": self.metrics,
                    "seed": self.plan.seed,
                }
            )
        self.saved_at = time.monotonic()
        barrier()

    def take_up(self, checkpoint: dict[str, Any]) -> None:
        """Continue where a checkpoint stopped, all but the model, which has its parameters already.

        The best epoch so far counts where its file is.

        Raises UserError when the checkpoint is of a run with other steps, or the finished one of another folder.
        """
        where, optimizer = checkpoint["path"], self.stepper.optimizer
        try:
            load_moments(optimizer, checkpoint["optimizer"])
            epoch, iteration, number = (int(checkpoint[key]) for key in ("next_epoch", "next_iteration", "step"))
            best, best_epoch = float(checkpoint["best"]), int(checkpoint["best_epoch"])
            self.log = EpochLog.restored(checkpoint["epoch_log"], optimizer.param_groups[0]["params"][0].device)
            self.stepper.failed, self.evaluated = int(checkpoint["failed"]), checkpoint["evaluated"]
            if not isinstance(self.evaluated, bool):
                raise TypeError(f"evaluated is {self.evaluated!r}")
            self.metrics, of_run, seed = checkpoint["metrics"], int(checkpoint["iterations"]), int(checkpoint["seed"])
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"checkpoint {where} does not hold this run's state: {error}") from None
        iterations = self.plan.iterations
        if (iteration and of_run != iterations) or not 0 <= iteration <= iterations:
            raise UserError(
                f"checkpoint {where} stopped after step {iteration} of {of_run} in an epoch, which here has"
                f" {iterations}; resume with batch_size_train, accumulate_steps and processes of its run"
            )
        if seed != self.plan.seed:
            raise UserError(f"checkpoint {where} is of a run with --seed {seed}; resume with that")
        self.step = Step(epoch, iteration, iterations, number)
        if number:  # rates are as the last step left them
            self.stepper.schedule.move_to(*((epoch, iteration - 1) if iteration else (epoch - 1, of_run - 1)), of_run)
        if on_main(self.folder.holds_best)():
            self.best, self.best_epoch = best, best_epoch
        elif self.finished and self.evaluated:
            raise UserError(
                f"the run of checkpoint {where} is finished, and {self.folder.path} does not hold its"
                " checkpoint_best.pth; name its own folder as --output_dir, or raise schedular.epochs or max_steps"
            )
