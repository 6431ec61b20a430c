"""The training samples of the systems on CLIP: one view of an image, and its caption.

Letters: B batch of this process, T text tokens, H and W image height and width.
"""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dataset import clip_words
from dataset.annotations import Entry
from dataset.augmentation import Augment, draw_mirrored
from dataset.batch import LoadedPairs, MaskedCaptions, PairBatch
from dataset.batch_plan import BatchRequest
from dataset.clip_tokens import ClipTokenizer
from dataset.clip_words import Purpose, WordNoise
from dataset.image_cache import ImageCache, Source
from dataset.sample_set import SampleSet
from dataset.tokens import pad_batch


class PairSet(SampleSet[PairBatch]):
    """Pairs of an image and a caption.

    entries, files, skipped, augment, cache, truly_clean: as of a `SampleSet`. length: the most tokens of a caption.
    full_rows: captions are padded to `length`; else to the longest of the batch of all processes.
    augment_words, mask_words: probability of a word to be changed in all that is read of a caption (RDE), and to be
    masked for MLM (IRRA), of what is left then; 0 = none is.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        files: Source,
        tokenizer: ClipTokenizer,
        length: int,
        seed: int,
        full_rows: bool = True,
        augment_words: float = 0.0,
        mask_words: float = 0.0,
        skipped: Sequence[str] = (),
        augment: Augment | None = None,
        cache: ImageCache | None = None,
        truly_clean: np.ndarray | None = None,
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
            cache=cache,
            truly_clean=truly_clean,
        )
        self.special, self.full_rows = tokenizer.special, full_rows
        self.augment_words, self.mask_words = augment_words, mask_words

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
        captions = [self.table.ids(caption) for caption in self.caption[list(request.own)]]
        ids, _ = pad_batch(captions, self.pad_id, length)
        if self.augment_words:
            noise = self.draw_noise("augmentation", request, length)
            ids = clip_words.augment_words(ids, noise, self.special, self.augment_words)
        if not self.mask_words:
            return ids, None
        return ids, clip_words.mask_words(ids, self.draw_noise("mlm", request, length), self.special, self.mask_words)

    def draw_noise(self, purpose: Purpose, request: BatchRequest, length: int) -> WordNoise:
        """Noise [B, T], which is the same for the same words, however far captions are padded."""
        noise = WordNoise.draw(purpose, self.seed, request.epoch, request.own, self.max_tokens, self.special)
        return noise.cut(length)
