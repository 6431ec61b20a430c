"""Which training pairs are clean, told anew before every epoch (RDE section 3.3).

Letters: N training pairs.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataset.batch_plan import BatchPlan
from dataset.train_set import TrainLoader
from models.clip.division import MixtureSettings, divide, draw_coins
from models.clip.rde import EMBEDDINGS, RDE
from utils.device import Autocast
from utils.processes.distributed import from_main, is_main, sum_over_processes


def divide_pairs(
    model: RDE, loader: TrainLoader[Any], epoch: int, precision: Autocast, mixture: MixtureSettings, seed: int
) -> Tensor:
    """The pairs that count as clean in an epoch: bool [N] in main memory, the same on all processes."""
    losses = losses_of_pairs(model, loader, epoch, precision)
    coins = draw_coins(seed, epoch, len(loader.data))
    return from_main(divide(losses["bge"], losses["tse"], coins, mixture).label)


@torch.no_grad()
def losses_of_pairs(model: RDE, loader: TrainLoader[Any], epoch: int, precision: Autocast) -> dict[str, Tensor]:
    """The loss of every pair by each embedding, float64 [N] in main memory, on all processes.

    In batches as training has them, shuffled and augmented, by a model in evaluation mode, as published. A pair that
    fills up the last batch has the mean of its losses.
    """
    plan = loader.plan
    assert isinstance(plan, BatchPlan)
    sums = torch.zeros(len(EMBEDDINGS) + 1, len(loader.data), dtype=torch.float64)
    requests = list(plan.every_sample(epoch))
    training = model.training
    model.eval()
    for batch in tqdm(loader.read(requests), "losses of pairs", len(requests), leave=False, disable=not is_main()):
        with precision():
            found = model.pair_losses(model.normalised(batch))
        added = torch.stack([*(found[name].double() for name in EMBEDDINGS), torch.ones_like(found["bge"]).double()])
        sums.index_add_(1, batch.index.cpu(), added.cpu())
    model.train(training)
    *totals, counts = sum_over_processes(sums.to(loader.device)).cpu()
    return {name: total / counts for name, total in zip(EMBEDDINGS, totals, strict=True)}


def shares_of(clean: Tensor, truly: np.ndarray | None) -> dict[str, float]:
    """For a log: the share of pairs that count as clean and, where it is known which are [N], how right that is.

    noisy_right: of the pairs that count as noisy, those that are; noisy_found: of those that are, those that count so.
    """
    shares = {"clean": float(clean.double().mean())}
    if truly is None:
        return shares
    called, noisy = ~clean.numpy(), ~truly
    right = int((called & noisy).sum())
    return {**shares, "noisy_right": right / max(1, called.sum()), "noisy_found": right / max(1, noisy.sum())}
