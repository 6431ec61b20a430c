"""Hits without the right person are those of a gallery that never held their images."""

from dataclasses import replace

import pytest
import torch
from torch import tensor

from evaluation.stages.open_gallery import Scored, hits_of, in_order, score_split
from evaluation.stages.ranking import StageResult, rank_split
from evaluation.trained import TrainedModel

GONE = -torch.inf


def test_the_next_candidates_move_up_when_right_images_go():
    # four images in the order of stage 1, two candidates; image 0 is right
    scored = Scored(
        scores=tensor([[1.0, 5.0, 9.0, 3.0]]).repeat(2, 1),
        right=tensor([[True, False, False, False]]).repeat(2, 1),
        candidates=2,
        images=4,
    )
    hits = hits_of(scored, tensor([False, True]))
    assert hits.scores.tolist() == [[5, 1, GONE, GONE], [9, 5, GONE, GONE]]
    assert hits.right.tolist() == [[False, True, False, False], [False] * 4]


def test_scores_are_put_back_into_the_order_of_stage_1():
    indices = tensor([[7, 3, 5]])
    reranked = StageResult(tensor([[3, 5, 7]]), tensor([[30.0, 50.0, 70.0]]), tensor([[1]]))
    assert in_order(reranked, indices).tolist() == [[70, 30, 50]]


@pytest.mark.parametrize("candidates", [0, 3])
def test_a_gallery_without_the_person_gives_the_same_hits(tiny_run, candidates):
    trained = TrainedModel.open(tiny_run / "checkpoint_best.pth", overrides=[f"k_test={candidates}"])
    split = trained.open_split("test")
    scored, last = score_split(trained.model, split, trained.setting), "reranked" if candidates else "stage1"
    assert list(scored) == ["stage1", "reranked"][: 1 + bool(candidates)]
    caption = 0
    without = [
        index
        for index, identity in enumerate(split.image_identity.tolist())
        if identity != int(split.caption_identity[caption])
    ]
    smaller = replace(
        split.of_captions([caption]),
        images=[split.images[index] for index in without],
        image_identity=split.image_identity[without],
    )
    expected = rank_split(trained.model, smaller, trained.setting)[last]
    absent = torch.zeros(len(split.texts), dtype=torch.bool)
    absent[caption] = True
    found, count = hits_of(scored[last], absent), len(expected.scores[0])
    assert found.scores[0, :count].tolist() == pytest.approx(expected.scores[0].tolist(), abs=1e-5)
    assert not found.right[0].any()
    whole = rank_split(trained.model, split, trained.setting)[last]
    same = len(whole.scores[0])
    for row in range(1, len(split.texts)):
        assert found.scores[row, :same].tolist() == pytest.approx(whole.scores[row].tolist(), abs=1e-5)
        right = split.image_identity[whole.indices[row]] == split.caption_identity[row]
        assert found.right[row, :same].tolist() == right.tolist()
