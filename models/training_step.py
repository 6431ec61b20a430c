"""What the losses of one training step read: embeddings, negatives, words and fused states of a batch.

Letters: B batch, N image tokens, T text tokens, D width, E embedding, V vocabulary, C attributes of a caption,
M masked words.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dataset.batch import TextTokens, TrainBatch
from models.fusion import TextEncoder
from models.fusion_batch import TextPrefix
from models.image_encoder import PatchSubset
from models.randomness import RandomDraws


@dataclass(frozen=True)
class Reading:
    """A caption encoded without images.

    prefix: what fusion starts from; states [B, T, D]: text-only states; embedding [B, E], normalised.
    """

    tokens: TextTokens
    prefix: TextPrefix
    states: Tensor
    embedding: Tensor


@dataclass(frozen=True)
class Embeddings:
    """Normalised embeddings [B, E] of a batch by the online and the momentum model (suffix _m, without gradient).

    In a step that does not ask the momentum model, those of the online model stand in for its own.
    """

    image: Tensor
    text: Tensor
    image_m: Tensor
    text_m: Tensor


class QueueEntry(NamedTuple):
    """What a micro-batch of G samples on all processes adds to the queues: embeddings [G, E] and identities [G]."""

    image: Tensor
    text: Tensor
    identity: Tensor


class StepOutput(NamedTuple):
    """Unweighted losses by name, and what enters the queues when the step is taken."""

    losses: dict[str, Tensor]
    queued: QueueEntry


@dataclass(frozen=True)
class Negatives:
    """Hard negatives: image [B] for each text, text [B] for each image; valid [B] False = none exists."""

    image: Tensor
    text: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Words:
    """A caption with some words masked or replaced.

    ids, labels [B, T]; chosen [M]: flat indices of the masked words, and some others up to a number known beforehand;
    teacher [M, V]: the momentum model's logits of these, or None. whole: the loss reads the states of padding too.
    """

    ids: Tensor
    labels: Tensor
    chosen: Tensor | None = None
    teacher: Tensor | None = None
    whole: bool = False


@dataclass(frozen=True)
class Pairs:
    """Positives, texts with negative images, negative texts with images: 3B rows.

    states [3B, T, D], attributes [3B, T] (numbers, as in TrainBatch), matches [3B] 1 = one identity, valid [3B].
    """

    states: Tensor
    attributes: Tensor
    attribute_count: int
    matches: Tensor
    valid: Tensor


class LearningModel(Protocol):
    """What losses may ask of the model; `objective` holds its settings (`objectives.Objective`)."""

    objective: Any
    temp: nn.Parameter
    patch_size: int
    text_encoder: TextEncoder
    image_queue: Tensor
    text_queue: Tensor
    idx_queue: Tensor

    def match_logits(self, states: Tensor) -> Tensor: ...

    def predict_patches(self, image: Tensor, keep: PatchSubset, caption: Reading) -> Tensor: ...

    def get_submodule(self, target: str) -> nn.Module: ...


def is_soft(alpha: float | Tensor) -> bool:
    """Whether the momentum model has a share in soft targets; one on a device is not read for it, and taken as some."""
    return isinstance(alpha, Tensor) or alpha > 0


@dataclass
class TrainingStep:
    """A batch on its way through the model, as losses see it.

    batch: with normalised images; alpha: share of the momentum model in soft targets; tokens [B, N, D] of image1;
    caption: caption2, encoded without images. everyone: embeddings as the queues take them, and identities, of all
    processes in the order of their ranks, without gradient. fused: multi-modal states [B, T, D] of the rows that losses
    ask for; negatives and words: those of these rows, None or absent where no loss asks.
    """

    model: LearningModel
    batch: TrainBatch
    draws: RandomDraws
    alpha: float | Tensor
    tokens: Tensor
    caption: Reading
    embeddings: Embeddings
    everyone: QueueEntry
    negatives: Negatives | None = None
    words: dict[str, Words] = field(default_factory=dict)
    fused: dict[str, Tensor] = field(default_factory=dict)
    joined: Pairs | None = None  # `pairs`, once it was asked for

    def head(self, name: str) -> nn.Module:
        """A part of the model that a loss has built."""
        return self.model.get_submodule(name)

    @property
    def pairs(self) -> Pairs:
        """The rows "positive", "negative_image" and "negative_text", one below the other."""
        if self.joined is None:  # not a cached property: torch.compile cannot follow its lock
            self.joined = self.join_pairs()
        return self.joined

    def samples_of_pairs(self) -> tuple[Tensor, Tensor]:
        """The samples [3B] that the texts and the images of `pairs` are of."""
        assert self.negatives is not None, "a loss on pairs asks for their rows"
        own = torch.arange(self.batch.size, device=self.negatives.text.device)
        return torch.cat([own, own, self.negatives.text]), torch.cat([own, self.negatives.image, own])

    def join_pairs(self) -> Pairs:
        assert self.negatives is not None, "a loss on pairs asks for their rows"
        names, valid = ("positive", "negative_image", "negative_text"), self.negatives.valid
        size, attributes = self.batch.size, self.batch.attributes
        return Pairs(
            states=torch.cat([self.fused[name] for name in names]),
            attributes=torch.cat([attributes, attributes, attributes[self.negatives.text]]),
            attribute_count=self.batch.attribute_count,
            matches=(torch.arange(len(names) * size, device=attributes.device) < size).long(),
            valid=torch.cat([torch.ones_like(valid), valid, valid]),
        )
