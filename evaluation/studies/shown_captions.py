"""The captions that the Grad-CAM sheet shows: chosen by number, drawn by seed, or a pair of one's own."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.attributes import Attribute, cached_attributes, parse_attributes
from dataset.captions import clean_caption, plain_text
from dataset.decoding import Unusable, read_content
from dataset.evaluation_split import EvaluationSplit, blocks_of
from dataset.images import image_from
from evaluation.studies.comparison import image_indices
from evaluation.trained import TrainedModel
from utils.errors import UserError
from utils.text import counted

MIN_ATTRIBUTES = 2  # of a caption that is drawn by seed: one attribute alone has no other to compare with
PARSED_AT_ONCE = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShownCaption:
    """A caption, the image it is shown on, and its attributes in characters of the cleaned caption.

    number: its index in the split; None = a pair of one's own.
    """

    number: int | None
    text: str
    image: Path
    attributes: list[Attribute]

    def words_of(self, attribute: int) -> str:
        """The words of an attribute."""
        cleaned = clean_caption(self.text, None)
        return " ".join(cleaned[start:end] for start, end in self.attributes[attribute])


def own_pair(text: str, image: Path, trained: TrainedModel) -> ShownCaption:
    """The pair that --image and --text give. Raises UserError when the image is not one."""
    try:
        image_from(read_content(image), trained.config.image_size)
    except Unusable as fault:
        raise UserError(f"--image {image} {fault}; name another one") from None
    text = plain_text(text)
    (attributes,) = parse_attributes([text], trained.config.max_words, rule=trained.config.attributes)
    return ShownCaption(None, text, image, attributes)


def choose_captions(
    options: argparse.Namespace, trained: TrainedModel, split: EvaluationSplit, folder: Path
) -> list[ShownCaption]:
    """The captions that were asked for by number, or some drawn by seed, in the order of their numbers.

    Raises UserError for a number that does not exist, or when no caption has attributes enough.
    """
    if not options.captions:
        return draw_captions(options, trained, split, folder)
    wrong = [number for number in options.captions if not 0 <= number < len(split.texts)]
    if wrong:
        last = len(split.texts) - 1
        raise UserError(f"--captions {wrong[0]}: the {options.split} split has captions 0 to {last}")
    return captions_of(list(dict.fromkeys(options.captions)), trained, split, options.split, folder)


def draw_captions(
    options: argparse.Namespace, trained: TrainedModel, split: EvaluationSplit, folder: Path
) -> list[ShownCaption]:
    """Captions with attributes enough, drawn by seed, in the order of their numbers. Raises UserError without any."""
    order = np.random.default_rng(options.seed).permutation(len(split.texts)).tolist()
    found: dict[int, ShownCaption] = {}
    for portion in blocks_of(len(order), PARSED_AT_ONCE):
        numbers = order[portion.start : portion.stop]
        parsed = captions_of(numbers, trained, split, options.split, folder)
        pairs = zip(numbers, parsed, strict=True)
        found |= {number: one for number, one in pairs if len(one.attributes) >= MIN_ATTRIBUTES}
        if len(found) >= options.queries:
            break
    if not found:
        raise UserError(
            f"no caption of the {options.split} split has {MIN_ATTRIBUTES} attributes; choose some with"
            " --captions NUMBER"
        )
    if len(found) < options.queries:
        logger.warning("only %s with %d attributes or more", counted(len(found), "caption"), MIN_ATTRIBUTES)
    return [found[number] for number in sorted(list(found)[: options.queries])]


def captions_of(
    numbers: Sequence[int], trained: TrainedModel, split: EvaluationSplit, name: str, folder: Path
) -> list[ShownCaption]:
    """Captions of a split with their attributes, which are kept beside its annotations once they are found."""
    beside = Path(getattr(trained.config, f"{name}_file"))
    texts = [split.texts[number] for number in numbers]
    known = cached_attributes(texts, beside, folder, trained.config.max_words, trained.config.attributes)
    own_images = image_indices(split)
    images = [split.image_root / split.images[own_images[number]] for number in numbers]
    return [ShownCaption(*parts, known[parts[1]]) for parts in zip(numbers, texts, images, strict=True)]
