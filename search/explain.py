"""Explains a hit: how well each attribute of the sentence matches the image, and where the model attended to it.

Letters: C attributes, T text tokens, L patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from dataset.attributes import Attribute, attribute_ids, parse_attributes
from dataset.captions import plain_text
from dataset.decoding import Unusable
from models.gradcam import attribute_maps, word_maps
from search.encoder import EncodedQuery, Encoder
from search.searcher import Searcher
from utils.errors import NotThere


@dataclass(frozen=True)
class ExplainedAttribute:
    """An attribute of the sentence: its words, how likely it fits the image (0 to 1), where the model attended to it.

    heat [rows, columns] of the grid of patches, 0 to 1.
    """

    words: str
    match: float
    heat: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """match: probability that image and sentence belong together; heat: of all words, as of an attribute."""

    path: str
    match: float
    heat: np.ndarray
    attributes: list[ExplainedAttribute]
    image: np.ndarray  # as the model reads it, uint8 [H, W, 3]


def explain(searcher: Searcher, text: str, path: str) -> Explanation:
    """Explain an image of the gallery as a hit for a sentence (attribute head: MARS section 3.3), by what re-ranks.

    Raises UserError when the sentence holds no word, or spaCy is not installed; NotThere when the gallery holds no such
    image, or its file is gone or changed.
    """
    with searcher.turn:
        try:
            return explain_image(searcher.reranker, text, path, searcher.gallery.content_of(path))
        except Unusable as fault:
            raise NotThere(f"image {path} {fault}") from None


def explain_image(encoder: Encoder, text: str, path: str, content: bytes) -> Explanation:
    """Explain the content of any image file as a hit; path: what to call it. Raises UserError, or Unusable."""
    query, image = encoder.query(text), encoder.read(content)
    (attributes,) = parse_attributes([plain_text(query.text)], encoder.config.max_words, rule="visible")
    known = map(query.without_unknown, attributes)
    attributes = [spans for spans in known if len(spans) > 1]
    numbers = torch.tensor([attribute_ids(attributes, query.encoded.offsets, len(query.encoded.ids))])
    device, model = encoder.setting.device, encoder.trained.matcher
    numbers = numbers.to(device)
    found = word_maps(model, image[None].to(device), query.tokens, numbers)
    grid = model.grid
    heats = attribute_maps(found.maps, numbers)[0].cpu().reshape(-1, *grid).numpy()
    matches = torch.sigmoid(found.attribute_match[0]).cpu().tolist()
    explained = [
        ExplainedAttribute(" ".join(query.cleaned[start:end] for start, end in spans), match, to_one(heat))
        for spans, match, heat in zip(attributes_read(attributes, query), matches, heats, strict=True)
    ]
    whole = found.maps[0, 1:-1].mean(0).reshape(grid).cpu().numpy()  # of all words, [CLS] and [SEP] aside
    return Explanation(
        path=path,
        match=float(torch.sigmoid(found.match[0])),
        heat=to_one(whole),
        attributes=explained,
        image=image.permute(1, 2, 0).numpy(),
    )


def attributes_read(attributes: Sequence[Attribute], query: EncodedQuery) -> list[Attribute]:
    """The attributes of which the model reads a word piece, in the order of their numbers."""
    offsets, length = query.encoded.offsets, len(query.encoded.ids)
    return [spans for spans in attributes if max(attribute_ids([spans], offsets, length))]


def to_one(heat: np.ndarray) -> np.ndarray:
    """A heat map scaled so that its greatest value is 1; a map of zeros stays as it is."""
    return heat / max(float(heat.max()), 1e-12)


def overlay(image: np.ndarray, heat: np.ndarray, height: int = 384) -> Image.Image:
    """The image (uint8 [H, W, 3]), enlarged, with heat over it."""
    width = max(1, round(height * image.shape[1] / image.shape[0]))
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    mask = Image.fromarray((255 * np.clip(heat, 0, 1)).astype(np.uint8))
    mask = mask.resize((width, height), Image.Resampling.BICUBIC)
    warm = np.asarray(mask, dtype=np.float32)[..., None] / 255
    dimmed = np.asarray(picture, dtype=np.float32) * (0.35 + 0.65 * warm)
    glow = np.array([255, 70, 0], dtype=np.float32)
    return Image.fromarray((dimmed * (1 - 0.45 * warm) + glow * 0.45 * warm).clip(0, 255).astype(np.uint8))
