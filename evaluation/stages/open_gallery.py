"""What a search finds while the described person is in the gallery, and once all images of them are gone.

Letters: C captions, M images that were scored for a caption, N hits that are shown. Rows are captions.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dataset.evaluation_split import EvaluationSplit
from evaluation.stages.encoding import Setting
from evaluation.stages.ranking import StageResult, rank_split, right_images
from models.search_model import SearchModel

SHOWN = 10  # hits of a search, as `search query` and the page show them


@dataclass(frozen=True)
class Scored:
    """What one stage knows of each caption: scores [C, M] in the order of stage 1, and right [C, M], True = shows the
    described person. candidates: how many images this stage orders; there are more, to come after right ones are gone.
    images: of the gallery."""

    scores: Tensor
    right: Tensor
    candidates: int
    images: int


@dataclass(frozen=True)
class Hits:
    """The hits of each caption, best first: scores [C, N], -inf where no image is left, and right [C, N]."""

    scores: Tensor
    right: Tensor


def score_split(model: SearchModel, split: EvaluationSplit, setting: Setting) -> dict[str, Scored]:
    """Rank a split as an evaluation does, with as many candidates more as a person has images; by stage, on the CPU.

    So a gallery without the right person needs no second ranking, and has as many candidates as one with them.
    """
    own, images = setting.candidates, len(split.images)
    most = right_images(split).shape[1]
    keep = min(max(own, SHOWN) + most, images)
    found = rank_split(model, split, replace(setting, candidates=keep if own else 0), keep=keep)
    stages = {stage: found[stage] for stage in ("stage1", "reranked") if stage in found}
    indices = found["stage1"].indices.cpu()
    right = split.image_identity[indices] == split.caption_identity[:, None]
    candidates = {"stage1": SHOWN, "reranked": own}
    return {
        stage: Scored(in_order(result, indices), right, candidates[stage], images) for stage, result in stages.items()
    }


def in_order(result: StageResult, indices: Tensor) -> Tensor:
    """The scores of a stage in the order of these indices [C, M], those of the same images in another order."""
    own = result.indices.cpu()
    scores = result.scores.cpu().float().gather(1, own.argsort(dim=1))  # by image
    return torch.empty_like(scores).scatter_(1, indices.argsort(dim=1), scores)


def hits_of(scored: Scored, absent: Tensor) -> Hits:
    """The hits when the described person is taken out of the gallery for some captions; absent [C]: True = so."""
    left = ~(scored.right & absent[:, None])
    among = left & (left.cumsum(dim=1) <= scored.candidates)
    scores, order = scored.scores.masked_fill(~among, -torch.inf).sort(dim=1, descending=True, stable=True)
    shown = slice(0, SHOWN)
    return Hits(scores[:, shown], (scored.right & among).gather(1, order)[:, shown])
