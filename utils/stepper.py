"""Optimizer steps, whatever the model: accumulation, precision, clipping, and steps that are not finite.

A model is called with the inputs of a micro-batch and returns its losses by name, and what is kept of the micro-batch
for after the step.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from utils.epoch_log import Step, Sums
from utils.errors import UserError
from utils.optimization import LearningRate, clip_gradients
from utils.processes.distributed import gather_objects, is_main, max_over_processes, rank

logger = logging.getLogger(__name__)

PATIENCE = 3  # steps in a row that may not be finite until the run ends


@dataclass(frozen=True)
class StepRules:
    """How losses become a step. clip: the largest gradient norm, None = any."""

    weights: Mapping[str, float]
    precision: Callable[[], AbstractContextManager]
    clip: float | None
    seed: int


class Agreement(NamedTuple):
    """What all processes do after a step: finite: take it; signal: end by it (0 = none); save: write a checkpoint."""

    finite: bool
    signal: int
    save: bool


def agree(values: Mapping[str, Tensor], signal: int, save: bool) -> Agreement:
    """What any process met or asks for, known to all: the one place where a step waits for its device and the others.

    values: the scalars of the step, which must be finite to take it; signal, save: as in `Agreement`, of this process.
    """
    finite = torch.stack(list(values.values())).isfinite().all()
    broken, stop, due = max_over_processes([1 - finite.float(), signal, save], finite.device)
    return Agreement(not broken, int(stop), bool(due))


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
    """The optimizer's side of a training step.

    failed: steps in a row that were not taken because something was not finite.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, schedule: LearningRate, rules: StepRules):
        self.model, self.optimizer, self.schedule, self.rules = model, optimizer, schedule, rules
        self.failed = 0

    @property
    def lr(self) -> float:
        """The learning rate of most parameters."""
        return self.optimizer.param_groups[0]["lr"]

    def compute_gradients(
        self, inputs: Sequence[tuple[Any, ...]], step: Step, share: bool = True
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """Gradients of the mean over micro-batches, clipped.

        Returns the mean of each loss, of their weighted "total" and the "grad_norm", and what is kept of each
        micro-batch. share: average gradients over processes.
        """
        torch.manual_seed((self.rules.seed * 1_000_003 + step.number) * 4_099 + rank())  # dropout
        sums, kept = Sums(), []
        for number, given in enumerate(inputs):
            with self.synchronised(share and number == len(inputs) - 1):
                with self.rules.precision():
                    losses, entry = self.model(*given)
                total = sum(self.rules.weights[name] * value for name, value in losses.items())
                (total / len(inputs)).backward()
            sums.add({**losses, "total": total})
            kept.append(entry)
        values = {name: value / sums.count for name, value in sums.values.items()}
        return {**values, "grad_norm": clip_gradients(self.model, self.rules.clip)}, kept

    def synchronised(self, average: bool) -> AbstractContextManager:
        """Whether a backward pass within averages gradients over processes."""
        if isinstance(self.model, DistributedDataParallel) and not average:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def update(self) -> None:
        """Take the step whose gradients are there."""
        self.optimizer.step()
        self.failed = 0
        self.optimizer.zero_grad(set_to_none=True)

    def skip(self, inputs: Sequence[tuple[Any, ...]], values: Mapping[str, Tensor], step: Step, samples: str) -> None:
        """Leave out a step, and say what was not finite on which process, in which of its `samples`.

        Raises UserError after PATIENCE such steps in a row.
        """
        broken = [name for name, value in values.items() if not value.isfinite() and name not in ("total", "grad_norm")]
        guilty = blame(broken, samples)
        self.optimizer.zero_grad(set_to_none=True)
        if not guilty:  # the averaged gradient is the same on all processes: look at each one's own
            own, _ = self.compute_gradients(inputs, step, share=False)
            self.optimizer.zero_grad(set_to_none=True)
            guilty = blame([] if own["grad_norm"].isfinite() else ["gradient"], samples)
        self.failed += 1
        problem = f"step {step.number} (epoch {step.epoch}): {' | '.join(guilty) or 'a gradient was not finite, once'}"
        if self.failed >= PATIENCE:
            raise UserError(
                f"training diverged: {self.failed} steps in a row were not finite; {problem}; lower optimizer.lr,"
                " set clip_grad_norm, or use precision fp32, and continue with --resume"
            )
        if is_main():
            logger.warning("skipped %s", problem)


def blame(broken: list[str], samples: str) -> list[str]:
    """What was `broken` on which process, for the processes where anything was."""
    own = f"process {rank()}: {', '.join(broken)} not finite for {samples}" if broken else ""
    return [text for text in gather_objects(own) if text]
