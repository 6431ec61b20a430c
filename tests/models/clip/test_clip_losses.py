"""IRRA's and RDE's losses on numbers small enough to check by hand, and spread over processes."""

from math import log

import pytest
import torch

from models.clip import losses
from models.clip.losses import PAIR_LOSSES, PairLossSettings, Pairs, loss_of_pairs, over_clean_pairs

IDENTITY = torch.tensor([0, 0, 1, 2])
SAME = IDENTITY[:, None] == IDENTITY
PAIRS = Pairs(SAME, torch.arange(4))
SETTINGS = PairLossSettings(tau=0.05, margin=0.1, temperature=0.1)
EVERY = pytest.mark.parametrize("name", list(PAIR_LOSSES))


def cosines(seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.rand(4, 4) * 2 - 1


def test_sdm_is_zero_where_similarities_follow_identities():
    found = losses.similarity_distribution(*[torch.zeros(2, 2)] * 2, torch.ones(2, 2, dtype=torch.bool))
    assert found.item() == pytest.approx(0, abs=1e-6)


def test_sdm_of_even_similarities_to_two_persons():
    # each row: 0.5 log(0.5 / (1 + 1e-8)) + 0.5 log(0.5 / 1e-8); two directions are added
    found = losses.similarity_distribution(*[torch.zeros(2, 2)] * 2, torch.eye(2, dtype=torch.bool))
    assert found.item() == pytest.approx(2 * (log(0.5) - 0.5 * log(1e-8)), rel=1e-5)


def test_cmpm_targets_have_length_one():
    torch.testing.assert_close(losses.identity_directions(SAME).square().sum(1), torch.ones(4))
    torch.testing.assert_close(losses.identity_shares(SAME).sum(1), torch.ones(4))


def test_itc_of_even_similarities():
    found = losses.contrastive(torch.zeros(2, 4), torch.zeros(2, 4), torch.tensor([2, 3]))
    assert found.item() == pytest.approx(log(4))


def test_masked_words_without_any_are_zero():
    logits = torch.randn(3, 5, requires_grad=True)
    loss = losses.masked_words(logits, torch.zeros(3, dtype=torch.long)).value
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_triplet_losses_of_one_row():
    # the positive 0.6, the hardest negative 0.7: 0.1 - 0.6 + 0.7; TAL's soft maximum is a little higher
    similarity, pairs = torch.tensor([[0.6, 0.7, 0.2]]), Pairs(torch.tensor([[True, False, False]]), torch.tensor([0]))
    assert losses.triplet_ranking(similarity, pairs, SETTINGS).item() == pytest.approx(0.2)
    soft = 0.1 - 0.6 + 0.05 * torch.tensor([14.0, 4.0]).logsumexp(0).item()
    assert losses.triplet_alignment(similarity, pairs, SETTINGS).item() == pytest.approx(soft)


def test_trl_has_a_negative_of_zero_where_all_are_lower():
    similarity, pairs = torch.tensor([[0.05, -0.4]]), Pairs(torch.tensor([[True, False]]), torch.tensor([0]))
    assert losses.triplet_ranking(similarity, pairs, SETTINGS).item() == pytest.approx(0.05)


@EVERY
def test_a_batch_of_one_identity(name):
    similarity = cosines().requires_grad_()
    pairs = Pairs(torch.ones(4, 4, dtype=torch.bool), torch.arange(4))
    values = loss_of_pairs(name, similarity, similarity.T, pairs, SETTINGS)
    values.sum().backward()
    assert values.isfinite().all() and similarity.grad.isfinite().all()
    if name == "TAL":
        assert not values.any() and not similarity.grad.any()


@EVERY
def test_small_temperatures(name):
    similarity = cosines().requires_grad_()
    values = loss_of_pairs(name, similarity, similarity.T, PAIRS, PairLossSettings(1e-4, 0.1, 1e-4))
    values.sum().backward()
    assert values.isfinite().all() and similarity.grad.isfinite().all()


def test_tal_becomes_trl_with_a_small_tau():
    sharp = PairLossSettings(tau=1e-4)
    similarity = cosines().abs()
    found, expected = (loss_of_pairs(name, similarity, similarity.T, PAIRS, sharp) for name in ("TAL", "TRL"))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@EVERY
def test_no_clean_pair(name):
    values = torch.rand(4, requires_grad=True)
    loss = over_clean_pairs(name, values, torch.zeros(4)).value
    loss.backward()
    assert loss == 0 and not values.grad.any()


def test_a_sum_over_clean_pairs_or_their_mean():
    values, clean = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 0.0, 1.0])
    assert [over_clean_pairs(name, values, clean).value.item() for name in PAIR_LOSSES] == [5, 5, 2.5, 2.5]


@EVERY
def test_losses_of_two_processes_have_the_mean_of_one(name):
    similarity, clean = cosines(), torch.tensor([1.0, 1.0, 0.0, 1.0])
    whole = over_clean_pairs(name, loss_of_pairs(name, similarity, similarity.T, PAIRS, SETTINGS), clean)
    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        pairs = Pairs(SAME[rows], PAIRS.own[rows])
        values = loss_of_pairs(name, similarity[rows], similarity.T[rows], pairs, SETTINGS)
        parts.append(over_clean_pairs(name, values, clean[rows], parts=2))
    number = (parts[0].number + parts[1].number) / 2  # the mean over processes
    torch.testing.assert_close((parts[0].over(number) + parts[1].over(number)) / 2, whole.value)


@pytest.mark.parametrize("loss", [losses.similarity_distribution, losses.projection_matching, losses.contrastive])
def test_irra_s_losses_of_two_processes_have_the_mean_of_one(loss):
    logits, known = cosines(), PAIRS.own if loss is losses.contrastive else SAME
    parts = [loss(logits[rows], logits.T[rows], known[rows]) for rows in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(logits, logits.T, known))
