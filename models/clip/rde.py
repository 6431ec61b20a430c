"""RDE (CVPR 2024): CLIP with a second embedding of selected tokens, and a loss that noisy pairs cannot dominate.

Letters: B batch, N image tokens, T text tokens, E embedding of CLIP, F embedding of selected tokens, M samples of all
processes.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dataset.batch import PairBatch
from models.clip import losses
from models.clip.clip_model import ClipModel
from models.clip.losses import PairLossName, PairLossSettings, Pairs
from models.clip.step import gather_pairs, unit
from models.clip.token_selection import BatchNorm, PatchSelection, WordSelection
from models.clip.towers import ClipSize, DualEncoder, Encoding
from models.loss_means import take_means
from utils.errors import UserError, did_you_mean
from utils.precision import full_precision
from utils.processes.distributed import world_size

EMBEDDINGS = ("bge", "tse")  # basic global embedding, token selection embedding


@dataclass(frozen=True)
class RdeSettings:
    """loss: a name of losses.PAIR_LOSSES; learned: the embeddings that it is taken of; width: F; select_ratio: share of
    tokens selected; batch_norm: `SelectionMlp`.

    pairs: settings of the loss. micro_batches: of a step, whose mean is taken where the loss is a sum.
    """

    loss: PairLossName = "TAL"
    learned: tuple[str, ...] = EMBEDDINGS
    width: int = 1024
    select_ratio: float = 0.3
    batch_norm: BatchNorm = "frozen"
    pairs: PairLossSettings = field(default_factory=PairLossSettings)
    micro_batches: int = 1


class RDE(ClipModel):
    """The dual encoder, and token selection beside it in both modalities, under the released names.

    Raises UserError when the loss is unknown.
    """

    base_model: DualEncoder

    def __init__(self, size: ClipSize, settings: RdeSettings, gradient_checkpointing: bool = False):
        if settings.loss not in losses.PAIR_LOSSES:
            known = losses.PAIR_LOSSES
            raise UserError(
                f"unknown loss '{settings.loss}' of RDE{did_you_mean(settings.loss, known)}; it has {list(known)}"
            )
        super().__init__(size, gradient_checkpointing)
        self.settings, both = settings, size.embedding + settings.width
        self.embeddings = {"bge": slice(0, size.embedding), "tse": slice(size.embedding, both)}
        selection = size.embedding, settings.width, settings.select_ratio, settings.batch_norm
        self.visul_emb_layer = PatchSelection(*selection)
        self.texual_emb_layer = WordSelection(*selection, size.text_length)
        for part in (self.visul_emb_layer.linear, *(part.mlp.bns[1] for part in self.selections)):
            part.requires_grad_(False)  # in released files, and never used

    @property
    def selections(self) -> tuple[PatchSelection, WordSelection]:
        """The layers that select tokens, of images and of captions."""
        return self.visul_emb_layer, self.texual_emb_layer

    def facts(self) -> dict[str, str]:
        return {**super().facts(), "select_ratio": str(self.settings.select_ratio)}

    @property
    def embedding_width(self) -> int:
        """F: of both embeddings."""
        return self.base_model.size.embedding + self.settings.width

    def image_embeddings(self, image: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, H, W], normalised -> embeddings of length 1 by name: bge [B, E], tse [B, F]."""
        return {name: unit(features) for name, features in self.image_features(image).items()}

    def embeddings_of(self, image: Encoding) -> dict[str, Tensor]:
        return {name: unit(features) for name, features in self.features_of(image).items()}

    def text_embeddings(self, ids: Tensor) -> dict[str, Tensor]:
        """Captions [B, T] -> embeddings of length 1 by name: bge [B, E], tse [B, F]."""
        return {name: unit(features) for name, features in self.text_features(ids).items()}

    def compute_losses(self, batch: PairBatch) -> dict[str, Tensor]:
        """One training step: the loss of the clean pairs of a batch, by embedding."""
        name, values = self.settings.loss, self.pair_losses(batch)
        clean = torch.ones_like(values["bge"]) if batch.clean is None else batch.clean.float()
        parts = world_size() * self.settings.micro_batches
        learned = {key: values[key] for key in self.settings.learned}
        return take_means({key: losses.over_clean_pairs(name, each, clean, parts) for key, each in learned.items()})

    def pair_losses(self, batch: PairBatch) -> dict[str, Tensor]:
        """The loss of each pair [B], by embedding; by it pairs are told clean from noisy."""
        image, text = self.image_features(batch.image), self.text_features(batch.ids)
        return {name: self.compare(image[name], text[name], batch.identity) for name in EMBEDDINGS}

    def compare(self, image: Tensor, text: Tensor, identity: Tensor) -> Tensor:
        """The loss of each pair from features [B, E] of both modalities: [B]."""
        everyone = gather_pairs(unit(image), unit(text), identity)
        with full_precision(image):
            of_texts, of_images = unit(text) @ everyone.image.T, unit(image) @ everyone.text.T
        pairs = Pairs(everyone.same, everyone.own)
        return losses.loss_of_pairs(self.settings.loss, of_texts, of_images, pairs, self.settings.pairs)

    def image_features(self, image: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, H, W] -> features by name: CLS [B, E], and the patches that it attends to [B, F]."""
        return self.features_of(self.base_model.encode_image(image))

    def features_of(self, image: Encoding) -> dict[str, Tensor]:
        """`image_features` of images that were encoded."""
        index = self.visul_emb_layer.select(image.own_attention())
        tokens = image.tokens(torch.cat([image.own[:, None], index], dim=1))
        return {"bge": tokens[:, 0].float(), "tse": self.visul_emb_layer(tokens[:, 1:])}

    def text_features(self, ids: Tensor) -> dict[str, Tensor]:
        """Captions [B, T] -> features by name: EOT [B, E], and the words that it attends to [B, F]."""
        found = self.base_model.encode_text(ids)
        index, valid = self.texual_emb_layer.select(found.own_attention(), found.own)
        tokens = found.tokens(torch.cat([found.own[:, None], index], dim=1))
        return {"bge": tokens[:, 0].float(), "tse": self.texual_emb_layer(tokens[:, 1:], valid)}
