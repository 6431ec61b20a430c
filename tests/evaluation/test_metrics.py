"""Metrics of ranks small enough to work out by hand. Rows are captions."""

import pytest
import torch

from evaluation.metrics import average_precision, inverse_negative_penalty, recall_at, summarise
from utils.errors import UserError


def test_recall_counts_captions_with_any_right_image_in_the_first_k():
    ranks = torch.tensor([[1, 9], [4, 2], [6, 0]])
    assert recall_at(ranks, 1).tolist() == [1, 0, 0]
    assert recall_at(ranks, 2).tolist() == [1, 1, 0]
    assert recall_at(ranks, 6).tolist() == [1, 1, 1]


def test_recall_beyond_the_gallery_is_whether_there_is_a_right_image():
    assert recall_at(torch.tensor([[3], [0]]), 1000).tolist() == [1, 0]


def test_average_precision_counts_every_right_image():
    # right images at ranks 1 and 3: (1/1 + 2/3) / 2
    assert average_precision(torch.tensor([[1, 3]])).item() == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_does_not_depend_on_the_order_of_the_right_images():
    # ranks 2, 4 and 5: (1/2 + 2/4 + 3/5) / 3
    expected = (1 / 2 + 2 / 4 + 3 / 5) / 3
    found = average_precision(torch.tensor([[5, 2, 4], [2, 4, 5]]))
    assert found.tolist() == pytest.approx([expected, expected])


@pytest.mark.parametrize("padding", [0, -1])
def test_padding_is_no_right_image(padding):
    ranks = torch.tensor([[padding, 3, padding, 1]])
    assert average_precision(ranks).item() == pytest.approx((1 + 2 / 3) / 2)
    assert inverse_negative_penalty(ranks).item() == pytest.approx(2 / 3)
    assert recall_at(ranks, 1).item() == 1
    assert recall_at(torch.tensor([[padding, 3]]), 2).item() == 0


def test_inverse_negative_penalty_looks_at_the_last_right_image():
    ranks = torch.tensor([[1, 2, 3], [1, 2, 30], [4, 0, 0]])
    assert inverse_negative_penalty(ranks).tolist() == pytest.approx([1, 3 / 30, 1 / 4])


def test_summarise_gives_per_cent_and_counts_captions_without_a_right_image_as_misses():
    result = summarise(torch.tensor([[1, 0], [7, 3], [0, 0], [20, 0]]))
    assert result["r1"] == 25
    assert result["r5"] == 50
    assert result["r10"] == 50
    assert result["mAP"] == pytest.approx(100 * (1 + (1 / 3 + 2 / 7) / 2 + 0 + 1 / 20) / 4)
    assert result["mINP"] == pytest.approx(100 * (1 + 2 / 7 + 0 + 1 / 20) / 4)
    assert (result["captions"], result["captions_without_match"]) == (4, 1)


def test_summarise_does_not_round():
    assert summarise(torch.tensor([[1], [2], [2]]))["r1"] == pytest.approx(100 / 3, abs=1e-9)


def test_no_right_image_anywhere_is_zero():
    result = summarise(torch.zeros(2, 0, dtype=torch.int64))
    assert (result.pop("captions"), result.pop("captions_without_match")) == (2, 2)
    assert result == {"r1": 0, "r5": 0, "r10": 0, "mAP": 0, "mINP": 0}


def test_summarise_refuses_an_empty_set():
    with pytest.raises(UserError, match="no caption"):
        summarise(torch.zeros(0, 3, dtype=torch.int64))
