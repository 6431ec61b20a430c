"""Losses that are means over what all processes have, such as over all masked words of a batch."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.losses import Mean
from utils.processes.distributed import mean_over_processes


def take_means(found: Mapping[str, Tensor | Mean]) -> dict[str, Tensor]:
    """Losses by name as scalars; how many values the means are over is counted on all processes by one call."""
    means = [loss for loss in found.values() if isinstance(loss, Mean)]
    numbers = iter(mean_over_processes(torch.stack([mean.number.float() for mean in means])) if means else ())
    return {name: loss if isinstance(loss, Tensor) else loss.over(next(numbers)) for name, loss in found.items()}
