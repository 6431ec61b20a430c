"""Images and captions of an evaluation split, in blocks that do not depend on the processes.

Letters: B images of a block, T text tokens.

A block is always the same images in the same order, whoever works on it, so that results
are the same for any number of processes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataset.annotations import Entry
from dataset.batch import TextTokens
from dataset.cut_captions import CutCaptions
from dataset.image_files import normal_path
from dataset.images import Resampling, load_image
from dataset.tokens import TextTokenizer, pad_batch
from dataset.unknown_words import UnknownWords
from utils.errors import UserError
from utils.processes.loader_processes import loaded, loader_settings
from utils.text import counted


def blocks_of(count: int, size: int) -> list[range]:
    """0..count-1 in runs of `size`, the last one shorter."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


@dataclass(frozen=True)
class Captions:
    """Queries: token ids of each caption [CLS] ... [SEP], and what padding looks like."""

    ids: list[list[int]]
    pad: int

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, indices: Sequence[int]) -> TextTokens:
        """The captions with these indices, padded to the longest of them."""
        return TextTokens(*pad_batch([self.ids[index] for index in indices], self.pad))


@dataclass(frozen=True)
class EvaluationSplit:
    """Gallery images and the captions that search them.

    identities are renumbered so that equal ones have equal numbers: image_identity [G],
    caption_identity [C], int64. texts: the captions as written. digests: of image files by
    normalised name; a file with another one is refused. resampling: how images are resized. view: what becomes of a
    resized image uint8 [3, H, W] and its index in the gallery before the model sees it; can be pickled. caption_image
    [C]: index in the gallery of the image that a caption was written for, where that is known. ceiling: the best
    metrics that can be expected of these queries, in per cent, and what they were taken over, where they are known.
    """

    images: list[str]
    image_root: Path
    image_identity: Tensor
    texts: list[str]
    caption_identity: Tensor
    identities: list[int | str]
    captions: Captions
    digests: Mapping[str, str] = field(default_factory=dict)
    resampling: Resampling = "bicubic"
    view: Callable[[Tensor, int], Tensor] | None = None
    caption_image: Tensor | None = None
    ceiling: Mapping[str, float | int] = field(default_factory=dict)

    @property
    def sizes(self) -> str:
        """How many captions and images there are, for messages."""
        return f"{counted(len(self.texts), 'caption')}, {counted(len(self.images), 'image')}"

    def with_texts(self, texts: Sequence[str], tokenizer: TextTokenizer, max_words: int) -> "EvaluationSplit":
        """The same queries in other words: one text for each caption."""
        return replace(self, texts=list(texts), captions=encode_captions(texts, tokenizer, max_words), ceiling={})

    def of_captions(self, indices: Sequence[int]) -> "EvaluationSplit":
        """The captions with these indices alone, before the whole gallery."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return replace(
            self,
            texts=[self.texts[index] for index in indices],
            caption_identity=self.caption_identity[chosen],
            caption_image=None if self.caption_image is None else self.caption_image[chosen],
            captions=Captions([self.captions.ids[index] for index in indices], self.captions.pad),
            ceiling={},
        )


def encode_captions(
    texts: Sequence[str], tokenizer: TextTokenizer, max_words: int, whose: str = "captions"
) -> Captions:
    """Captions as written, cleaned and cut into at most `max_words` word pieces; warns of unknown words and cuts."""
    unknown, cut, ids = UnknownWords(tokenizer), CutCaptions(tokenizer, max_words, max_words), []
    for text in texts:
        cleaned = tokenizer.clean(text, max_words)
        encoded = tokenizer.encode(cleaned, max_words)
        unknown.add(cleaned, encoded)
        cut.add(text)
        ids.append(encoded.ids)
    unknown.warn(whose)
    cut.warn(whose)
    return Captions(ids, tokenizer.special.pad)


def make_split(
    entries: Sequence[Entry],
    image_root: str | Path,
    tokenizer: TextTokenizer,
    max_words: int,
    digests: Mapping[str, str] | None = None,
    whose: str = "evaluation split",
) -> EvaluationSplit:
    """Every image once as gallery, every caption as query; captions keep `max_words` word pieces.

    whose: what messages call the split.

    Raises UserError when there is no caption.
    """
    numbers: dict[int | str, int] = {}
    image_identity = [numbers.setdefault(entry.identity, len(numbers)) for entry in entries]
    pairs = [(text, n) for entry, n in zip(entries, image_identity, strict=True) for text in entry.captions]
    if not pairs:
        raise UserError("the evaluation split holds no captions")
    texts = [text for text, _ in pairs]
    return EvaluationSplit(
        images=[entry.image for entry in entries],
        image_root=Path(image_root),
        image_identity=torch.tensor(image_identity),
        texts=texts,
        caption_identity=torch.tensor([number for _, number in pairs]),
        identities=list(numbers),
        captions=encode_captions(texts, tokenizer, max_words, whose),
        digests=digests or {},
        caption_image=torch.tensor([index for index, entry in enumerate(entries) for _ in entry.captions]),
    )


class ImageBlocks(Dataset[Tensor | UserError]):
    """Blocks of images by index: uint8 [B, 3, H, W]."""

    def __init__(self, split: EvaluationSplit, blocks: Sequence[Sequence[int]], size: tuple[int, int]):
        self.split, self.blocks, self.size = split, blocks, size

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, number: int) -> Tensor | UserError:
        # returned, not raised: a loader would bury the message in a worker's traceback
        try:
            return torch.stack([self.load(index) for index in self.blocks[number]])
        except UserError as error:
            return error

    def load(self, index: int) -> Tensor:
        split, name = self.split, self.split.images[index]
        image = load_image(split.image_root / name, self.size, split.digests.get(normal_path(name)), split.resampling)
        return image if split.view is None else split.view(image, index)


def load_blocks(
    split: EvaluationSplit,
    blocks: Sequence[Sequence[int]],
    size: tuple[int, int],
    device: torch.device,
    workers: int,
) -> Iterator[Tensor]:
    """uint8 images [B, 3, H, W] of each block, on `device`, prepared ahead by workers.

    Raises UserError naming an image that is unusable or has changed: none is ever skipped, which
    would change metrics silently.
    """
    loader = DataLoader(
        ImageBlocks(split, blocks, size),
        batch_size=None,
        pin_memory=device.type == "cuda",
        **loader_settings(__name__, min(workers, len(blocks))),
    )
    for images in loaded(loader):
        yield images.to(device, non_blocking=True)
