"""Scores how well the captions of phrases fit images: by embeddings, and by the matching head where there is one.

Letters: G images, B of them at once, P captions, N image tokens, D width, E embedding, S words of all captions.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dataset.evaluation_split import EvaluationSplit, blocks_of, encode_captions, load_blocks
from evaluation.description.meaning import Evidence
from evaluation.stages.encoding import Setting, embed_captions, encode_images, progress
from evaluation.stages.reranking import TextPrefixes, at_once, lengths_of, portions
from evaluation.trained import TrainedModel
from models.fusion import ImageKeysValues
from models.fusion_packed import PackedFusion, prepare_fusion
from models.packing import Packing
from models.person_search import PersonSearchModel


class PhraseScorer:
    """Captions that a model has read once, and scores of any images for them."""

    @torch.inference_mode()
    def __init__(self, trained: TrainedModel, texts: Sequence[str]):
        self.model, self.setting = trained.model, trained.setting
        self.captions = encode_captions(texts, trained.tokenizer, trained.config.max_words, "phrases")
        self.embeddings = embed_captions(self.model, self.captions, self.setting)  # [P, E]
        self.prefixes: TextPrefixes | None = None
        if isinstance(self.model, PersonSearchModel):
            self.prefixes = TextPrefixes(self.model, self.captions, self.setting)
            self.lengths = lengths_of(self.captions)

    @torch.inference_mode()
    def score(self, images: Tensor) -> Evidence:
        """Images uint8 [B, 3, H, W], as the model reads them."""
        tokens, embeddings = encode_images(self.model, images.to(self.setting.device), self.setting)
        similarity = (embeddings @ self.embeddings.T).double().cpu().numpy()
        match = None if tokens is None or self.prefixes is None else self.match(self.prefixes, tokens)
        return Evidence(similarity, match)

    def match(self, prefixes: TextPrefixes, tokens: Tensor) -> np.ndarray:
        """Logits [B, P] of the matching head for images with these tokens [B, N, D]."""
        model = prefixes.model
        most = at_once(model, tokens.device).words
        step = max(1, most // int(self.lengths.sum()))  # images at a time
        found = []
        with prepare_fusion(model.text_encoder, self.setting.precision) as fusion:
            for some in tokens.split(step):
                keys_values = fusion.project_images(some)
                parts = [
                    match_part(model, fusion, prefixes, np.arange(part.start, part.stop), keys_values, some)
                    for part in portions(self.lengths.tolist(), max(most // len(some), 1))
                ]
                found.append(torch.cat(parts, dim=1))
        return torch.cat(found).double().cpu().numpy()


def match_part(
    model: PersonSearchModel,
    fusion: PackedFusion,
    prefixes: TextPrefixes,
    captions: np.ndarray,
    keys_values: ImageKeysValues,
    tokens: Tensor,
) -> Tensor:
    """Logits [B, P'] of some captions [P'] for images with tokens [B, N, D], projected for the fusion layers."""
    images, count = len(tokens), len(captions)
    lengths = np.tile(prefixes.lengths[captions], images)
    packing = Packing.from_lengths(lengths, np.full(images, count), tokens.shape[1], tokens.device)
    states = fusion.fuse(prefixes.text_prefix(captions).repeat(images, 1), packing, keys_values)
    return model.match_logits(states)[:, 1].float().view(images, count)


def score_images(scorer: PhraseScorer, split: EvaluationSplit, setting: Setting) -> Evidence:
    """Scores of the gallery of a split [G, P]. Raises UserError when an image cannot be read."""
    blocks = blocks_of(len(split.images), setting.batch_size)
    loaded = load_blocks(split, blocks, setting.image_size, setting.device, setting.workers)
    found = [scorer.score(images) for _, images in zip(progress(blocks, "phrases"), loaded, strict=True)]
    match = None if found[0].match is None else np.concatenate([one.match for one in found if one.match is not None])
    return Evidence(np.concatenate([one.similarity for one in found]), match)
