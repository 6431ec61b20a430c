"""Training samples and the order they come in.

Letters: B batch of this process, G batch of all processes, T text tokens, H and W image
height and width.

A `BatchPlan` says which samples make up each step; a `TrainSet` turns one such request into
a whole batch inside a loader worker. A request carries its epoch, so workers can live on
through epochs, and what is random about a sample depends on (seed, epoch, place) alone.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dataset.annotations import Entry
from dataset.attributes import attribute_ids
from dataset.batch import TextTokens, TrainBatch
from dataset.captions import clean_caption
from dataset.image_files import normal_path
from dataset.images import load_image
from dataset.tokens import CaptionTokenizer, Encoded, pad_batch
from utils.errors import UserError
from utils.processes.loader_processes import loaded, loader_processes, serve_the_main_process

Spans = list[list[tuple[int, int]]]  # attributes of a caption: character spans of their words


@dataclass(frozen=True)
class BatchRequest:
    """One micro-batch: places in the data set for all processes, and the rows of this one."""

    epoch: int
    everyone: tuple[int, ...]
    rows: slice

    @property
    def own(self) -> tuple[int, ...]:
        return self.everyone[self.rows]


class BatchPlan(Sampler[BatchRequest]):
    """The micro-batches of one epoch, the same on all processes but for their rows.

    The order is a permutation by (seed, epoch). The G = batch * world samples of a
    micro-batch are dealt out in contiguous runs, so that gathering rows in rank order gives
    the order a single process would see. What does not fill a micro-batch is left out.
    """

    def __init__(self, samples: int, batch: int, rank: int, world: int, seed: int):
        self.samples, self.together, self.seed = samples, batch * world, seed
        self.epoch, self.skip = 0, 0
        self.rows = slice(rank * batch, (rank + 1) * batch)
        if samples < self.together:
            raise UserError(
                f"the training set has {samples} captions, fewer than one batch of {self.together}"
                f" ({batch} on each of {world} processes); lower batch_size_train"
            )

    def __len__(self) -> int:
        return self.samples // self.together

    def __iter__(self) -> Iterator[BatchRequest]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.samples)
        for start in range(self.skip * self.together, len(self) * self.together, self.together):
            yield BatchRequest(self.epoch, tuple(order[start : start + self.together].tolist()), self.rows)


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
    ):
        self.image_root, self.tokenizer, self.size = Path(image_root), tokenizer, size
        self.digests, self.skipped = digests or {}, tuple(skipped)
        self.max_tokens, self.weak_probability, self.seed = max_tokens, weak_probability, seed
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

    def longest_caption(self) -> int:
        """The most tokens that a caption has."""
        return max(len(self.encode(caption).ids) for caption in self.spans)

    def describe(self, batches: Sequence[TrainBatch]) -> str:
        """The images of batches, for messages."""
        return "; ".join(", ".join(self.samples[index].image for index in batch.index.tolist()) for batch in batches)

    def encode(self, caption: str) -> Encoded:
        return self.tokenizer.encode(caption, self.max_tokens)

    def make_batch(self, request: BatchRequest) -> TrainBatch:
        samples = [self.samples[place] for place in request.own]
        views, second = zip(*(self.draw(request.epoch, place) for place in request.own), strict=True)
        first = [self.samples[place].caption for place in request.everyone]
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

    def draw(self, epoch: int, place: int) -> tuple[tuple[torch.Tensor, torch.Tensor], str]:
        """Two flips of the sample's image, uint8 [3, H, W], and its caption2."""
        sample = self.samples[place]
        chance = random.Random(f"{self.seed}/{epoch}/{place}")
        flips = chance.random() < 0.5, chance.random() < 0.5
        caption = sample.caption
        if chance.random() < self.weak_probability:
            caption = chance.choice(self.captions_of[sample.identity])
        image = load_image(self.image_root / sample.image, self.size, self.digests.get(normal_path(sample.image)))
        first, second = (image.flip(-1) if flip else image for flip in flips)
        return (first, second), caption

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

    def __init__(self, data: TrainSet, plan: BatchPlan, workers: int, pin_memory: bool):
        self.data, self.plan = data, plan
        self.loader = DataLoader(
            data,
            batch_size=None,
            sampler=plan,
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=serve_the_main_process,
            multiprocessing_context=loader_processes() if workers else None,
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
        """The batches of an epoch but for the first `skip`, which an interrupted run has seen."""
        self.plan.epoch, self.plan.skip = number, skip
        yield from loaded(self.loader)
