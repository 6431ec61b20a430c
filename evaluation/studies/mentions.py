"""What captions of the synthetic benchmark mention, and which pixels that is: its attributes.json and masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset.attributes import Attribute
from dataset.captions import clean_caption_with_offsets
from dataset.evaluation_split import EvaluationSplit
from dataset.image_files import normalise as normalise_path
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
    """The mentions of chosen captions of a split. mentions: of each; masks: file of each; names: by mask value."""

    places: list[int]
    mentions: list[list[Mention]]
    masks: list[Path]
    names: dict[int, str]


def read_mentions(split: EvaluationSplit, places: Sequence[int]) -> Mentions:
    """What attributes.json beside the image folder says of the captions at these places.

    Raises UserError when there is none, it has no masks, or it is not that of this split.
    """
    root = split.image_root.absolute().parent
    path = root / "attributes.json"
    if not path.is_file():
        raise UserError(f"no file {path}: only the synthetic benchmark knows the pixels of attributes; {ADVICE}")
    content = read_json(path, "attribute file")
    shown_on = split.caption_image.tolist()
    first = {image: place for place, image in reversed(list(enumerate(shown_on)))}  # an image's first caption
    try:
        names = {int(value): name for value, name in content["legend"].items()}
        known = {
            normalise_path(image["file_path"]): image
            for identity in content["identities"]
            for image in identity["images"]
        }
        records = [known_image(known, split.images[shown_on[place]], path) for place in places]
        written = [
            record["captions"][place - first[shown_on[place]]]["mentions"]
            for record, place in zip(records, places, strict=True)
        ]
        mentions = [[Mention(one["attribute"], one["start"], one["end"]) for one in own] for own in written]
        masks = [root / "masks" / record["mask"] for record in records]
        wrong = [
            place
            for place, own in zip(places, mentions, strict=True)
            if any(not fits(one, split.texts[place], names) for one in own)
        ]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise UserError(f"attribute file {path} is not that of the images and captions beside it; {ADVICE}") from None
    if wrong:
        raise UserError(f"attribute file {path}: its mentions are not those of caption {wrong[0]}; {ADVICE}")
    return Mentions(list(places), mentions, masks, names)


def known_image(known: Mapping[str, dict], name: str, path: Path) -> dict:
    """What the attribute file says of an image. Raises UserError when that is nothing, or there is no mask."""
    record = known.get(normalise_path(name))
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
        kept = [place for place, origin in enumerate(origins) if mention.start <= origin < mention.end]
        spans.append([(kept[0], kept[-1] + 1)] if kept else [])
    return spans


def read_mask(path: Path) -> Tensor:
    """Values [H, W] of a mask. Raises UserError when it cannot be read."""
    try:
        with Image.open(path) as mask:
            return torch.from_numpy(np.array(mask.convert("L") if mask.mode != "P" else mask))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"mask {path} cannot be read ({str(error).splitlines()[0]}); {ADVICE}") from None
