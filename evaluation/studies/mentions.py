"""What captions of the synthetic benchmark mention, and which pixels that is: its attributes.json and masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset.attributes import Attribute
from dataset.captions import clean_caption_with_offsets
from dataset.evaluation_split import EvaluationSplit
from dataset.image_files import normal_path
from evaluation.studies.comparison import image_indices
from utils.errors import UserError
from utils.files import read_json

ADVICE = "make one with `python -m dataset.synthetic FOLDER` (without --no-masks)"


@dataclass(frozen=True)
class Mention:
    """Characters [start, end) of a caption as written that speak of an attribute, by its value in masks."""

    attribute: int
    start: int
    end: int


@dataclass(frozen=True)
class Mentions:
    """The mentions of chosen captions of a split, by their indices. masks: file of each; names: by mask value."""

    captions: list[int]
    mentions: list[list[Mention]]
    masks: list[Path]
    names: dict[int, str]


def read_mentions(split: EvaluationSplit, captions: Sequence[int]) -> Mentions:
    """What attributes.json beside the image folder says of these captions (their indices).

    Raises UserError when there is none, it has no masks, or it is not that of this split.
    """
    root = split.image_root.absolute().parent
    path = root / "attributes.json"
    if not path.is_file():
        raise UserError(f"no file {path}: only the synthetic benchmark knows the pixels of attributes; {ADVICE}")
    content = read_json(path, "attribute file")
    images = image_indices(split)
    first = {image: caption for caption, image in reversed(list(enumerate(images)))}  # an image's first caption
    try:
        names = {int(value): name for value, name in content["legend"].items()}
        known = {
            normal_path(image["file_path"]): image for identity in content["identities"] for image in identity["images"]
        }
        records = [known_image(known, split.images[images[caption]], path) for caption in captions]
        mentions = [
            mentions_of(record, caption - first[images[caption]])
            for record, caption in zip(records, captions, strict=True)
        ]
        masks = [root / "masks" / record["mask"] for record in records]
        pairs = zip(captions, mentions, strict=True)
        wrong = [caption for caption, own in pairs if not all(fits(one, split.texts[caption], names) for one in own)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise UserError(f"attribute file {path} is not that of the images and captions beside it; {ADVICE}") from None
    if wrong:
        raise UserError(f"attribute file {path}: its mentions are not those of caption {wrong[0]}; {ADVICE}")
    return Mentions(list(captions), mentions, masks, names)


def mentions_of(record: Mapping[str, Any], caption: int) -> list[Mention]:
    """The mentions of one of an image's captions, as the attribute file says."""
    written = record["captions"][caption]["mentions"]
    return [Mention(one["attribute"], one["start"], one["end"]) for one in written]


def known_image(known: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    """What the attribute file says of an image. Raises UserError when that is nothing, or there is no mask."""
    record = known.get(normal_path(name))
    if record is None:
        raise UserError(f"attribute file {path} does not know image {name}; {ADVICE}")
    if record["mask"] is None:
        raise UserError(f"the benchmark of {path} was made without masks; {ADVICE}")
    return record


def fits(mention: Mention, text: str, names: Mapping[int, str]) -> bool:
    """Whether a mention can be of this caption."""
    return mention.attribute in names and 0 <= mention.start < mention.end <= len(text)


def spans_of(text: str, mentions: Sequence[Mention]) -> list[Attribute]:
    """The characters of each mention in the cleaned caption; none where cleaning left nothing of it."""
    _, origins = clean_caption_with_offsets(text, None)
    spans = []
    for mention in mentions:
        kept = [index for index, origin in enumerate(origins) if mention.start <= origin < mention.end]
        spans.append([(kept[0], kept[-1] + 1)] if kept else [])
    return spans


def read_mask(path: Path) -> Tensor:
    """Values [H, W] of a mask. Raises UserError when it cannot be read."""
    try:
        with Image.open(path) as mask:
            return torch.from_numpy(np.array(mask.convert("L") if mask.mode != "P" else mask))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"mask {path} cannot be read ({str(error).splitlines()[0]}); {ADVICE}") from None
