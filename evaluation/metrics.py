"""Retrieval metrics as pure functions of the ranks of the right images.

No function here sees a captions x images matrix: the gallery is streamed in blocks, and a
caption is summed up by the ranks of its right images, 1 = first. Rows are captions everywhere.

C captions, G gallery images (of one block where it says so), P right images of the caption
that has most of them, K candidates that were re-ranked.

`right_index` [C, P] names gallery images, -1 = padding; `ranks` [C, P] holds 1, 2, ... and
anything below 1 is padding. A caption with no right image in the gallery is a miss: recall 0,
average precision 0, inverse negative penalty 0, as in the published code.
"""

import torch
from torch import Tensor

from utils.errors import UserError

SCORES_AT_ONCE = 2**20  # compared together on a CPU: they and their buffer stay in its cache
METRIC_NAMES = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "mAP": "mAP", "mINP": "mINP"}
# the last one of an evaluation is its result; before stage 1 stand embeddings alone that it takes the mean of
STAGE_NAMES = {"bge": "global embedding", "tse": "selected tokens", "stage1": "stage 1", "reranked": "re-ranked"}
CEILING = "ceiling"  # beside the stages: what can be expected at best, where a benchmark knows that
COUNT_NAMES = {"captions": "captions", "images": "images", "captions_without_match": "without match"}


def count_ahead(scores: Tensor, block_start: int, right_scores: Tensor, right_index: Tensor) -> Tensor:
    """How many images of one gallery block stand before each right image.

    scores [C, G] similarities to the gallery images block_start .. block_start + G - 1, higher is
    better; right_scores [C, P] the similarities of the right images, as they stand in that
    matrix; right_index [C, P]. Returns [C, P] int64, 0 on padding. Summed over all blocks, plus
    1, it is the rank in a stable order: higher score first, then the lower gallery index. An
    image never stands before itself, even where its two scores differ by a rounding error.

    One or two compare-and-sums over the block per right image, into a float buffer. Sums of 0 and
    1 are exact in float32 up to 2**24 columns, and the sum of a float tensor is about ten times
    faster than that of a boolean one; sorting or bucketing the block is slower still below a
    hundred right images.

    Raises UserError when a score is NaN or infinite.
    """
    if scores.dtype != torch.float64:
        scores = scores.float()
    right_scores = right_scores.to(scores.dtype).masked_fill(right_index < 0, 0)
    _check_finite(scores)
    _check_finite(right_scores)
    rows = len(scores) if scores.is_cuda else SCORES_AT_ONCE // max(scores.shape[1], 1)
    rows = max(rows, 1)
    parts = zip(scores.split(rows), right_scores.split(rows), right_index.split(rows), strict=True)
    return torch.cat([_count_ahead(part, block_start, *right) for part, *right in parts])


def _count_ahead(scores: Tensor, block_start: int, right_scores: Tensor, right_index: Tensor) -> Tensor:
    """`count_ahead` of some rows, on checked scores."""
    valid = right_index >= 0
    just_below = torch.nextafter(right_scores, torch.full_like(right_scores, -torch.inf))
    # An equal score wins in the blocks before the right image's own.
    thresholds = torch.where(right_index >= block_start + scores.shape[1], just_below, right_scores)
    above = _count_above(scores, thresholds, valid)
    inside = valid & (right_index >= block_start) & (right_index < block_start + scores.shape[1])
    at_least = _count_above(scores, just_below, inside)
    position = (right_index - block_start).masked_fill(~inside, 0)
    return above + _corrections_inside(scores, right_scores, position, inside, at_least - above)


def _count_above(scores: Tensor, thresholds: Tensor, wanted: Tensor) -> Tensor:
    """scores [C, G], thresholds [C, P], wanted [C, P] True = count -> [C, P] int64 scores above it.

    Few wanted rows are picked out first, so that one identity with very many images costs its
    own captions only; with most rows, working on the whole block is cheaper than copying them.
    """
    counts = torch.zeros_like(thresholds, dtype=torch.int64)
    buffer = torch.empty_like(scores, dtype=torch.float32)
    for column in wanted.any(dim=0).nonzero().flatten().tolist():
        rows = wanted[:, column].nonzero().squeeze(1)
        if 2 * len(rows) < len(scores):
            found = torch.gt(scores[rows], thresholds[rows, column, None], out=buffer[: len(rows)])
            counts[rows, column] = found.sum(1).long()
        else:
            counts[:, column] = torch.gt(scores, thresholds[:, column, None], out=buffer).sum(1).long()
    return counts.masked_fill(~wanted, 0)


def _corrections_inside(
    scores: Tensor, right_scores: Tensor, position: Tensor, inside: Tensor, equal: Tensor
) -> Tensor:
    """[C, P] what the strict comparison misses where the right image itself lies in the block.

    scores [C, G]; for the rest [C, P]: position in the block, inside True = lies there, equal how
    many images of the block have the right image's score. Adds those of them at lower gallery
    indices; takes away the image itself where rounding left its score in the block above the one
    given for it.
    """
    if not inside.any():
        return torch.zeros_like(equal)
    itself = scores.gather(1, position)
    corrections = -(inside & (itself > right_scores)).long()
    columns = torch.arange(scores.shape[1], device=scores.device)
    tied = inside & (equal > (itself == right_scores).long())
    for column in tied.any(dim=0).nonzero().flatten().tolist():
        rows = tied[:, column].nonzero().squeeze(1)
        same = scores[rows] == right_scores[rows, column, None]
        earlier = same.logical_and_(columns < position[rows, column, None])
        corrections[rows, column] += earlier.float().sum(1).long()
    return corrections


def _check_finite(scores: Tensor) -> None:
    """Raise UserError unless all scores are finite. A NaN reaches both ends of `aminmax`."""
    if scores.numel() and not torch.stack(torch.aminmax(scores)).isfinite().all():
        raise UserError(
            "the similarity scores hold NaN or infinite values and cannot be ranked: "
            "check that training did not diverge and that the checkpoint fits the configuration"
        )


def rerank_ranks(candidates: Tensor, itm: Tensor, right_index: Tensor, stage1_ranks: Tensor) -> Tensor:
    """Ranks of the right images after the candidates are re-ordered by their ITM score.

    candidates [C, K] gallery indices in stage-1 order; itm [C, K] their scores, higher is better,
    ties keep the stage-1 order; right_index [C, P]; stage1_ranks [C, P]. Returns [C, P] int64, 0
    on padding. All other images stay behind the candidates in stage-1 order, so a right image
    outside the candidates keeps its stage-1 rank.

    Raises UserError when an ITM score is NaN.
    """
    if itm.isnan().any():
        raise UserError("the ITM scores hold NaN and cannot be ranked: check that training did not diverge")
    valid = right_index >= 0
    if candidates.shape[1] == 0:
        return stage1_ranks.long().masked_fill(~valid, 0)
    order = itm.argsort(dim=1, descending=True, stable=True)
    new_ranks = torch.empty_like(order).scatter_(1, order, _counting(order) + 1)  # [C, K]
    slot, found = _find(candidates, right_index)
    # Only where the candidates were cut inside a tie in another order can the first rank be <= K.
    outside = stage1_ranks.long().clamp(min=candidates.shape[1] + 1)
    return torch.where(found, new_ranks.gather(1, slot), outside).masked_fill(~valid, 0)


def _counting(like: Tensor) -> Tensor:
    """0, 1, 2, ... in every row of a tensor of the shape of `like` [C, K]."""
    return torch.arange(like.shape[1], device=like.device).expand_as(like)


def _find(candidates: Tensor, right_index: Tensor) -> tuple[Tensor, Tensor]:
    """candidates [C, K], right_index [C, P] -> position of each right image [C, P], and True = is there."""
    by_index, slots = candidates.sort(dim=1)
    wanted = right_index.to(by_index.dtype).contiguous()
    position = torch.searchsorted(by_index, wanted).clamp(max=candidates.shape[1] - 1)
    return slots.gather(1, position), by_index.gather(1, position) == wanted


def recall_at(ranks: Tensor, k: int) -> Tensor:
    """ranks [C, P] -> [C] float64: 1 where a right image is among the first k, else 0."""
    return ((ranks >= 1) & (ranks <= k)).any(dim=1).double()


def average_precision(ranks: Tensor) -> Tensor:
    """ranks [C, P] -> [C] float64: precision at the rank of each right image, averaged over these."""
    valid, ordered = _ascending(ranks)
    precision = (_counting(ordered) + 1).double() / ordered
    return precision.masked_fill(~valid, 0).sum(dim=1) / valid.sum(dim=1).clamp(min=1)


def inverse_negative_penalty(ranks: Tensor) -> Tensor:
    """ranks [C, P] -> [C] float64: number of right images / rank of the last one (AGW, section 4.1).

    1 when nothing stands before the last right image but other right ones; its mean is mINP.
    """
    hardest = ranks.clamp(min=0).amax(dim=1) if ranks.shape[1] else ranks.new_zeros(len(ranks))
    return (ranks >= 1).sum(dim=1).double() / hardest.clamp(min=1)


def _ascending(ranks: Tensor) -> tuple[Tensor, Tensor]:
    """ranks [C, P] -> mask (True = right image) and the ranks in ascending order, padding last."""
    last = torch.iinfo(torch.int64).max
    ordered = ranks.long().masked_fill(ranks < 1, last).sort(dim=1).values
    return ordered < last, ordered


def of_captions(ranks: Tensor) -> dict[str, Tensor]:
    """ranks [C, P] -> the value of each metric of `METRIC_NAMES` for each caption: [C] float64, 0 to 1."""
    recalls = {f"r{k}": recall_at(ranks, k) for k in (1, 5, 10)}
    return {**recalls, "mAP": average_precision(ranks), "mINP": inverse_negative_penalty(ranks)}


def summarise(ranks: Tensor) -> dict[str, float | int]:
    """ranks [C, P] -> r1, r5, r10, mAP, mINP in per cent (not rounded), and what they were taken over.

    `captions` counts all captions; `captions_without_match` those with no right image in the
    gallery, which count as misses. Raises UserError when there is no caption.
    """
    if len(ranks) == 0:
        raise UserError("there is no caption to evaluate: check the annotation file of this split")
    return {
        **{name: 100 * values.mean().item() for name, values in of_captions(ranks).items()},
        "captions": len(ranks),
        "captions_without_match": int((ranks < 1).all(dim=1).sum()),
    }
