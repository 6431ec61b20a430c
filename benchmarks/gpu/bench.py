"""What all items share: the device, and a model of published size with its optimizer."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.full_size import TINY, configuration, drawn_lengths, flop_of, make_batch, make_draws, make_model
from benchmarks.gpu.timing import Times, time_calls
from configs.schema import MarsConfig
from dataset.batch import Samples, TrainBatch
from models.kernels import recompute
from models.person_search import PersonSearchModel
from models.randomness import RandomDraws
from utils.training.optimization import make_optimizer

ALPHA = 0.4  # as published
SMALL_BATCH = 4  # at most, of a quick measurement
LONGEST = 12.0  # seconds for calls that are timed together


class Bench:
    """MARS as published, with dropout; tiny when `quick`.

    peaks: TFLOP/s of square products by precision, gallery_rate: images encoded per second by precision, both as far
    as they were measured.
    """

    def __init__(self, device: torch.device, quick: bool):
        self.device, self.quick = device, quick
        self.config: MarsConfig = configuration(False, *(TINY if quick else ()), dropout=True)
        self.peaks: dict[str, float] = {}
        self.gallery_rate: dict[str, float] = {}
        self.work: dict[int, float] = {}

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def model(self) -> PersonSearchModel:
        with self.device:
            return make_model(self.config)

    @cached_property
    def initial(self) -> dict[str, Tensor]:
        """Parameters and queues that every way of computing a step starts from, in main memory."""
        return {name: value.to("cpu", copy=True) for name, value in self.model.state_dict().items()}

    def restart(self) -> tuple[PersonSearchModel, Optimizer]:
        """The model in training and its optimizer, as if nothing had been trained."""
        model = self.model
        model.load_state_dict(self.initial)
        model.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        parameters = model.named_parameters()
        return model.train(), make_optimizer(parameters, self.config.optimizer, model.fast(), model.undecayed())

    def batch_size(self, size: int) -> int:
        return min(size, SMALL_BATCH) if self.quick else size

    def time_calls(self, function: Callable[[], Any], repeats: int = 5, warm_up: int = 2) -> Times:
        """Medians over calls, of one call when `quick`."""
        return time_calls(function, 0.0 if self.quick else LONGEST, repeats, warm_up)

    def inputs(self, size: int) -> tuple[TrainBatch, RandomDraws]:
        """A batch with captions of drawn lengths, and its random draws, on the device."""
        batch = make_batch(self.config, size, drawn_lengths)
        draws = make_draws(self.model, batch)
        return batch.to(self.device), draws.to(self.device)

    def tera_flop(self, size: int) -> float:
        """TFLOP of the matrix products of a step on `inputs(size)`; nothing computed again counts."""
        if size not in self.work:
            with torch.device("meta"):
                model = make_model(self.config).train()
            with keeping_all():
                batch = make_batch(self.config, size, drawn_lengths)
                draws = make_draws(model, batch)
                self.work[size] = flop_of(model, batch, draws, ALPHA) / 1e12
        return self.work[size]


@contextmanager
def keeping_all(wanted: bool = True) -> Iterator[None]:
    """Within, the backward pass computes nothing again that could be kept."""
    before = recompute.WORTHWHILE
    recompute.WORTHWHILE = sys.maxsize if wanted else before
    try:
        yield
    finally:
        recompute.WORTHWHILE = before


def words_of(batch: Samples) -> int:
    """Tokens of the longest caption of a batch."""
    return max(batch.caption.ids.shape[1], batch.caption2.ids.shape[1])
