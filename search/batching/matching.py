"""Scores pairs of sentences and images by the matching head, those of several searches together.

Letters: P pairs, T text tokens, B images, N image tokens, D width.

A score does not depend on what else is scored with it: sentences of other lengths never go into one product, where one
would be padded for the other, and all else is computed row by row.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from evaluation.stages.encoding import kept_dtype
from evaluation.stages.reranking import at_once
from models.fusion import ImageKeysValues
from models.pairing import Pairing
from search.encoder import EncodedQuery, Encoder

IMAGES_AT_ONCE = 32  # that are projected by one product
MAX_PROJECTED_BYTES = 2**28  # bytes of keys and values of images that are held together

T = TypeVar("T")


class PairScorer:
    """Sentences that are scored with images."""

    @torch.inference_mode()
    def __init__(self, encoder: Encoder, queries: Sequence[EncodedQuery]):
        self.encoder, self.max_tokens = encoder, at_once(encoder.trained.matcher, encoder.setting.device).words
        self.prefixes = [encode_prefix(encoder, query) for query in queries]

    @torch.inference_mode()
    def score(self, wanted: Sequence[Sequence[str]], tokens: Mapping[str, Tensor]) -> list[dict[str, float]]:
        """ITM match logits by image for each sentence. wanted: names of its images; tokens [N, D] by name, each of
        which is projected once."""
        found: list[dict[str, float]] = [{} for _ in wanted]
        numbers = {name: number for number, name in enumerate(tokens)}
        if not numbers:
            return found
        images = project(self.encoder, list(tokens.values()))
        pairs = [(owner, name) for owner, names in enumerate(wanted) for name in names if name in numbers]
        for length in sorted({len(self.prefixes[owner]) for owner, _ in pairs}):
            alike = [pair for pair in pairs if len(self.prefixes[pair[0]]) == length]
            for some in chunks(alike, max(1, self.max_tokens // length)):
                texts = torch.stack([self.prefixes[owner] for owner, _ in some])
                scores = match(self.encoder, texts, images, [numbers[name] for _, name in some])
                for (owner, name), score in zip(some, scores.tolist(), strict=True):
                    found[owner][name] = score
        return found


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Runs of `size` items; the last one may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


def encode_prefix(encoder: Encoder, query: EncodedQuery) -> Tensor:
    """What fusion starts from [T, D]."""
    with encoder.setting.precision():
        return encoder.trained.matcher.text_encoder.encode_prefix(query.tokens.ids, query.tokens.mask)[0]


def images_at_once(encoder: Encoder) -> int:
    """How many images are held and projected before they are scored."""
    model = encoder.trained.matcher
    size, tokens = model.text_encoder.size, 1 + model.grid[0] * model.grid[1]
    layers = size.num_hidden_layers - size.first_cross_layer
    each = 2 * layers * tokens * size.hidden_size * kept_dtype(encoder.setting).itemsize
    return max(IMAGES_AT_ONCE, MAX_PROJECTED_BYTES // each)


def project(encoder: Encoder, tokens: Sequence[Tensor]) -> ImageKeysValues:
    """Keys and values of every layer for images with these tokens [N, D]."""
    with encoder.setting.precision():
        text_encoder = encoder.trained.matcher.text_encoder
        parts = [text_encoder.project_images(torch.stack(list(some))) for some in chunks(tokens, IMAGES_AT_ONCE)]
    sides = {number: zip(*(part.layers[number] for part in parts), strict=True) for number in parts[0].layers}
    return ImageKeysValues({number: (torch.cat(keys), torch.cat(values)) for number, (keys, values) in sides.items()})


def match(encoder: Encoder, texts: Tensor, images: ImageKeysValues, indices: Sequence[int]) -> np.ndarray:
    """ITM match logits [P] of text prefixes [P, T, D] with the images of these indices."""
    chosen = torch.tensor(indices, device=texts.device)
    with encoder.setting.precision():
        own = ImageKeysValues(
            {number: (keys[chosen], values[chosen]) for number, (keys, values) in images.layers.items()}
        )
        mask = torch.ones(texts.shape[:2], dtype=torch.bool, device=texts.device)
        return encoder.trained.matcher.match_scores(texts, mask, own, Pairing()).float().cpu().numpy()
