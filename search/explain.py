"""Explains a hit: how well each attribute of the sentence matches the image, and where the model attended to it.

Letters: L patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from dataset.attributes import Attribute, attribute_ids, parse_attributes
from dataset.captions import clean_caption, plain_text, spans_when_cleaned, word_numbers
from dataset.decoding import Unusable
from models.word_maps import MarkedText
from search.encoder import EncodedQuery, Encoder
from search.searcher import Searcher
from utils.errors import NotThere

RANKING = ("match", "similarity")  # the scores by which hits are ranked, as targets of maps


@dataclass(frozen=True)
class ExplainedAttribute:
    """An attribute of the sentence: its words, how well it fits the image, where the model attended to it.

    match: how likely it fits (0 to 1), by a model that has a matching head, else None; similarity: what it adds to the
    cosine of the embeddings, by a model that has none, else None. heat [rows, columns] of the grid of patches, 0 to 1.
    """

    words: str
    match: float | None
    heat: np.ndarray
    similarity: float | None = None


@dataclass(frozen=True)
class Explanation:
    """The scores and heat maps that explain one hit.

    match: probability that image and sentence belong together; heat: of all words, as of an attribute.

    match, similarity: as of an attribute, the latter the cosine itself.
    """

    path: str
    match: float | None
    heat: np.ndarray
    attributes: list[ExplainedAttribute]
    image: np.ndarray  # as the model reads it, uint8 [H, W, 3]
    similarity: float | None = None


def explain(searcher: Searcher, text: str, path: str) -> Explanation:
    """Explain an image of the gallery as a hit for a sentence (attribute head: MARS section 3.3), by what re-ranks.

    Raises UserError when the sentence holds no word, or spaCy is not installed; NotThere when the gallery holds no such
    image, or its file is gone or changed.
    """
    searcher.authorize("explain", text=text, image=path)
    with searcher.model_lock:
        try:
            return explain_image(searcher.reranker, text, path, searcher.gallery.content_of(path))
        except Unusable as fault:
            raise NotThere(f"image {path} {fault}") from None


def explain_image(encoder: Encoder, text: str, path: str, content: bytes) -> Explanation:
    """Explain the content of any image file as a hit; path: what to call it. Raises UserError, or Unusable."""
    model = encoder.trained.explainer
    query, image = encoder.encode_query(text), encoder.decode_image(content)
    written = plain_text(query.text)
    offsets = spans_when_cleaned(written, query.cleaned, query.encoded.offsets)
    attributes = attributes_read(written, query, offsets, encoder.config.max_words)
    cleaned, length = clean_caption(written, None), len(offsets)
    marks = attribute_ids(attributes, offsets, length), word_numbers(cleaned, offsets)
    marked = MarkedText(query.tokens, *(torch.tensor([numbers]) for numbers in marks)).to(encoder.setting.device)
    target = next(name for name in RANKING if name in model.map_targets)
    found = model.word_maps(image[None].to(encoder.setting.device), marked, model.usual_map_layer(target), target)
    scores = torch.cat([found.score, found.attribute_score[0]]).cpu()
    matches = torch.sigmoid(scores).tolist() if target == "match" else [None] * len(scores)
    similarities = scores.tolist() if target == "similarity" else [None] * len(scores)
    maps = torch.cat([found.caption, found.attributes[0]]).reshape(-1, *encoder.model.grid).cpu().numpy()
    heat, *heats = map(to_one, maps)
    words = [" ".join(cleaned[start:end] for start, end in spans) for spans in attributes]
    columns = zip(words, matches[1:], heats, similarities[1:], strict=True)
    return Explanation(
        path=path,
        match=matches[0],
        heat=heat,
        attributes=[ExplainedAttribute(*column) for column in columns],
        image=image.permute(1, 2, 0).numpy(),
        similarity=similarities[0],
    )


def attributes_read(
    text: str, query: EncodedQuery, offsets: Sequence[tuple[int, int]], max_words: int
) -> list[Attribute]:
    """The attributes of a sentence of which the model reads a piece; offsets: of pieces in the cleaned sentence."""
    (found,) = parse_attributes([text], max_words, rule="visible")
    known = [spans for spans in map(query.without_unknown, found) if len(spans) > 1]
    return [spans for spans in known if max(attribute_ids([spans], offsets, len(offsets)))]


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
