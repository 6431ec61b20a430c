"""Training samples, a pair of image and caption each, and what all systems make batches of.

Letters: H and W image height and width.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from dataset.annotations import Entry
from dataset.attributes import Attribute
from dataset.augmentation import Augment
from dataset.batch import PairBatch, Samples
from dataset.batch_plan import BatchRequest
from dataset.caption_table import CaptionTable
from dataset.image_cache import ImageCache, Source
from dataset.noisy_pairs import NoisyPairs
from dataset.tokens import Encoded, TextTokenizer
from dataset.word_noise import WordNoise, augment_words
from utils.copy_ahead import Movable
from utils.errors import UserError

NOT_SENT = ("samples", "tokenizer", "skipped", "noisy_pairs")

Taken = TypeVar("Taken", bound=Samples | PairBatch)
"""What a model takes of a data set, once it is on its device."""


@dataclass(frozen=True)
class Sample:
    """A pair of image and caption; `identity` is numbered from 0."""

    image: str
    caption: str
    identity: int


def make_samples(entries: Sequence[Entry], tokenizer: TextTokenizer, max_words: int) -> list[Sample]:
    """A sample per (image, caption), captions cleaned, identities renumbered in order of appearance."""
    numbers: dict[int | str, int] = {}
    return [
        Sample(entry.image, tokenizer.clean(caption, max_words), numbers.setdefault(entry.identity, len(numbers)))
        for entry in entries
        for caption in entry.captions
    ]


class SampleSet(ABC, Dataset, Generic[Taken]):
    """Whole batches by request, which `make_batch` of a subclass makes inside a loader worker.

    What is random about a sample depends on (seed, epoch, index) alone.

    entries: images with captions, whose files are those of `files`.
    Captions are cleaned as the tokenizer says, with their first `max_words` words, and keep `max_tokens` tokens of
    those. attributes: spans by caption as written in the annotations.
    skipped: names of images that were left out of `entries`, kept here for whoever records them.
    augment: makes a view of an image; None = the image or its mirror image. augment_words: probability of a word to be
    changed in all that is read of a caption (RDE); 0 = none is.
    cache: of these images in their order of appearance; None = they are decoded for every batch.
    noisy_pairs: which samples have the caption of another one, for whoever records them; None = none has.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        files: Source,
        tokenizer: TextTokenizer,
        max_words: int,
        max_tokens: int,
        seed: int,
        attributes: Mapping[str, Sequence[Attribute]] | None = None,
        skipped: Sequence[str] = (),
        augment: Augment | None = None,
        augment_words: float = 0.0,
        cache: ImageCache | None = None,
        noisy_pairs: NoisyPairs | None = None,
    ):
        self.files, self.cache, self.size = files, cache, files.size
        self.tokenizer, self.max_tokens, self.pad_id = tokenizer, max_tokens, tokenizer.special.pad
        self.seed, self.skipped, self.augment = seed, tuple(skipped), augment
        self.words, self.augment_words, self.noisy_pairs = tokenizer.words, augment_words, noisy_pairs
        self.samples = make_samples(entries, tokenizer, max_words)
        originals = (caption for entry in entries for caption in entry.captions)
        spelled = dict(zip((sample.caption for sample in self.samples), originals, strict=True))
        spans = ((attributes or {}).get(original, []) for original in spelled.values())
        self.table = CaptionTable(list(spelled), spans, tokenizer, max_tokens)
        images = {image: number for number, image in enumerate(files.images)}
        self.image = np.array([images[sample.image] for sample in self.samples], np.int32)
        self.identity = np.array([sample.identity for sample in self.samples], np.int32)
        numbers = {caption: number for number, caption in enumerate(spelled)}
        self.caption = np.array([numbers[sample.caption] for sample in self.samples], np.int32)

    @property
    def truly_clean(self) -> np.ndarray | None:
        """Which of all samples [N] have their own caption, for logs alone; None = all have."""
        return None if self.noisy_pairs is None else self.noisy_pairs.truly_clean

    def __getstate__(self) -> dict[str, Any]:
        """What loader processes need: neither texts nor the tokenizer, which take long to send."""
        return {name: part for name, part in vars(self).items() if name not in NOT_SENT}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, request: BatchRequest) -> Movable[Taken] | UserError:
        # returned, not raised: a loader would bury the message in a worker's traceback
        try:
            return self.make_batch(request)
        except UserError as error:
            return error

    @abstractmethod
    def make_batch(self, request: BatchRequest) -> Movable[Taken]:
        """The samples of a request. Raises UserError when one cannot be made."""

    @property
    def identities(self) -> list[int]:
        """The identity of every sample, by index: what a sampler needs that balances them."""
        return [sample.identity for sample in self.samples]

    def longest_caption(self) -> int:
        """The most tokens that a caption has."""
        return int(self.table.lengths.max())

    def longest_of(self, indices: Sequence[int]) -> int:
        """The most tokens that a caption of these samples has."""
        return int(self.table.lengths[self.caption[list(indices)]].max())

    def captions(self) -> list[str]:
        """The different captions of all samples, in the order of `table`."""
        return list(dict.fromkeys(sample.caption for sample in self.samples))

    def describe(self, batches: Sequence[Taken]) -> str:
        """The images of batches, for messages."""
        return "; ".join(", ".join(self.samples[index].image for index in batch.index.tolist()) for batch in batches)

    def encode(self, caption: str) -> Encoded:
        return self.tokenizer.encode(caption, self.max_tokens)

    def read(self, request: BatchRequest, captions: Iterable[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """For each own sample a caption, by its number: its token ids, and which attribute each token belongs to.

        Words are changed where that is asked for, in all captions of a sample alike.
        """
        rows = [(self.table.ids(caption), self.table.attributes(caption)) for caption in captions]
        if self.augment_words:
            noise = WordNoise.draw("augmentation", self.seed, request.epoch, request.own, self.max_tokens, self.words)
            for row, numbers in enumerate(zip(noise.uniform.numpy(), noise.words.numpy(), strict=True)):
                ids, kept = augment_words(rows[row][0], *numbers, self.words, self.augment_words)
                rows[row] = ids, rows[row][1][kept]
        return [ids for ids, _ in rows], [attributes for _, attributes in rows]

    def load_image(self, index: int) -> Tensor:
        """The image of a sample as it is, uint8 [3, H, W]. Raises UserError when it cannot be read."""
        return (self.cache or self.files).load(self.image[index])
