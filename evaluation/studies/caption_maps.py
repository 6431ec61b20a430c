"""Grad-CAM maps of whole captions and of their attributes, for the studies that draw or measure where words look.

Letters: B pairs of caption and image, T word pieces, L patches, C attributes of a caption, H and W pixels.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import interpolate

from dataset.attributes import Attribute, attribute_indices
from dataset.batch import TextTokens
from dataset.evaluation_split import EvaluationSplit, blocks_of, load_blocks
from dataset.tokens import Encoded, pad_batch
from evaluation.stages.encoding import progress
from evaluation.studies.comparison import image_indices
from evaluation.trained import TrainedModel
from models.gradcam import TARGETS, attribute_maps, require_maps, usual_layer, word_maps
from utils.errors import UserError

PAIRS_AT_ONCE = 32


@dataclass(frozen=True)
class CaptionMaps:
    """Grad-CAM maps of the words and attributes of one caption on one image; everything on the CPU.

    offsets: the characters of the cleaned caption that each piece was cut from; words [T, L]: maps of the pieces;
    attributes [C, L]: mean maps of the words of each attribute; present [C]: False = no word of it was read. match:
    the pair's match logit; attribute_match [C]: that of each attribute alone.
    """

    offsets: list[tuple[int, int]]
    words: Tensor
    attributes: Tensor
    present: list[bool]
    match: float
    attribute_match: list[float]

    def of_caption(self) -> Tensor:
        """Mean map [L] over all words, [CLS] and [SEP] left out."""
        return self.words[1:-1].mean(0) if len(self.words) > 2 else self.words.new_zeros(self.words.shape[1])


def add_map_options(parser: argparse.ArgumentParser) -> None:
    """The options of studies that take maps."""
    parser.add_argument(
        "--layer", type=int, metavar="N", help="fusion layer whose attention counts (default: the fourth from the top)"
    )
    about = (
        "the logit that words speak for: match, of caption and image, or attribute, of the attribute that a word"
        " belongs to (%(default)s)"
    )
    parser.add_argument("--target", choices=TARGETS, default="match", help=about)


def chosen_layer(trained: TrainedModel, options: argparse.Namespace) -> int:
    """The layer that maps are taken from. Raises UserError when it has none for the target."""
    encoder = trained.matcher.text_encoder
    layer = usual_layer(encoder) if options.layer is None else options.layer
    try:
        require_maps(encoder, layer, options.target)
    except UserError as error:
        raise UserError(f"checkpoint {trained.checkpoint}: {error} (--layer, --target)") from None
    return layer


def read_caption(trained: TrainedModel, text: str) -> Encoded:
    """Word pieces of a caption as written, as the model's evaluation reads it."""
    most = trained.config.max_words
    return trained.tokenizer.encode(trained.tokenizer.clean(text, most), most)


def maps_on_images(
    trained: TrainedModel,
    images: Tensor,
    texts: Sequence[str],
    attributes: Sequence[Sequence[Attribute]],
    layer: int,
    target: str,
) -> list[CaptionMaps]:
    """Maps of B captions, each on its image, in float32.

    images [B, 3, H, W], uint8 or normalised; texts: as written; attributes: of each caption, in characters of the
    cleaned one.
    From then on the model's parameters take no gradient.
    """
    read = [read_caption(trained, text) for text in texts]
    owners = [attribute_indices(own, one.offsets) for own, one in zip(attributes, read, strict=True)]
    numbers, _ = pad_batch([[0 if owner is None else owner + 1 for owner in row] for row in owners], 0)
    text = TextTokens(*pad_batch([one.ids for one in read], trained.tokenizer.special.pad))
    device = trained.setting.device
    trained.model.requires_grad_(False)  # gradients of parameters cost as much as the maps themselves
    found = word_maps(trained.matcher, images, text.to(device), numbers.to(device), layer, target)
    by_attribute = attribute_maps(found.maps, numbers.to(device)).cpu()
    maps, match, logits = found.maps.cpu(), found.match.tolist(), found.attribute_match.tolist()
    return [
        CaptionMaps(
            offsets=one.offsets,
            words=maps[row, : len(one.ids)],
            attributes=padded(by_attribute[row], len(own)),
            present=[number in owners[row] for number in range(len(own))],
            match=match[row],
            attribute_match=(logits[row] + [0.0] * len(own))[: len(own)],
        )
        for row, (one, own) in enumerate(zip(read, attributes, strict=True))
    ]


def padded(rows: Tensor, count: int) -> Tensor:
    """The first `count` rows [count, L], zero where there are fewer."""
    whole = rows.new_zeros(count, rows.shape[1])
    whole[: len(rows)] = rows[:count]
    return whole


def own_image_maps(
    trained: TrainedModel,
    split: EvaluationSplit,
    captions: Sequence[int],
    attributes: Sequence[Sequence[Attribute]],
    layer: int,
    target: str,
) -> Iterator[CaptionMaps]:
    """Maps of captions of a split (their indices), each on the image that it was written for, in their order.

    attributes: of each of these captions. Raises UserError naming an image that cannot be used.
    """
    blocks, images_of = blocks_of(len(captions), PAIRS_AT_ONCE), image_indices(split)
    wanted = [[images_of[captions[row]] for row in block] for block in blocks]
    setting = trained.setting
    loaded = load_blocks(split, wanted, setting.image_size, setting.device, setting.workers)
    for block, images in zip(progress(blocks, "Grad-CAM"), loaded, strict=True):
        texts = [split.texts[captions[row]] for row in block]
        yield from maps_on_images(trained, images, texts, [attributes[row] for row in block], layer, target)


def upsample(maps: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Maps [C, L] of a (rows, columns) grid as pictures [C, H, W] of `size` (height, width), bilinear."""
    return interpolate(maps.reshape(-1, 1, *grid), size=size, mode="bilinear", align_corners=False)[:, 0]


def peak_of(grid_map: Tensor, grid: tuple[int, int]) -> tuple[int, int] | None:
    """Row and column of the largest value of a map [L], both from 0; None where it is all zero."""
    if not grid_map.any():
        return None
    return divmod(int(grid_map.argmax()), grid[1])
