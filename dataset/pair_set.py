"""The training samples of the systems on CLIP: one view of an image, and its caption.

Letters: B batch of this process, T text tokens, H and W image height and width.
"""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dataset.annotations import Entry
from dataset.augmentation import Augment, draw_mirrored
from dataset.batch import LoadedPairs, MaskedCaptions, PairBatch
from dataset.batch_plan import BatchRequest
from dataset.image_cache import ImageCache, Source
from dataset.noisy_pairs import NoisyPairs
from dataset.sample_set import SampleSet
from dataset.tokens import TextTokenizer, pad_batch
from dataset.word_noise import WordNoise, mask_words


class PairSet(SampleSet[PairBatch]):
    """Pairs of an image and a caption.

    entries, files, skipped, augment, augment_words, cache, noisy_pairs: as of a `SampleSet`.
    length: the most tokens of a caption. full_rows: captions are padded to it; else to the longest of the batch of all
    processes. mask_words: probability of a word to be masked for MLM (IRRA), when others are augmented; 0 = none is.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        files: Source,
        tokenizer: TextTokenizer,
        length: int,
        seed: int,
        full_rows: bool = True,
        mask_words: float = 0.0,
        skipped: Sequence[str] = (),
        augment: Augment | None = None,
        augment_words: float = 0.0,
        cache: ImageCache | None = None,
        noisy_pairs: NoisyPairs | None = None,
    ):
        super().__init__(
            entries,
            files,
            tokenizer,
            max_words=length,
            max_tokens=length,
            seed=seed,
            skipped=skipped,
            augment=augment,
            augment_words=augment_words,
            cache=cache,
            noisy_pairs=noisy_pairs,
        )
        self.full_rows, self.mask_words = full_rows, mask_words

    def make_batch(self, request: BatchRequest) -> LoadedPairs:
        own = np.array(request.own)
        images, mirrored = zip(*(self.draw_view(request.epoch, index) for index in request.own), strict=True)
        ids, masked = self.draw_caption(request)
        return LoadedPairs(
            image=torch.stack(images),
            mirrored=torch.tensor(mirrored),
            ids=ids,
            identity=torch.from_numpy(self.identity[own].astype(np.int64)),
            index=torch.from_numpy(own),
            masked=masked,
        )

    def draw_view(self, epoch: int, index: int) -> tuple[Tensor, bool]:
        """The sample's image or its augmentation, uint8 [3, H, W], and whether that is to be mirrored."""
        rng, image = random.Random(f"{self.seed}/{epoch}/{index}"), self.load_image(index)
        return (image, draw_mirrored(rng)) if self.augment is None else (self.augment(image, rng), False)

    def draw_caption(self, request: BatchRequest) -> tuple[Tensor, MaskedCaptions | None]:
        """The ids [B, T] of the captions as they are read, and with masked words where MLM needs them."""
        length = self.max_tokens if self.full_rows else self.longest_of(request.everyone)
        captions, _ = self.read(request, self.caption[list(request.own)])
        ids, _ = pad_batch(captions, self.pad_id, length)
        if not self.mask_words:
            return ids, None
        # drawn for all positions: the same words are masked, however far captions are padded
        noise = WordNoise.draw("mlm", self.seed, request.epoch, request.own, self.max_tokens, self.words)
        return ids, mask_words(ids, noise.cut(length), self.words, self.mask_words)
