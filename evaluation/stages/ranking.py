"""The two stages of text-to-image search over a gallery.

Letters: C captions, G gallery images, K candidates of a caption, P right images of the caption
that has most, E embedding. Rows are captions.

Stage 1 ranks the gallery by cosine similarity. Stage 2 (`reranking.py`) scores the K best of each caption, by the same
model or another.
Both are split over processes by blocks that do not depend on their number, and neither ever
holds a captions x images matrix. Image tokens and prefixes of captions are kept as far as memory
is granted; what does not fit is computed again when it is needed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dataset.evaluation_split import EvaluationSplit, blocks_of
from evaluation.metrics import count_ahead, rerank_ranks, summarise
from evaluation.stages.encoding import KeptTokens, Setting, assemble, embed_captions, embed_images, own_blocks, progress
from evaluation.stages.reranking import Reranker, room_for_images, score_candidates
from models.person_search import PersonSearchModel
from models.search_model import SearchModel

SIMILARITIES_AT_ONCE = 2**25  # caption rows are taken few enough to keep a block of them below this


@dataclass(frozen=True)
class StageResult:
    """Best K of each caption: indices, scores [C, K], best first; ranks of right images [C, P]."""

    indices: Tensor
    scores: Tensor
    ranks: Tensor


@torch.inference_mode()
def rank_split(
    model: SearchModel, split: EvaluationSplit, setting: Setting, reranker: Reranker | None = None, keep: int = 10
) -> dict[str, StageResult]:
    """Rank the gallery for every caption: {"stage1": ..., "reranked": ...} on all processes.

    reranker: what re-ranks the images that `model` finds; None = it does so itself, if the setting has candidates.
    keep: how many images are kept of each caption where nothing re-ranks.
    Without one (K = 0) there is only stage 1; where embeddings are several side by side, each alone before it.
    """
    reranker = reranker or own_reranker(model, split, setting)
    model.eval()
    tokens = KeptTokens(0)  # of another model, images are encoded in stage 2, each once
    if reranker is not None and reranker.model is model:
        tokens = KeptTokens(room_for_images(reranker.model, split.captions, setting))
    images = embed_images(model, split, setting, tokens)
    captions = embed_captions(model, split.captions, setting)
    right = right_images(split).to(setting.device)
    keep = min(reranker.setting.candidates if reranker else keep, len(images))
    results = {
        name: search(len(model.embeddings) * captions[:, part], images[:, part], right, keep)  # of length 1 each
        for name, part in model.embeddings.items()
    }
    results["stage1"] = search(captions, images, right, keep)
    if reranker is not None:
        results["reranked"] = rerank(reranker, results["stage1"], right, tokens)
    return results


def own_reranker(model: SearchModel, split: EvaluationSplit, setting: Setting) -> Reranker | None:
    """A model that re-ranks what it has found itself; None without candidates."""
    if not setting.candidates:
        return None
    assert isinstance(model, PersonSearchModel), "configurations of models that score no pairs have no candidates"
    return Reranker(model, split, setting)


def summarise_stages(results: dict[str, StageResult], split: EvaluationSplit) -> dict[str, dict[str, float | int]]:
    """Metrics by stage, in per cent, with the counts of captions and images."""
    return {stage: {**summarise(result.ranks.cpu()), "images": len(split.images)} for stage, result in results.items()}


def right_images(split: EvaluationSplit) -> Tensor:
    """Gallery indices of each caption's identity [C, P], ascending, -1 = padding."""
    of: dict[int, list[int]] = {}
    for index, identity in enumerate(split.image_identity.tolist()):
        of.setdefault(identity, []).append(index)
    rows = [torch.tensor(of.get(identity, [])) for identity in range(len(split.identities))]
    table = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).long()
    return table[split.caption_identity]


def search(captions: Tensor, images: Tensor, right: Tensor, keep: int) -> StageResult:
    """Stage 1: captions [C, E] against images [G, E]; right [C, P] from `right_images`.

    Each block of captions is compared with the whole gallery; blocks shrink as the gallery
    grows. Equal similarities keep gallery order. All blocks use one buffer: to get and clear new
    memory for each takes half as long as the product itself.
    """
    rows = max(1, min(1024, SIMILARITIES_AT_ONCE // max(1, len(images))))
    buffer = captions.new_empty(min(rows, len(captions)), len(images))
    parts: dict[str, list[tuple[range, Tensor]]] = {"indices": [], "scores": [], "ranks": []}
    for block in progress(own_blocks(blocks_of(len(captions), rows)), "stage 1"):
        here = slice(block.start, block.stop)
        similarity = torch.mm(captions[here], images.T, out=buffer[: len(block)])
        scores, indices = best(similarity, keep)
        right_scores = similarity.gather(1, right[here].clamp(min=0))
        ranks = count_ahead(similarity, 0, right_scores, right[here]) + 1
        for name, part in (("indices", indices), ("scores", scores), ("ranks", ranks.where(right[here] >= 0, 0))):
            parts[name].append((block, part))
    whole = {
        "indices": captions.new_empty(0, keep, dtype=torch.long),
        "scores": captions.new_empty(0, keep),
        "ranks": captions.new_empty(0, right.shape[1], dtype=torch.long),
    }
    return StageResult(**{name: assemble(parts[name], len(captions), like) for name, like in whole.items()})


def best(scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The `keep` best of each row, scores and indices [C, keep], ties in order of index.

    `topk` breaks ties as it likes: within the chosen the order is restored, and rows where a
    tie crosses the border (the best one left out equals the worst one kept) are sorted in full.
    """
    values, indices = scores.topk(min(keep + 1, scores.shape[1]), dim=1)
    crossing = (values[:, keep - 1 : keep] == values[:, keep:]).any(1).nonzero().squeeze(1)
    indices = indices[:, :keep].sort(dim=1).values
    if len(crossing):
        indices[crossing] = scores[crossing].argsort(dim=1, descending=True, stable=True)[:, :keep]
    values = scores.gather(1, indices)
    order = values.argsort(dim=1, descending=True, stable=True)
    return values.gather(1, order), indices.gather(1, order)


def rerank(reranker: Reranker, stage1: StageResult, right: Tensor, tokens: KeptTokens) -> StageResult:
    """Stage 2: re-order each caption's candidates by ITM score; the rest stays behind them.

    tokens: of images, by the model that re-ranks, as far as they were kept.
    """
    candidates = stage1.indices
    reranker.model.eval()
    itm = score_candidates(reranker.model, reranker.split, reranker.setting, candidates, tokens)
    order = itm.argsort(dim=1, descending=True, stable=True)
    ranks = rerank_ranks(candidates, itm, right, stage1.ranks)
    return StageResult(candidates.gather(1, order), itm.gather(1, order), ranks)
