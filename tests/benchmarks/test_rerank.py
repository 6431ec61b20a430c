"""Re-ranking against its plain twin, the one the benchmark measures, and the benchmark's own parts."""

import pytest
import torch
from tiny_matcher import tiny_matcher

from benchmarks.rerank import SPECIAL, plain_scores, product_scores, random_captions, rank_correlation
from dataset.evaluation_split import Captions

MAX_WORDS = 20


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("full_ca", [True, False])
def test_scores_are_those_of_one_padded_caption_at_a_time(full_ca, fused):
    model, generator = tiny_matcher(full_ca, MAX_WORDS), torch.Generator().manual_seed(1)
    lengths = [7, 3, 20, 7, 12]
    ids = [torch.randint(104, 200, (length,), generator=generator).tolist() for length in lengths]
    tokens = torch.randn(6, 9, 16, generator=generator)
    expected = torch.stack([plain_scores(model, caption, tokens, MAX_WORDS, fused) for caption in ids])
    found = product_scores(model, Captions(ids, SPECIAL.pad), tokens, "fp32")
    assert expected.std(1).min() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    rough = product_scores(model, Captions(ids, SPECIAL.pad), tokens, "bf16")
    torch.testing.assert_close(rough, expected, atol=0.2, rtol=0.05)


def test_captions_are_of_all_lengths_between_the_limits():
    lengths = [len(ids) for ids in random_captions(64, torch.Generator().manual_seed(0)).ids]
    assert set(lengths) == set(range(18, 49))


def test_rank_correlation_of_orders_known_by_hand():
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert rank_correlation(scores, 10 * scores) == pytest.approx(1)
    assert rank_correlation(scores, -scores) == pytest.approx(-1)
    # places 0 1 2 3 and 0 1 3 2: 1 - 6 * (1 + 1) / (4 * 15)
    assert rank_correlation(scores, torch.tensor([[1.0, 2.0, 4.0, 3.0]])) == pytest.approx(0.8)
