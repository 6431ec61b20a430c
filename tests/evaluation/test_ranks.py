"""Ranks of the right images, streamed in blocks, against a plain full sort. Rows are captions."""

import numpy as np
import pytest
import torch

from evaluation import metrics
from evaluation.metrics import count_ahead, rerank_ranks, summarise
from utils.errors import UserError


def stream_ranks(scores, right_index, block):
    """[C, G], [C, P] -> ranks [C, P], the gallery cut into blocks of `block` images."""
    right_scores = scores.gather(1, right_index.clamp(min=0))
    ahead = sum(
        count_ahead(scores[:, start : start + block], start, right_scores, right_index)
        for start in range(0, scores.shape[1], block)
    )
    return (ahead + 1).masked_fill(right_index < 0, 0)


def plain_order(scores, candidates=0, itm=None):
    """Twin: per caption the gallery in ranked order, by stable sorts in numpy; candidates first by ITM."""
    rows = []
    for caption, row in enumerate(scores):
        order = np.argsort(-row, kind="stable")
        head = order[:candidates]
        if candidates:
            head = head[np.argsort(-itm[caption], kind="stable")]
        rows.append([*head.tolist(), *order[candidates:].tolist()])
    return rows


def plain_ranks(order, right_index):
    """Twin: the place of every right image in the ranked list, 1 = first, 0 = padding."""
    return [
        [row.index(image) + 1 if image >= 0 else 0 for image in right]
        for row, right in zip(order, right_index.tolist(), strict=True)
    ]


def plain_metrics(order, right_index):
    """Twin: metrics walked along the whole ranked lists, in per cent."""
    total = dict.fromkeys(("r1", "r5", "r10", "mAP", "mINP"), 0.0)
    for row, right in zip(order, right_index.tolist(), strict=True):
        hits = [image in right for image in row]
        for k in (1, 5, 10):
            total[f"r{k}"] += any(hits[:k])
        precisions = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
        total["mAP"] += sum(precisions) / len(precisions) if precisions else 0
        total["mINP"] += precisions[-1] if precisions else 0
    return {name: 100 * value / len(order) for name, value in total.items()}


def random_problem(rng):
    """Integer scores full of ties; identities with no, one or many images; right_index shuffled."""
    captions, gallery = int(rng.integers(1, 12)), int(rng.integers(1, 40))
    scores = rng.integers(0, int(rng.integers(1, 30)) + 1, (captions, gallery)).astype(np.float32)
    image_identity = rng.integers(0, int(rng.integers(1, gallery + 1)), gallery)
    caption_identity = rng.integers(0, image_identity.max() + 2, captions)
    lists = [rng.permutation(np.flatnonzero(image_identity == identity)) for identity in caption_identity]
    right_index = np.full((captions, max(map(len, lists)) + int(rng.integers(0, 2))), -1)
    for row, images in zip(right_index, lists, strict=True):
        row[: len(images)] = images
    return torch.from_numpy(scores), torch.from_numpy(right_index)


def test_count_ahead_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7, 0.5]])
    right_index = torch.tensor([[2, 1, -1]])
    right_scores = torch.tensor([[0.5, 0.9, 123.0]])
    assert count_ahead(scores[:, :3], 0, right_scores, right_index).tolist() == [[1, 0, 0]]
    assert count_ahead(scores[:, 3:], 3, right_scores, right_index).tolist() == [[1, 0, 0]]


def test_equal_scores_go_to_the_lower_gallery_index():
    scores = torch.full((1, 6), 0.25)
    right_index = torch.tensor([[0, 3, 5]])
    for block in (1, 2, 4, 6):
        assert stream_ranks(scores, right_index, block).tolist() == [[1, 4, 6]]


def test_a_tie_counts_even_where_the_own_score_is_off_by_a_rounding_error():
    scores = torch.tensor([[0.5, 0.5 - 1e-7]])
    ahead = count_ahead(scores, 0, torch.tensor([[0.5]]), torch.tensor([[1]]))
    assert ahead.tolist() == [[1]]


def test_ties_at_zero_and_between_signed_zeros():
    scores = torch.tensor([[0.0, -0.0, 0.0, -1.0]])
    for block in (1, 2, 4):
        assert stream_ranks(scores, torch.tensor([[2, 1]]), block).tolist() == [[3, 2]]


def test_an_image_never_stands_before_itself():
    """The right score may come from another product and differ from the block's by a rounding error."""
    scores = torch.tensor([[0.3, 0.5, 0.1]])
    for rounded in (0.5 - 1e-7, 0.5, 0.5 + 1e-7):
        ahead = count_ahead(scores, 0, torch.tensor([[rounded]]), torch.tensor([[1]]))
        assert ahead.tolist() == [[0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types(dtype):
    scores = torch.tensor([[0.5, 0.5, 2.0, 0.25]], dtype=dtype)
    assert stream_ranks(scores, torch.tensor([[1, 3]]), block=1).tolist() == [[3, 4]]


def test_float64_scores_closer_than_float32_can_tell():
    scores = torch.tensor([[0.5, 0.5 + 1e-12]], dtype=torch.float64)
    assert stream_ranks(scores, torch.tensor([[0]]), block=2).tolist() == [[2]]


def test_an_empty_block_holds_nothing_ahead():
    ahead = count_ahead(torch.zeros(2, 0), 5, torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.int64))
    assert ahead.tolist() == [[0], [0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_cannot_be_ranked_are_refused(bad):
    right_index = torch.tensor([[0]])
    with pytest.raises(UserError, match="NaN or infinite"):
        count_ahead(torch.tensor([[0.1, bad]]), 0, torch.tensor([[0.1]]), right_index)
    with pytest.raises(UserError, match="NaN or infinite"):
        count_ahead(torch.tensor([[0.1, 0.2]]), 0, torch.tensor([[bad]]), right_index)


def test_padding_may_hold_any_score():
    ahead = count_ahead(torch.tensor([[0.1]]), 0, torch.tensor([[float("nan")]]), torch.tensor([[-1]]))
    assert ahead.tolist() == [[0]]


def test_reranking_by_hand():
    # stage 1: images 4, 2, 0, 1, 3; the first three re-ordered to 0, 4, 2; image 3 stays fifth
    candidates = torch.tensor([[4, 2, 0]])
    itm = torch.tensor([[0.5, 0.1, 2.0]])
    right_index, stage1 = torch.tensor([[2, 0, 3, -1]]), torch.tensor([[2, 3, 5, 0]])
    assert rerank_ranks(candidates, itm, right_index, stage1).tolist() == [[3, 1, 5, 0]]


def test_equal_itm_scores_keep_the_stage1_order():
    candidates = torch.tensor([[4, 2, 0]])
    right_index, stage1 = torch.tensor([[4, 2, 0]]), torch.tensor([[1, 2, 3]])
    assert rerank_ranks(candidates, torch.zeros(1, 3), right_index, stage1).tolist() == [[1, 2, 3]]


def test_a_right_image_outside_the_candidates_stands_behind_them():
    """Also where the candidates were cut inside a tie in another order than the ranks."""
    candidates, itm = torch.tensor([[4, 2]]), torch.tensor([[0.5, 0.1]])
    assert rerank_ranks(candidates, itm, torch.tensor([[0]]), torch.tensor([[2]])).tolist() == [[3]]


def test_no_candidates_leave_the_stage1_ranks():
    nothing = torch.zeros(1, 0)
    right_index, stage1 = torch.tensor([[1, -1]]), torch.tensor([[2, 0]])
    assert rerank_ranks(nothing.long(), nothing, right_index, stage1).tolist() == [[2, 0]]


def test_nan_itm_scores_are_refused():
    one = torch.tensor([[0]])
    with pytest.raises(UserError, match="ITM scores hold NaN"):
        rerank_ranks(one, torch.tensor([[float("nan")]]), one, one + 1)


@pytest.mark.parametrize("seed", range(60))
def test_both_stages_agree_with_a_full_sort(seed):
    rng = np.random.default_rng(seed)
    scores, right_index = random_problem(rng)
    gallery = scores.shape[1]
    order = plain_order(scores.numpy())
    stage1 = stream_ranks(scores, right_index, block=int(rng.integers(1, gallery + 3)))
    assert stage1.tolist() == plain_ranks(order, right_index)
    assert {**summarise(stage1), **plain_metrics(order, right_index)} == pytest.approx(summarise(stage1))

    kept = int(rng.integers(1, gallery + 1))
    candidates = torch.tensor(order)[:, :kept]
    itm = torch.from_numpy(rng.integers(-3, 4, (len(scores), kept)).astype(np.float32))
    order = plain_order(scores.numpy(), kept, itm.numpy())
    reranked = rerank_ranks(candidates, itm, right_index, stage1)
    assert reranked.tolist() == plain_ranks(order, right_index)
    assert {**summarise(reranked), **plain_metrics(order, right_index)} == pytest.approx(summarise(reranked))


def test_every_block_size_gives_the_same_ranks():
    scores, right_index = random_problem(np.random.default_rng(1000))
    whole = stream_ranks(scores, right_index, scores.shape[1])
    for block in range(1, scores.shape[1]):
        assert torch.equal(stream_ranks(scores, right_index, block), whole)


def test_rows_taken_a_few_at_a_time_give_the_same_ranks(monkeypatch):
    scores, right_index = random_problem(np.random.default_rng(1001))
    whole = stream_ranks(scores, right_index, 10)
    for at_once in (1, 30):
        monkeypatch.setattr(metrics, "SCORES_AT_ONCE", at_once)
        assert torch.equal(stream_ranks(scores, right_index, 10), whole)


def test_one_identity_with_many_images_among_small_ones():
    """Rows without padding are picked out of the block when they are few."""
    rng = np.random.default_rng(7)
    scores = torch.from_numpy(rng.integers(0, 50, (9, 30)).astype(np.float32))
    right_index = torch.full((9, 25), -1)
    right_index[:, 0] = torch.arange(9)
    right_index[4] = torch.from_numpy(rng.permutation(30)[:25])
    expected = plain_ranks(plain_order(scores.numpy()), right_index)
    assert stream_ranks(scores, right_index, 11).tolist() == expected
