"""The training samples of MARS, and how those of any system are loaded.

Letters: T text tokens, H and W image height and width.

A `Plan` (`dataset.batch_plan`) says which samples make up each step; a `SampleSet` turns one such request into a
whole batch inside a loader worker. A request carries its epoch, so workers live on through epochs, and what is random
about a sample depends on (seed, epoch, index) alone.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from dataset.annotations import Entry
from dataset.attributes import Attribute
from dataset.augmentation import Augment, draw_mirrored
from dataset.batch import LoadedBatch, TextTokens, TrainBatch
from dataset.batch_plan import BatchRequest, Plan
from dataset.image_cache import ImageCache, Source, images_of
from dataset.noisy_pairs import NoisyPairs
from dataset.sample_set import SampleSet, Taken
from dataset.tokens import CaptionTokenizer, pad_batch
from utils.copy_ahead import copied_ahead, copies_to
from utils.processes.loader_processes import loaded, loader_settings

CPU = torch.device("cpu")
NoiseSource = Callable[[int, Sequence[int]], Any]  # (epoch, indices of samples) -> dataclass of tensors; can be pickled


class RequestSampler(Sampler[BatchRequest]):
    """What a DataLoader iterates anew, in the main process, for every pass: the requests that are due."""

    def __init__(self) -> None:
        self.due: Iterable[BatchRequest] = ()

    def __iter__(self) -> Iterator[BatchRequest]:
        return iter(self.due)


class TrainSet(SampleSet[TrainBatch]):
    """The samples of MARS, each with two views of its image and two captions (RaSa's training data, section 3.1).

    entries: images with captions below `image_root`; attributes: spans by caption as written
    in the annotations; size: (height, width) in pixels; captions keep their first `max_words`
    words, and `max_tokens` word pieces of those (what the text encoder has positions for).
    digests, skipped, cache, noisy_pairs: as of `Source` and `SampleSet`.
    augment: makes each of the two views of an image; None = the image or its mirror image, as published.
    augment_words: as of `SampleSet`, of both captions.
    noise: draws the random numbers that a training step uses for samples; None = none come with a batch.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        image_root: str | Path,
        tokenizer: CaptionTokenizer,
        attributes: Mapping[str, Sequence[Attribute]],
        size: tuple[int, int],
        max_words: int,
        max_tokens: int,
        weak_probability: float,
        seed: int,
        digests: Mapping[str, str] | None = None,
        skipped: Sequence[str] = (),
        augment: Augment | None = None,
        augment_words: float = 0.0,
        noise: NoiseSource | None = None,
        cache: ImageCache | None = None,
        noisy_pairs: NoisyPairs | None = None,
    ):
        files = Source(Path(image_root), images_of(entries), size, digests or {})
        super().__init__(
            entries,
            files,
            tokenizer,
            max_words=max_words,
            max_tokens=max_tokens,
            seed=seed,
            attributes=attributes,
            skipped=skipped,
            augment=augment,
            augment_words=augment_words,
            cache=cache,
            noisy_pairs=noisy_pairs,
        )
        self.image_root, self.weak_probability, self.noise = files.root, weak_probability, noise
        self.captions_of = group_by(self.caption, self.identity)

    def make_batch(self, request: BatchRequest) -> LoadedBatch:
        own = np.array(request.own)
        views, mirrored, drawn = zip(*(self.draw(request.epoch, index) for index in request.own), strict=True)
        first, second = self.caption[own], np.array(drawn)
        (ids, _), (ids2, numbers) = self.read(request, first), self.read(request, second)
        attributes, _ = pad_batch(numbers, 0)
        return LoadedBatch(
            views=torch.stack([view for images in zip(*views, strict=True) for view in images]).view(
                -1, len(own), 3, *self.size
            ),
            mirrored=torch.tensor(mirrored),
            # the published distillation of MLM normalises over token positions, padding included: a length of each
            # process's own would make the loss depend on how a batch is spread
            caption=self.pad(ids, self.longest_of(request.everyone)),
            caption2=self.pad(ids2),
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
        image = self.load_image(index)
        views: tuple[Tensor, ...] = (image,)
        mirrored = False, False
        if self.augment is None:
            mirrored = draw_mirrored(rng), draw_mirrored(rng)
        else:
            views = self.augment(image, rng), self.augment(image, rng)
        if rng.random() < self.weak_probability:
            caption = rng.choice(self.captions_of[self.identity[index]])
        return views, mirrored, caption

    def pad(self, ids: Sequence[np.ndarray], length: int | None = None) -> TextTokens:
        """Captions, padded to `length` (None = the longest of them)."""
        return TextTokens(*pad_batch(ids, self.pad_id, length), words=sum(map(len, ids)))


def group_by(values: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
    """The values of every group, from 0, in the order in which they stand."""
    order = np.argsort(groups, kind="stable")
    return np.split(values[order], np.flatnonzero(np.diff(groups[order])) + 1)


class TrainLoader(Generic[Taken]):
    """Batches of an epoch on a device, prepared ahead by worker processes and, to a GPU, copied ahead.

    pin_memory: into memory from which a GPU copies while it computes.
    Iterating raises UserError when a sample cannot be made (an image that is unusable or has changed).
    """

    def __init__(self, data: SampleSet[Taken], plan: Plan, workers: int, pin_memory: bool, device: torch.device = CPU):
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

    def epoch(self, number: int, skip: int = 0) -> Iterator[Taken]:
        """The batches of an epoch but for the first `skip`, which an interrupted run has had."""
        return self.read(self.plan.requests(number, skip))

    def read(self, requests: Iterable[BatchRequest]) -> Iterator[Taken]:
        """The batches that are asked for."""
        self.sampler.due = requests
        yield from copied_ahead(loaded(self.loader), copies_to(self.device))
