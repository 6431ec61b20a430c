"""Why an image was found: how well each attribute of the sentence matches it, and where the model looked.

Letters: C attributes, T text tokens, L patches.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from dataset.attributes import attribute_ids, parse_attributes
from dataset.decoding import Unusable
from models.gradcam import attribute_maps, word_maps
from search.encoder import Encoder, Query
from search.searcher import Searcher
from utils.errors import UserError


@dataclass(frozen=True)
class Attribute:
    """An attribute of the sentence: its words, how likely it fits the image (0 to 1), where the model looked for it.

    heat [rows, columns] of the grid of patches, 0 to 1.
    """

    words: str
    match: float
    heat: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """match: probability that image and sentence belong together; heat: of all words, as `Attribute.heat`."""

    path: str
    match: float
    heat: np.ndarray
    attributes: list[Attribute]
    image: np.ndarray  # as the model sees it, uint8 [H, W, 3]


def explain(searcher: Searcher, text: str, path: str) -> Explanation:
    """Explain an image of the gallery as a hit for a sentence (attribute head: MARS section 3.3).

    Raises UserError when the sentence holds no word, the gallery no such image, or spaCy is not installed.
    """
    with searcher.turn:
        try:
            return explain_image(searcher.encoder, text, path, searcher.gallery.content_of(path))
        except Unusable as fault:
            raise UserError(f"image {path} {fault}") from None


def explain_image(encoder: Encoder, text: str, path: str, content: bytes) -> Explanation:
    """The same for the content of any image file."""
    query, image = encoder.query(text), encoder.read(content)
    spans = parse_attributes_quietly(encoder, query)
    numbers = torch.tensor([attribute_ids(spans, query.encoded.offsets, len(query.encoded.ids))])
    device, model = encoder.setting.device, encoder.model
    numbers = numbers.to(device)
    found = word_maps(model, image[None].to(device), query.tokens, numbers)
    grid = model.grid
    heats = attribute_maps(found.maps, numbers)[0].cpu().reshape(-1, *grid).numpy()
    matches = torch.sigmoid(found.attribute_match[0]).cpu().tolist()
    attributes = [
        Attribute(" ".join(query.cleaned[start:end] for start, end in words), match, to_one(heat))
        for words, match, heat in zip(kept_attributes(spans, query), matches, heats, strict=True)
    ]
    whole = found.maps[0, 1:-1].mean(0).reshape(grid).cpu().numpy()
    return Explanation(
        path, float(torch.sigmoid(found.match[0])), to_one(whole), attributes, image.permute(1, 2, 0).numpy()
    )


def parse_attributes_quietly(encoder: Encoder, query: Query) -> list[list[tuple[int, int]]]:
    """Attributes of a sentence, as characters of it cleaned."""
    return parse_attributes([query.text], encoder.config.max_words)[0]


def kept_attributes(spans: list[list[tuple[int, int]]], query: Query) -> list[list[tuple[int, int]]]:
    """Those that have a word piece: in the order of their numbers."""
    kept = [words for words in spans if max(attribute_ids([words], query.encoded.offsets, len(query.encoded.ids)))]
    return kept


def to_one(heat: np.ndarray) -> np.ndarray:
    """Scaled so that the hottest patch is 1; nothing stays nothing."""
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
