"""Training samples and the order they come in.

Letters: B batch of this process, G batch of all processes, T text tokens, H and W image
height and width.

A `Plan` (`dataset.batch_plan`) says which samples make up each step; a `TrainSet` turns one such request into a
whole batch inside a loader worker. A request carries its epoch, so workers live on through epochs, and what is random
about a sample depends on (seed, epoch, index) alone.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dataset.annotations import Entry
from dataset.augmentation import Augment, draw_mirrored
from dataset.batch import LoadedBatch, TextTokens, TrainBatch
from dataset.batch_plan import BatchRequest, Plan
from dataset.caption_table import CaptionTable
from dataset.captions import clean_caption
from dataset.image_cache import ImageCache, Source, images_of
from dataset.tokens import CaptionTokenizer, Encoded, pad_batch
from utils.copy_ahead import copied_ahead, copies_to
from utils.errors import UserError
from utils.processes.loader_processes import loaded, loader_settings

CPU = torch.device("cpu")
NoiseSource = Callable[[int, Sequence[int]], Any]  # (epoch, indices of samples) -> dataclass of tensors; can be pickled
Spans = list[list[tuple[int, int]]]  # attributes of a caption: character spans of their words


class RequestSampler(Sampler[BatchRequest]):
    """What a DataLoader iterates anew, in the main process, for every pass: the requests that are due."""

    def __init__(self) -> None:
        self.due: Iterable[BatchRequest] = ()

    def __iter__(self) -> Iterator[BatchRequest]:
        return iter(self.due)


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


class TrainSet(Dataset[LoadedBatch | UserError]):
    """Whole batches by request (reference: RaSa's training data set, section 3.1).

    entries: images with captions below `image_root`; attributes: spans by caption as written
    in the annotations; size: (height, width) in pixels; captions keep their first `max_words`
    words, and `max_tokens` word pieces of those (what the text encoder has positions for).
    digests: of image files by normalised name; a file with another one is refused.
    skipped: names of images that were left out of `entries`, kept here for whoever records them.
    augment: makes each of the two views of an image; None = the image or its mirror image, as published.
    cache: of these images in their order of appearance; None = they are decoded for every batch.
    noise: draws the random numbers that a training step uses for samples; None = none come with a batch.
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
        augment: Augment | None = None,
        noise: NoiseSource | None = None,
        cache: ImageCache | None = None,
    ):
        self.image_root, self.tokenizer, self.size = Path(image_root), tokenizer, size
        self.files, self.cache = Source(self.image_root, images_of(entries), size, digests or {}), cache
        self.skipped = tuple(skipped)
        self.max_tokens, self.weak_probability, self.seed = max_tokens, weak_probability, seed
        self.augment, self.noise = augment, noise
        self.samples = make_samples(entries, max_words)
        originals = (caption for entry in entries for caption in entry.captions)
        spelled = dict(zip((sample.caption for sample in self.samples), originals, strict=True))
        spans = (attributes.get(original, []) for original in spelled.values())
        self.table = CaptionTable(list(spelled), spans, tokenizer, max_tokens)
        self.pad_id = tokenizer.special.pad
        images = {image: number for number, image in enumerate(self.files.images)}
        self.image = np.array([images[sample.image] for sample in self.samples], np.int32)
        self.identity = np.array([sample.identity for sample in self.samples], np.int32)
        numbers = {caption: number for number, caption in enumerate(spelled)}
        self.caption = np.array([numbers[sample.caption] for sample in self.samples], np.int32)
        self.captions_of = group_by(self.caption, self.identity)

    def __getstate__(self) -> dict[str, Any]:
        """What loader processes need: neither texts nor the tokenizer, which take long to send."""
        return {name: part for name, part in vars(self).items() if name not in ("samples", "tokenizer", "skipped")}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, request: BatchRequest) -> LoadedBatch | UserError:
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
        return int(self.table.lengths.max())

    def captions(self) -> list[str]:
        """The different captions of all samples, in the order of `table`."""
        return list(dict.fromkeys(sample.caption for sample in self.samples))

    def describe(self, batches: Sequence[TrainBatch]) -> str:
        """The images of batches, for messages."""
        return "; ".join(", ".join(self.samples[index].image for index in batch.index.tolist()) for batch in batches)

    def encode(self, caption: str) -> Encoded:
        return self.tokenizer.encode(caption, self.max_tokens)

    def make_batch(self, request: BatchRequest) -> LoadedBatch:
        own = np.array(request.own)
        views, mirrored, drawn = zip(*(self.draw(request.epoch, index) for index in request.own), strict=True)
        first, second = self.caption[own], np.array(drawn)
        attributes, _ = pad_batch([self.table.attributes(caption) for caption in second], 0)
        return LoadedBatch(
            views=torch.stack([view for images in zip(*views, strict=True) for view in images]).view(
                -1, len(own), 3, *self.size
            ),
            mirrored=torch.tensor(mirrored),
            caption=self.read(first, self.longest_of(request.everyone)),
            caption2=self.read(second),
            attributes=attributes,
            attribute_count=int(attributes.max()),
            identity=torch.from_numpy(self.identity[own].astype(np.int64)),
            replaced=torch.from_numpy((first != second).astype(np.int64)),
            index=torch.from_numpy(own),
            noise=self.noise(request.epoch, request.own) if self.noise else None,
        )

    def draw(self, epoch: int, index: int) -> tuple[tuple[Tensor, ...], tuple[bool, bool], int]:
        """The sample's image or its two augmentations, uint8 [3, H, W], which views are mirrored, its caption2."""
        rng, caption = random.Random(f"{self.seed}/{epoch}/{index}"), self.caption[index]
        image = (self.cache or self.files).load(self.image[index])
        views: tuple[Tensor, ...] = (image,)
        mirrored = False, False
        if self.augment is None:
            mirrored = draw_mirrored(rng), draw_mirrored(rng)
        else:
            views = self.augment(image, rng), self.augment(image, rng)
        if rng.random() < self.weak_probability:
            caption = rng.choice(self.captions_of[self.identity[index]])
        return views, mirrored, caption

    def longest_of(self, everyone: Sequence[int]) -> int:
        """The length that first captions are padded to, that of the longest of all processes.

        The published distillation of MLM normalises over token positions, padding included: a
        length of each process's own would make the loss depend on how a batch is spread.
        """
        return int(self.table.lengths[self.caption[list(everyone)]].max())

    def read(self, captions: Iterable[int], length: int | None = None) -> TextTokens:
        """Captions by their numbers, padded to `length` (None = the longest of them)."""
        ids = [self.table.ids(caption) for caption in captions]
        return TextTokens(*pad_batch(ids, self.pad_id, length), words=sum(map(len, ids)))


def group_by(values: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
    """The values of every group, from 0, in the order in which they stand."""
    order = np.argsort(groups, kind="stable")
    return np.split(values[order], np.flatnonzero(np.diff(groups[order])) + 1)


class TrainLoader:
    """Batches of an epoch on a device, prepared ahead by worker processes and, to a GPU, copied ahead.

    pin_memory: into memory from which a GPU copies while it computes.
    Iterating raises UserError when a sample cannot be made (an image that is unusable or has changed).
    """

    def __init__(self, data: TrainSet, plan: Plan, workers: int, pin_memory: bool, device: torch.device = CPU):
        self.data, self.plan, self.sampler, self.device = data, plan, RequestSampler(), device
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
        return self.read(self.plan.requests(number, skip))

    def read(self, requests: Iterable[BatchRequest]) -> Iterator[TrainBatch]:
        """The batches that are asked for."""
        self.sampler.due = requests
        yield from copied_ahead(loaded(self.loader), copies_to(self.device))
