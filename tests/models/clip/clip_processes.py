"""One of several processes that share a batch: writes losses and gradients, averaged over all of them.

torchrun ... clip_processes.py FOLDER
"""

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_clip import SIZE, batch

from dataset.batch import MaskedCaptions, PairBatch
from models.clip.irra import IRRA, IrraSettings
from models.clip.rde import RDE, RdeSettings
from utils.processes.distributed import mean_over_processes, rank, world_size
from utils.processes.handover import map_leaves


def models() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    irra = IrraSettings(("sdm", "mlm", "id", "itc", "cmpm"), classes=3, cross_heads=2, cross_depth=1)
    return {"irra": IRRA(SIZE, irra), **{loss: RDE(SIZE, RdeSettings(loss, width=8)) for loss in ("TAL", "SDM")}}


def whole_batch() -> PairBatch:
    """Six samples, of which the first half has fewer masked words and clean pairs than the second."""
    given = batch((0, 1, 1, 2, 0, 1))
    labels = given.masked.labels.clone()
    labels[:2] = 0
    masked, clean = MaskedCaptions(given.masked.ids, labels), torch.tensor([0.0, 0, 1, 1, 1, 1])
    return replace(given, masked=masked, clean=clean)


def share(given: PairBatch) -> PairBatch:
    """What this process has of a batch."""
    count = given.size // world_size()
    rows = slice(rank() * count, (rank() + 1) * count)
    return map_leaves(given, lambda part: part[rows])


def results() -> dict[str, dict[str, torch.Tensor]]:
    """Losses and gradients by model and name, as the mean of all processes."""
    found, given = {}, share(whole_batch())
    for name, model in models().items():
        losses = model.train().compute_losses(given)
        sum(losses.values()).backward()
        learned = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
        found[name] = {key: mean_over_processes(value.detach().clone()) for key, value in {**losses, **learned}.items()}
    return found


def main() -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    torch.save(results(), Path(sys.argv[1], f"{dist.get_rank()}.pt"))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
