"""What a system is made of, and what the driver's loop asks of one in training."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from configs.schema import Config
from dataset.train_set import TrainLoader
from models.search_model import SearchModel
from utils.device import Autocast
from utils.training.epoch_log import Step
from utils.training.learning_rate import LearningRate


@dataclass(frozen=True)
class TrainingSetting:
    """What a training is opened with.

    precision: makes an autocast context. folder: of the run, where what is found of the data is kept; None = nothing
    is, for a look at it. skipped: images that the interrupted run left out; None = look for them.
    """

    config: Any  # of the system
    device: torch.device
    precision: Autocast
    seed: int
    folder: Path | None = None
    skipped: Sequence[str] | None = None


class Training(ABC):
    """A model in training: its batches, its optimizer, and what its steps are given.

    A step calls the model with the `inputs` of each micro-batch; it returns unweighted losses by name, and what is kept
    of the micro-batch for `advance`. some_unused: whether parameters that learn may get no gradient in a step.
    """

    model: SearchModel
    loader: TrainLoader[Any]
    optimizer: Optimizer
    schedule: LearningRate
    some_unused: bool = False

    def begin(self) -> None:  # noqa: B027  (most have nothing to do)
        """A new run begins, none is resumed."""

    def prepare_folder(self, folder: Path) -> None:  # noqa: B027
        """Leave in the folder of a run, on the main process, what other programs use beside its checkpoints."""

    def open_epoch(self, step: Step) -> None:  # noqa: B027
        """Before the steps of an epoch that are left, on all processes; its first one is due if iteration is 0."""

    @abstractmethod
    def inputs(self, batch: Any, step: Step) -> tuple[Any, ...]:
        """What the model is called with, of a micro-batch on its device."""

    def advance(self, kept: list[Any], taken: Tensor) -> None:  # noqa: B027
        """After a step, from what its micro-batches left; taken: 1 = it was taken, 0 = it was not finite."""

    def record(self) -> dict[str, Any]:
        """What the log of an epoch says beside losses."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold to resume from, beside the model and its optimizer."""
        return {}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:  # noqa: B027
        """Take what `state` gave from a checkpoint (with its "path"). Raises UserError when it does not fit."""

    @abstractmethod
    def describe(self) -> list[str]:
        """For a look at a run before it starts: the shapes of a batch, the memory of a step."""


def as_it_is(config: Config, saved: Mapping[str, Any]) -> Config:
    """A configuration leaves nothing open."""
    return config


@dataclass(frozen=True)
class System:
    """How a system is made of a configuration.

    config: the keys it has. open_tokenizer: from the configuration, the checkpoint if any, and whether it is for
    training, what reads captions. fit: from these two and whether it is for training, the configuration with what
    follows from tokenizer and data. build: from the configuration and special tokens, a model freshly initialised.
    load: takes all weights that search needs from a checkpoint (with its "path") into a model. start: from a model, a
    checkpoint if any and the configuration, what a new run begins with. open_training: from a setting, the model and
    the tokenizer. follow: from the configuration and what a checkpoint records of its own (`saved_config`), the
    configuration with what of the architecture it leaves open. All raise UserError where something does not fit.
    """

    config: type[Config]
    open_tokenizer: Callable[..., Any]
    fit: Callable[..., Any]
    build: Callable[..., Any]
    load: Callable[..., Any]
    start: Callable[..., Any]
    open_training: Callable[..., Training]
    follow: Callable[[Any, Mapping[str, Any]], Any] = as_it_is
