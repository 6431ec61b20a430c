"""What a model gives that shows where in an image the words of a caption look, for studies and for search.

Maps are Grad-CAM (Selvaraju et al., 2017) of attention, as ALBEF has it: attention to each patch times the gradient of
a score by that attention, negative products left out, averaged over heads. `TARGETS` are the scores.

Letters: B pairs of caption and image, T text tokens, L patches, C attributes of a caption.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dataset.batch import TextTokens
from models.losses import attribute_weights
from utils.errors import UserError


@dataclass(frozen=True)
class MapTarget:
    """A score that maps are of. systems: which have it; attention, gradient_of: what is multiplied, for headings.

    score, attribute_score: what the numbers of a caption and of an attribute are, and their columns in files; note: how
    the latter is written below a picture.
    """

    systems: str
    attention: str
    gradient_of: str
    score: str
    column: str
    attribute_score: str
    attribute_column: str
    note: str


TARGETS = {
    "match": MapTarget(
        systems="ALBEF, RaSa and MARS",
        attention="cross-attention",
        gradient_of="match logit",
        score="match logit",
        column="match_logit",
        attribute_score="attribute's logit",
        attribute_column="attribute_logit",
        note="logit {:.2f}",
    ),
    "attribute": MapTarget(
        systems="ALBEF, RaSa and MARS",
        attention="cross-attention",
        gradient_of="match logit of the attribute",
        score="match logit",
        column="match_logit",
        attribute_score="attribute's logit",
        attribute_column="attribute_logit",
        note="logit {:.2f}",
    ),
    "similarity": MapTarget(
        systems="CLIP, IRRA and RDE",
        attention="the image encoder's attention",
        gradient_of="what words add to the cosine",
        score="cosine",
        column="similarity",
        attribute_score="added to the cosine",
        attribute_column="added_similarity",
        note="adds {:.3f}",
    ),
    "word": MapTarget(
        systems="an IRRA with its cross-modal encoder",
        attention="cross-attention",
        gradient_of="logits of masked words",
        score="cosine",
        column="similarity",
        attribute_score="masked words predicted",
        attribute_column="words_predicted",
        note="predicted {:.0%}",
    ),
}


@dataclass(frozen=True)
class MarkedText:
    """Captions, and what their tokens belong to: the number of an attribute, and of a word, [B, T] each; 0 = none."""

    text: TextTokens
    attributes: Tensor
    words: Tensor

    def to(self, device: torch.device) -> "MarkedText":
        return MarkedText(self.text.to(device), self.attributes.to(device), self.words.to(device))


@dataclass(frozen=True)
class WordMaps:
    """Maps of captions, each on one image; all 0 or more.

    maps [B, T, L]: of the word of each token, None = not computed; caption [B, L]: of the whole; attributes [B, C, L].
    score [B]: of the pairs; attribute_score [B, C]: of attributes 1 ... C, 0 where a caption has none of that number.
    """

    maps: Tensor | None
    caption: Tensor
    attributes: Tensor
    score: Tensor
    attribute_score: Tensor


class ExplainsWords(ABC):
    """A model that has maps of words."""

    @property
    @abstractmethod
    def map_targets(self) -> Sequence[str]:
        """Names of `TARGETS` that it has maps of, the usual one first."""

    @abstractmethod
    def map_layers(self, target: str) -> Sequence[int]:
        """The layers whose attention has maps of words for a target, ascending."""

    @abstractmethod
    def usual_map_layer(self, target: str) -> int:
        """The one that maps are taken from by default."""

    def require_map_layer(self, layer: int, target: str) -> None:
        """Raises UserError when words have no maps for a target in this layer."""
        layers = self.map_layers(target)
        if layer not in layers:
            raise UserError(f"layer {layer} has no maps of {target}; choose {' or '.join(map(str, layers))}")

    @abstractmethod
    def word_maps(
        self, images: Tensor, marked: MarkedText, layer: int, target: str, with_words: bool = False
    ) -> WordMaps:
        """Maps of B captions, each on its image [B, 3, H, W], uint8 or normalised; the model is in evaluation mode.

        with_words: also of single words, which may take a pass for each.
        """


def require_target(model: ExplainsWords, target: str) -> None:
    """Raises UserError when a model has no maps of a target."""
    if target not in model.map_targets:
        raise UserError(
            f"maps of {target} are of {TARGETS[target].systems}; this model has those of"
            f" {' and '.join(model.map_targets)}"
        )


def attribute_maps(maps: Tensor, attributes: Tensor) -> Tensor:
    """Mean map of the tokens of each attribute: maps [B, T, L], attributes [B, T] -> [B, C, L]."""
    return attribute_weights(attributes, int(attributes.max())).to(maps.dtype) @ maps
