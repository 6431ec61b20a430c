"""Grad-CAM maps of whole captions and of their attributes, for the studies that draw or measure where words look.

Letters: B pairs of caption and image, T word pieces, L patches, C attributes of a caption, H and W pixels.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from dataset.attributes import Attribute, attribute_indices
from dataset.batch import TextTokens
from dataset.captions import clean_caption, spans_when_cleaned, word_numbers
from dataset.evaluation_split import EvaluationSplit, blocks_of, load_blocks
from dataset.tokens import Encoded, pad_batch
from evaluation.stages.encoding import progress
from evaluation.studies.comparison import image_indices
from evaluation.trained import TrainedModel
from models.word_maps import TARGETS, MapTarget, MarkedText, require_target
from utils.errors import UserError

PAIRS_AT_ONCE = 32


@dataclass(frozen=True)
class MapChoice:
    """Which maps of a model: of a name of `models.word_maps.TARGETS`, by the attention of a layer."""

    target: str
    layer: int

    @property
    def about(self) -> MapTarget:
        return TARGETS[self.target]


@dataclass(frozen=True)
class CaptionMaps:
    """Grad-CAM maps of the words and attributes of one caption on one image; everything on the CPU.

    offsets: the characters of the cleaned caption that each piece was cut from; words [T, L]: maps of the pieces, no
    rows where they were not asked for; whole [L]: of the caption; attributes [C, L]; present [C]: False = no word of it
    was read. score: of the pair; attribute_score [C]: of each attribute (`models.word_maps.MapTarget`).
    """

    offsets: list[tuple[int, int]]
    words: Tensor
    whole: Tensor
    attributes: Tensor
    present: list[bool]
    score: float
    attribute_score: list[float]


def facts_of(choices: Mapping[str, MapChoice]) -> dict[str, Any]:
    """What a JSON file of results says of the maps of models, by name."""
    target = " and ".join(dict.fromkeys(one.target for one in choices.values()))
    return {"target": target, "layers": {name: one.layer for name, one in choices.items()}}


def add_map_options(parser: argparse.ArgumentParser) -> None:
    """The options of studies that take maps."""
    parser.add_argument(
        "--layer",
        type=int,
        metavar="N",
        help="layer whose attention counts (default: of a fusion encoder the fourth from the top)",
    )
    about = (
        "what words speak for: match, of caption and image, or attribute, of the attribute that a word belongs to"
        " (ALBEF, RaSa, MARS); similarity, of both (CLIP, IRRA, RDE); word, that was masked (IRRA with its cross-modal"
        " encoder). Default: the first that a model has"
    )
    parser.add_argument("--target", choices=TARGETS, help=about)


def choose_maps(trained: TrainedModel, options: argparse.Namespace) -> MapChoice:
    """The maps that are taken of a model. Raises UserError when it has none of the target, or in the layer."""
    model = trained.explainer
    target = options.target or model.map_targets[0]
    try:
        require_target(model, target)
        layer = model.usual_map_layer(target) if options.layer is None else options.layer
        model.require_map_layer(layer, target)
    except UserError as error:
        raise UserError(f"checkpoint {trained.checkpoint}: {error} (--layer, --target)") from None
    return MapChoice(target, layer)


def read_caption(trained: TrainedModel, text: str) -> Encoded:
    """Word pieces of a caption as written, as the model's evaluation reads it, their offsets in the cleaned caption."""
    most = trained.config.max_words
    read = trained.tokenizer.clean(text, most)
    encoded = trained.tokenizer.encode(read, most)
    return Encoded(encoded.ids, spans_when_cleaned(text, read, encoded.offsets))


def maps_on_images(
    trained: TrainedModel,
    images: Tensor,
    texts: Sequence[str],
    attributes: Sequence[Sequence[Attribute]],
    choice: MapChoice,
    with_words: bool,
) -> list[CaptionMaps]:
    """Maps of B captions, each on its image, in float32.

    images [B, 3, H, W], uint8 or normalised; texts: as written; attributes: of each caption, in characters of the
    cleaned one; with_words: of single words too.
    From then on the model's parameters take no gradient.
    """
    read = [read_caption(trained, text) for text in texts]
    owners = [attribute_indices(own, one.offsets) for own, one in zip(attributes, read, strict=True)]
    numbers, _ = pad_batch([[0 if owner is None else owner + 1 for owner in row] for row in owners], 0)
    cleaned = [clean_caption(text, None) for text in texts]
    words, _ = pad_batch([word_numbers(text, one.offsets) for text, one in zip(cleaned, read, strict=True)], 0)
    text = TextTokens(*pad_batch([one.ids for one in read], trained.tokenizer.special.pad))
    trained.model.requires_grad_(False)  # gradients of parameters cost as much as the maps themselves
    marked = MarkedText(text, numbers, words).to(trained.setting.device)
    found = trained.explainer.word_maps(images, marked, choice.layer, choice.target, with_words)
    whole, by_attribute = found.caption.cpu(), found.attributes.cpu()
    # those of all words of thousands of captions take gigabytes
    maps = found.maps.cpu() if with_words and found.maps is not None else whole[:, None][:, :0]
    score, scores = found.score.tolist(), found.attribute_score.tolist()
    return [
        CaptionMaps(
            offsets=one.offsets,
            words=maps[row, : len(one.ids)],
            whole=whole[row],
            attributes=padded(by_attribute[row], len(own)),
            present=[number in owners[row] for number in range(len(own))],
            score=score[row],
            attribute_score=(scores[row] + [0.0] * len(own))[: len(own)],
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
    choice: MapChoice,
    with_words: bool,
) -> Iterator[CaptionMaps]:
    """Maps of captions of a split (their indices), each on the image that it was written for, in their order.

    attributes: of each of these captions; with_words: as of `maps_on_images`. Raises UserError naming an image that
    cannot be used.
    """
    blocks, images_of = blocks_of(len(captions), PAIRS_AT_ONCE), image_indices(split)
    wanted = [[images_of[captions[row]] for row in block] for block in blocks]
    setting = trained.setting
    loaded = load_blocks(split, wanted, setting.image_size, setting.device, setting.workers)
    for block, images in zip(progress(blocks, "Grad-CAM"), loaded, strict=True):
        texts = [split.texts[captions[row]] for row in block]
        yield from maps_on_images(trained, images, texts, [attributes[row] for row in block], choice, with_words)


def upsample(maps: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Maps [C, L] of a (rows, columns) grid as pictures [C, H, W] of `size` (height, width), bilinear."""
    return interpolate(maps.reshape(-1, 1, *grid), size=size, mode="bilinear", align_corners=False)[:, 0]


def peak_of(grid_map: Tensor, grid: tuple[int, int]) -> tuple[int, int] | None:
    """Row and column of the largest value of a map [L], both from 0; None where it is all zero."""
    if not grid_map.any():
        return None
    return divmod(int(grid_map.argmax()), grid[1])
