"""Training samples and the order they come in.

Letters: B batch of this process, G batch of all processes, T text tokens, H and W image
height and width.

A `Plan` says which samples make up each step; a `TrainSet` turns one such request into a whole batch inside a
loader worker. A request carries its epoch, so workers live on through epochs, and what is random about a sample
depends on (seed, epoch, index) alone.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dataset.annotations import Entry
from dataset.attributes import attribute_ids
from dataset.augmentation import Augment, random_flip
from dataset.batch import TextTokens, TrainBatch
from dataset.captions import clean_caption
from dataset.image_files import normal_path
from dataset.images import load_image
from dataset.tokens import CaptionTokenizer, Encoded, pad_batch
from utils.errors import UserError
from utils.processes.loader_processes import loaded, loader_settings
from utils.text import counted

Spans = list[list[tuple[int, int]]]  # attributes of a caption: character spans of their words


@dataclass(frozen=True)
class BatchRequest:
    """One micro-batch: indices of the samples of all processes, and the rows of them that are this process's."""

    epoch: int
    everyone: tuple[int, ...]
    rows: slice

    @property
    def own(self) -> tuple[int, ...]:
        return self.everyone[self.rows]


class Plan(Protocol):
    """What a sampler must offer, whichever way it chooses samples (`TrainSet.identities` knows who is on each).

    All epochs have as many micro-batches, and those of an epoch are the same whenever it is asked for: a resumed run
    skips those that it has had. All processes agree on `everyone`; their `rows` share it out in rank order.
    """

    def __len__(self) -> int:
        """The micro-batches of an epoch."""

    def requests(self, epoch: int, skip: int = 0) -> Iterator[BatchRequest]:
        """The micro-batches of an epoch but for the first `skip`."""


class BatchPlan:
    """The published sampler: every sample once an epoch.

    The order is a permutation by (seed, epoch). The G = batch * world samples of a
    micro-batch are dealt out in contiguous runs, so that gathering rows in rank order gives
    the order a single process would see. What does not fill a micro-batch is left out.
    """

    def __init__(self, samples: int, batch: int, rank: int, world: int, seed: int):
        self.samples, self.together, self.seed = samples, batch * world, seed
        self.rows = slice(rank * batch, (rank + 1) * batch)
        if samples < self.together:
            raise UserError(
                f"the training set has {counted(samples, 'caption')}, fewer than one batch of {self.together}"
                f" ({batch} on each of {counted(world, 'process', 'processes')}); lower batch_size_train"
            )

    def __len__(self) -> int:
        return self.samples // self.together

    def requests(self, epoch: int, skip: int = 0) -> Iterator[BatchRequest]:
        order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
        for start in range(skip * self.together, len(self) * self.together, self.together):
            yield BatchRequest(epoch, tuple(order[start : start + self.together].tolist()), self.rows)


class EpochSampler(Sampler[BatchRequest]):
    """What a DataLoader iterates anew, in the main process, for every epoch: the requests of the one that is due."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.epoch, self.skip = 0, 0

    def __iter__(self) -> Iterator[BatchRequest]:
        return self.plan.requests(self.epoch, self.skip)


@dataclass(frozen=True)
class Sample:
    """A pair of image and caption; `identity` is numbered from 0."""

    image: str
    caption: str
    identity: int


def make_samples(entries: Sequence[Entry], max_words: int) -> list[Sample]:
    """A sample per (image, caption), captions cleaned, identities renumbered in order of appearance."""
    numbers: dict[int | str, int] = {}
    return [
        Sample(entry.image, clean_caption(caption, max_words), numbers.setdefault(entry.identity, len(numbers)))
        for entry in entries
        for caption in entry.captions
    ]


class TrainSet(Dataset[TrainBatch | UserError]):
    """Whole batches by request (reference: RaSa's training data set, section 3.1).

    entries: images with captions below `image_root`; attributes: spans by caption as written
    in the annotations; size: (height, width) in pixels; captions keep their first `max_words`
    words, and `max_tokens` word pieces of those (what the text encoder has positions for).
    digests: of image files by normalised name; a file with another one is refused.
    skipped: names of images that were left out of `entries`, kept here for whoever records them.
    augment: makes each of the two views of an image.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        image_root: str | Path,
        tokenizer: CaptionTokenizer,
        attributes: Mapping[str, Spans],
        size: tuple[int, int],
        max_words: int,
        max_tokens: int,
        weak_probability: float,
        seed: int,
        digests: Mapping[str, str] | None = None,
        skipped: Sequence[str] = (),
        augment: Augment = random_flip,
    ):
        self.image_root, self.tokenizer, self.size = Path(image_root), tokenizer, size
        self.digests, self.skipped = digests or {}, tuple(skipped)
        self.max_tokens, self.weak_probability, self.seed = max_tokens, weak_probability, seed
        self.augment = augment
        self.samples = make_samples(entries, max_words)
        originals = (caption for entry in entries for caption in entry.captions)
        self.spans = {
            sample.caption: attributes.get(original, [])
            for sample, original in zip(self.samples, originals, strict=True)
        }
        self.captions_of = defaultdict(list)
        for sample in self.samples:
            self.captions_of[sample.identity].append(sample.caption)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, request: BatchRequest) -> TrainBatch | UserError:
        # returned, not raised: a loader would bury the message in a worker's traceback
        try:
            return self.make_batch(request)
        except UserError as error:
            return error

    @property
    def identities(self) -> list[int]:
        """The identity of every sample, by index: what a sampler needs that balances them."""
        return [sample.identity for sample in self.samples]

    def longest_caption(self) -> int:
        """The most tokens that a caption has."""
        return max(len(self.encode(caption).ids) for caption in self.spans)

    def describe(self, batches: Sequence[TrainBatch]) -> str:
        """The images of batches, for messages."""
        return "; ".join(", ".join(self.samples[index].image for index in batch.index.tolist()) for batch in batches)

    def encode(self, caption: str) -> Encoded:
        return self.tokenizer.encode(caption, self.max_tokens)

    def make_batch(self, request: BatchRequest) -> TrainBatch:
        samples = [self.samples[index] for index in request.own]
        views, second = zip(*(self.draw(request.epoch, index) for index in request.own), strict=True)
        first = [self.samples[index].caption for index in request.everyone]
        encoded = {caption: self.encode(caption) for caption in dict.fromkeys((*first, *second))}
        texts = [encoded[caption] for caption in second]
        attributes = [
            attribute_ids(self.spans[caption], text.offsets, len(text.ids))
            for caption, text in zip(second, texts, strict=True)
        ]
        numbers, _ = pad_batch(attributes, 0)
        return TrainBatch(
            image1=torch.stack([view[0] for view in views]),
            image2=torch.stack([view[1] for view in views]),
            caption=self.first_captions([encoded[caption].ids for caption in first], request.rows),
            caption2=self.pad([text.ids for text in texts]),
            attributes=numbers,
            attribute_count=max(map(max, attributes)),
            identity=torch.tensor([sample.identity for sample in samples]),
            replaced=torch.tensor([int(a.caption != b) for a, b in zip(samples, second, strict=True)]),
            index=torch.tensor(request.own),
        )

    def draw(self, epoch: int, index: int) -> tuple[tuple[Tensor, Tensor], str]:
        """Two augmentations of the sample's image, uint8 [3, H, W], and its caption2."""
        sample = self.samples[index]
        rng = random.Random(f"{self.seed}/{epoch}/{index}")
        image = load_image(self.image_root / sample.image, self.size, self.digests.get(normal_path(sample.image)))
        views = self.augment(image, rng), self.augment(image, rng)
        caption = sample.caption
        if rng.random() < self.weak_probability:
            caption = rng.choice(self.captions_of[sample.identity])
        return views, caption

    def first_captions(self, everyone: Sequence[Sequence[int]], own: slice) -> TextTokens:
        """The `own` of the ids of everyone's captions, padded to the longest of all processes.

        The published distillation of MLM normalises over token positions, padding included: a
        length of each process's own would make the loss depend on how a batch is spread.
        """
        return self.pad(everyone[own], max(map(len, everyone)))

    def pad(self, rows: Sequence[Sequence[int]], length: int | None = None) -> TextTokens:
        return TextTokens(*pad_batch(rows, self.tokenizer.special.pad, length))


class TrainLoader:
    """Batches of an epoch, prepared ahead by worker processes.

    Iterating raises UserError when a sample cannot be made (an image that is unusable or has changed).
    """

    def __init__(self, data: TrainSet, plan: Plan, workers: int, pin_memory: bool):
        self.data, self.plan, self.sampler = data, plan, EpochSampler(plan)
        settings = loader_settings(__name__, workers)
        self.loader = DataLoader(
            data,
            batch_size=None,
            sampler=self.sampler,
            pin_memory=pin_memory,
            persistent_workers=settings["num_workers"] > 0,
            **settings,
        )

    def __len__(self) -> int:
        return len(self.plan)

    def close(self) -> None:
        """End the loader processes, whatever else holds on to the loader."""
        if self.loader._iterator is not None:
            shut_down = getattr(self.loader._iterator, "_shutdown_workers", None)
            if shut_down:  # there are none without workers
                shut_down()

    def epoch(self, number: int, skip: int = 0) -> Iterator[TrainBatch]:
        """The batches of an epoch but for the first `skip`, which an interrupted run has had."""
        self.sampler.epoch, self.sampler.skip = number, skip
        yield from loaded(self.loader)
