"""Batches on a GPU against those in main memory; skips, saying so, where there is no GPU."""

from dataclasses import fields
from functools import partial

import pytest
import torch

from benchmarks.loader import draw_training_set
from dataset.batch import TextTokens, TrainBatch
from dataset.batch_plan import BatchPlan
from dataset.train_set import TrainLoader
from models.randomness import StepNoise

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")
GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    made = draw_training_set(tmp_path_factory.mktemp("images"), 40, (384, 384))
    made.noise = partial(StepNoise.draw, 0, tokens=12, patches=6)
    return made


def tensors(batch: TrainBatch) -> dict[str, torch.Tensor]:
    """All that a batch holds on its device, by name."""
    found = {}
    for part in fields(batch):
        value = getattr(batch, part.name)
        if isinstance(value, TextTokens):
            found |= {f"{part.name}.ids": value.ids, f"{part.name}.mask": value.mask}
        elif isinstance(value, torch.Tensor):
            found[part.name] = value
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_were_copied_ahead_are_those_of_main_memory(data, workers):
    plan = BatchPlan(len(data), 8, 0, 1, seed=0)
    plain, ahead = TrainLoader(data, plan, 0, False), TrainLoader(data, plan, workers, True, GPU)
    slow = torch.randn(4096, 4096, device=GPU)
    for epoch in range(2):
        seen = []
        for batch in ahead.epoch(epoch):
            for _ in range(20):  # the device falls behind, and memory of used batches is free for others
                slow = (slow @ slow).clamp(-1, 1)
            seen.append({name: tensor.clone() for name, tensor in tensors(batch).items()})
            assert batch.noise.mlm.is_pinned()
            del batch
        for expected, found in zip(plain.epoch(epoch), seen, strict=True):
            for name, tensor in tensors(expected).items():
                assert found[name].is_cuda and torch.equal(found[name].cpu(), tensor), (epoch, name)
    ahead.close()


def test_taking_a_batch_does_not_wait_for_the_device(data):
    loader = TrainLoader(data, BatchPlan(len(data), 8, 0, 1, seed=0), 2, True, GPU)
    batches = loader.epoch(0)
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = next(batches)  # raises where it waits
    finally:
        torch.cuda.set_sync_debug_mode("default")
    loader.close()
    assert batch.image1.is_cuda
