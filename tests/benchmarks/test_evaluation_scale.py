"""The benchmark of large galleries: stage 1 in blocks against the whole matrix sorted in full."""

import pytest
import torch

from benchmarks.evaluation_scale import Problem, make_problem, measure, plain_rank, rank, show_growth, show_large
from evaluation.metrics import summarise


def with_ties(size: int) -> Problem:
    """Embeddings of small whole numbers: similarities are exact in any block, and many are equal."""
    problem = make_problem(size)
    captions, images = ((4 * part[:, :6]).round().clamp(-1, 1) for part in (problem.captions, problem.images))
    return Problem(captions, images, problem.right)


@pytest.mark.parametrize("candidates", [1, 7, 200])
@pytest.mark.parametrize("at_once", [1, 500, 2**25])
def test_blocks_with_ties_agree_with_a_full_sort(monkeypatch, candidates, at_once):
    monkeypatch.setattr("evaluation.stages.ranking.SIMILARITIES_AT_ONCE", at_once)
    problem = with_ties(100)
    found, plain = rank(problem, candidates), plain_rank(problem, candidates)
    assert torch.equal(found.ranks, plain.ranks)
    assert torch.equal(found.indices, plain.indices)
    assert torch.equal(found.scores, plain.scores)
    assert found.scores.unique().numel() < 20


def test_every_caption_has_the_images_of_its_person():
    # images 0 1 2 are of person 0, 3 4 5 of person 1, 6 of person 2; captions in pairs by image
    problem = make_problem(7)
    assert problem.right.tolist() == [[0, 1, 2]] * 6 + [[3, 4, 5]]


def test_metrics_are_those_of_a_full_sort():
    metrics, seconds = measure(300)
    assert metrics == pytest.approx(summarise(plain_rank(make_problem(300)).ranks))
    assert seconds > 0


def test_the_lines_of_the_report(capsys):
    show_growth((50, 200), 1)
    assert show_large(100) > 1
    printed = capsys.readouterr().out
    assert "growth of time from 50 to 200" in printed
    assert "100 captions x 100 images" in printed and "the matrix alone would be 0 MiB" in printed
