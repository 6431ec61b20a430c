"""Ways to make training batches, side by side: as it was done at first, as it is done, and from an image cache.

Letters: G samples of all processes.
"""

import random
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import in_turn, ratio_of
from dataset.attributes import attribute_ids
from dataset.augmentation import draw_mirrored
from dataset.batch import LoadedBatch, TextTokens
from dataset.batch_plan import BatchRequest, Plan
from dataset.image_cache import open_image_cache
from dataset.tokens import pad_batch
from dataset.train_set import TrainLoader, TrainSet
from models.randomness import StepNoise

BATCH = 32
EVERYONE = (BATCH, 4096)  # G of one process, and of 64 GPUs with 64 samples each
NOISE = partial(StepNoise.draw, 0, tokens=512, patches=576)  # of BERT's positions, and ViT-B/16 at 384x384


class FirstWay(TrainSet):
    """Batches of a training set as they were made at first: captions of all processes tokenised for each batch, images
    handed over twice, the noise of the step left to the main process."""

    def __init__(self, data: TrainSet, spans: Mapping[str, list]):
        vars(self).update(vars(data))
        self.spans = spans
        self.written: dict[int, list[str]] = {}
        for sample in self.samples:
            self.written.setdefault(sample.identity, []).append(sample.caption)

    def __getstate__(self) -> dict[str, object]:
        return vars(self)

    def make_batch(self, request: BatchRequest) -> LoadedBatch:
        samples = [self.samples[index] for index in request.own]
        views, second = [], []
        for index, sample in zip(request.own, samples, strict=True):
            rng = random.Random(f"{self.seed}/{request.epoch}/{index}")
            image = self.files.load(self.image[index])
            views.append([image.flip(-1) if draw_mirrored(rng) else image for _ in range(2)])
            replaced = rng.random() < self.weak_probability
            second.append(rng.choice(self.written[sample.identity]) if replaced else sample.caption)
        first = [self.samples[index].caption for index in request.everyone]
        encoded = {caption: self.encode(caption) for caption in dict.fromkeys((*first, *second))}
        longest = max(len(encoded[caption].ids) for caption in first)
        texts = [encoded[caption] for caption in second]
        numbers = [
            attribute_ids(self.spans.get(caption, []), text.offsets, len(text.ids))
            for caption, text in zip(second, texts, strict=True)
        ]
        own = [encoded[sample.caption].ids for sample in samples]
        return LoadedBatch(
            views=torch.stack([torch.stack([view[number] for view in views]) for number in range(2)]),
            mirrored=torch.zeros(len(samples), 2, dtype=torch.bool),
            caption=TextTokens(*pad_batch(own, self.pad_id, longest)),
            caption2=TextTokens(*pad_batch([text.ids for text in texts], self.pad_id)),
            attributes=pad_batch(numbers, 0)[0],
            attribute_count=max(map(max, numbers)),
            identity=torch.tensor([sample.identity for sample in samples]),
            replaced=torch.tensor([int(a.caption != b) for a, b in zip(samples, second, strict=True)]),
            index=torch.tensor(request.own),
        )


@dataclass(frozen=True)
class RandomPlan(Plan):
    """Batches of so many samples, of `everyone` on all processes, drawn from `samples` with replacement."""

    samples: int
    everyone: int
    batches: int

    def __len__(self) -> int:
        return self.batches

    def requests(self, epoch: int, skip: int = 0) -> Iterator[BatchRequest]:
        rng = np.random.default_rng(epoch)
        for _ in range(skip, self.batches):
            drawn = tuple(rng.integers(0, self.samples, self.everyone).tolist())
            yield BatchRequest(epoch, drawn, slice(0, BATCH))


def ways(data: TrainSet, spans: Mapping[str, list], folder: Path) -> dict[str, TrainSet]:
    """The same training set in each way; a cache of its images is made in `folder`."""
    now, cached = (TrainSet.__new__(TrainSet) for _ in range(2))
    vars(now).update(vars(data), noise=NOISE)
    vars(cached).update(vars(data), noise=NOISE, cache=open_image_cache(folder, data.files))
    return {"at first": FirstWay(data, spans), "now": now, "image cache": cached}


def compare(sets: Mapping[str, TrainSet], everyone: int, batches: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of an epoch of so many batches by one loader process, in each way in turn."""
    plan = RandomPlan(len(next(iter(sets.values()))), everyone, batches)
    loaders = {name: TrainLoader(data, plan, 1, pin_memory=False) for name, data in sets.items()}
    for loader in loaders.values():
        run_through(loader)  # starts its process
    times = in_turn({name: partial(run_through, loader) for name, loader in loaders.items()}, repeats)
    for loader in loaders.values():
        loader.close()
    return times


def run_through(loader: TrainLoader) -> None:
    """One epoch of batches."""
    for _ in loader.epoch(0):
        pass


def show_ways(sizes: str, everyone: int, times: Mapping[str, list[float]], samples: int) -> None:
    """A line per way: samples per second of one loader process."""
    for name, seconds in times.items():
        rate, ratio = samples / statistics.median(seconds), ratio_of(times["at first"], seconds)
        line = f"{sizes:10} {everyone:5} on all processes {name:12} {rate:7.0f} samples per second"
        print(f"{line} {ratio:6.2f}x", flush=True)
