"""Optimizer steps, whatever the model: accumulation, precision, clipping, and steps that are not finite.

A model is called with the inputs of a micro-batch and returns its losses by name, and what is kept of the micro-batch
for after the step.

A device is given its work and not waited for: whether all values of a step are finite is known to it before the
optimizer begins, and to the processor later (`Stepper.settle`), when the device has the next step to compute.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from utils.errors import UserError
from utils.processes.distributed import gather_objects, is_main, max_over_processes, min_over_processes, rank
from utils.training.epoch_log import EpochLog, Step, Sums
from utils.training.learning_rate import LearningRate
from utils.training.optimization import clip_gradients

logger = logging.getLogger(__name__)

PATIENCE = 3  # steps in a row that may not be finite until the run ends
SUMMARIES = ("total", "grad_norm")  # values of a step that follow from others


@dataclass(frozen=True)
class StepRules:
    """How losses become a step.

    clip: the largest gradient norm, None = any. overwritten: what the model returns, and gradients of it, are
    overwritten when it is called again (CUDA graphs).
    """

    weights: Mapping[str, float]
    precision: Callable[[], AbstractContextManager]
    clip: float | None
    seed: int
    overwritten: bool = False


class Agreement(NamedTuple):
    """What all processes do after a step: signal: end by it (0 = none); save: write a checkpoint."""

    signal: int
    save: bool


def agree(signal: int, save: bool) -> Agreement:
    """What any process asks for, known to all. Processors tell each other; their devices are not waited for."""
    stop, due = max_over_processes([signal, save])
    return Agreement(int(stop), bool(due))


class LateFlag:
    """A scalar of a device, on its way to the processor: to read it waits for what the device had been given before."""

    def __init__(self, flag: Tensor):
        self.flag, self.arrival = flag, None
        if flag.device.type == "cuda":
            self.flag = torch.empty_like(flag, device="cpu", pin_memory=True).copy_(flag, non_blocking=True)
            self.arrival = torch.cuda.Event()
            self.arrival.record()

    def read(self) -> bool:
        """Whether it is not 0."""
        if self.arrival is not None:
            self.arrival.synchronize()
        return bool(self.flag)


@dataclass(frozen=True)
class UnderWay:
    """A step that the device was given. Everything here is a step's own.

    values: its scalars by name; taken: whether all of them are finite on all processes; samples: which, in words.
    """

    inputs: Sequence[tuple[Any, ...]]
    values: Mapping[str, Tensor]
    taken: LateFlag
    step: Step
    lr: float
    size: int
    samples: Callable[[], str]


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

    failed: steps in a row that were not taken because something was not finite. under_way: the last step, until it is
    known whether it was taken.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, schedule: LearningRate, rules: StepRules):
        self.model, self.optimizer, self.schedule, self.rules = model, optimizer, schedule, rules
        self.failed = 0
        self.under_way: UnderWay | None = None

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
                if self.rules.overwritten:
                    torch.compiler.cudagraph_mark_step_begin()
                with self.rules.precision(), explain_missing_kernel():
                    losses, entry = self.model(*given)
                if self.rules.overwritten:
                    entry = tree_map_only(Tensor, torch.clone, entry)
                total = sum(self.rules.weights[name] * value for name, value in losses.items())
                with explain_missing_kernel():
                    (total / len(inputs)).backward()
            sums.add({**losses, "total": total})
            kept.append(entry)
        return {**sums.mean_values, "grad_norm": clip_gradients(self.model, self.rules.clip)}, kept

    def synchronised(self, average: bool) -> AbstractContextManager:
        """Whether a backward pass within averages gradients over processes."""
        if isinstance(self.model, DistributedDataParallel) and not average:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def take_step(
        self, inputs: Sequence[tuple[Any, ...]], step: Step, size: int, samples: Callable[[], str], log: EpochLog
    ) -> tuple[list[Any], Tensor]:
        """Have a step of `size` samples computed and taken, if all is finite; the step before is settled meanwhile.

        Returns what is kept of each micro-batch, and a scalar: 1 = the step is taken, 0 = it leaves all as it was.
        """
        values, kept = self.compute_gradients(inputs, step)
        self.settle(log)
        finite = min_over_processes(torch.stack(list(values.values())).isfinite().all().float())
        self.update(finite)
        self.under_way = UnderWay(inputs, values, LateFlag(finite), step, self.lr, size, samples)
        return kept, finite

    def update(self, taken: Tensor) -> None:
        """Take the step whose gradients are there, if `taken` is 1; if it is 0, neither parameters nor moments move."""
        self.optimizer.found_inf = 1 - taken  # type: ignore[attr-defined]  # read by fused optimizers on their device
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def settle(self, log: EpochLog) -> None:
        """Log the step under way, if there is one, or say that it was not taken; waits until its device knows."""
        last, self.under_way = self.under_way, None
        if last is None:
            return
        if last.taken.read():
            self.failed = 0
            log.add(last.values, last.step, last.lr, last.size)
        else:
            log.skip(last.size)
            self.report(last)

    def report(self, last: UnderWay) -> None:
        """Say of a step that was not taken what was not finite on which process, in which samples.

        Raises UserError after PATIENCE such steps in a row, or when a parameter is not finite: no step mends that, and
        what follows a parameter by 0 times a distance does not stay as it was.
        """
        broken = [name for name, value in last.values.items() if not value.isfinite() and name not in SUMMARIES]
        samples, step = last.samples(), last.step
        parameters = [f"parameter {name}" for name in self.broken_parameters()]
        if guilty := blame(parameters, samples):
            raise UserError(
                f"training cannot go on after step {step.number} (epoch {step.epoch}): {' | '.join(guilty)};"
                " continue with --resume from what was saved before"
            )
        guilty = blame(broken, samples)
        if not guilty:  # the averaged gradient is the same on all processes: look at each one's own
            with self.gradients_aside():
                own, _ = self.compute_gradients(last.inputs, step, share=False)
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

    def broken_parameters(self) -> list[str]:
        """Names of parameters that are learned and not finite; no step that was taken makes one."""
        learned = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        return [name.removeprefix("module.") for name, parameter in learned if not parameter.isfinite().all()]

    @contextlib.contextmanager
    def gradients_aside(self) -> Iterator[None]:
        """Gradients that are there return when the block ends; within, there are none."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters]
        if self.rules.overwritten:
            gradients = [None if gradient is None else gradient.clone() for gradient in gradients]
        self.optimizer.zero_grad(set_to_none=True)
        yield
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


@contextlib.contextmanager
def explain_missing_kernel() -> Iterator[None]:
    """Within, an operation that has no deterministic kernel, where these are asked for, is a UserError."""
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        name = str(error).split()[0]
        raise UserError(f"config: `deterministic`: {name} has no deterministic kernel; set it to false") from error


def blame(broken: list[str], samples: str) -> list[str]:
    """What was `broken` on which process, for the processes where anything was."""
    own = f"process {rank()}: {', '.join(broken)} not finite for {samples}" if broken else ""
    return [text for text in gather_objects(own) if text]
