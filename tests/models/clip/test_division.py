"""Clean and noisy pairs by their losses: published numbers, and what happens where losses tell nothing."""

import warnings
from dataclasses import replace

import pytest
import torch
from clip_golden import clip_parts

from models.clip.division import LOOSE, TIGHT, clean_probability, divide, draw_coins, is_clean
from utils.errors import UserError

GOLDEN = clip_parts("division")
SETTINGS = {"loose": LOOSE, "tight": TIGHT, "tight_rstp": TIGHT}
ROUNDING = 1e-5  # the published numbers are of float32
LOSSES = torch.tensor([0.1, 0.12, 0.09, 0.11, 0.1, 2.0, 2.1, 1.9, 2.05, 0.1])
NOISY = LOSSES > 1


# ---- published numbers -----------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("name", GOLDEN)
def test_pairs_are_divided_as_published(name, case, seed):
    part = GOLDEN[name][case]
    coins = torch.zeros(len(part["consensus"]), dtype=torch.bool)
    coins[part["consensus"] == 1] = part["coins"].bool()
    division = divide(part["losses_bge"], part["losses_tse"], coins, replace(SETTINGS[case], seed=seed))
    for side in ("bge", "tse"):
        sure, found = part[f"sure_{side}"], getattr(division, side)
        allowed = part["probability_spread"][side] + ROUNDING
        assert (found - part[f"probability_{side}"]).abs().max() <= allowed
        assert is_clean(found)[sure].equal(part[f"clean_{side}"].bool()[sure])
    sure = part["sure_bge"] & part["sure_tse"]
    assert sure.float().mean() > 0.97
    assert division.consensus[sure].equal(part["consensus"].long()[sure])
    assert division.label[sure].equal(part["label_hat"].bool()[sure])


@pytest.mark.parametrize("name", GOLDEN)
def test_where_all_pairs_seem_clean_the_last_hundredth_is_noisy(name):
    part = GOLDEN[name]["all_above"]
    assert part["probability"].min() > 0.5
    assert is_clean(part["probability"]).equal(part["clean"].bool())


# ---- small enough to check by hand -----------------------------------------------------


def test_high_losses_are_noisy_whatever_their_scale():
    coins = torch.zeros(10, dtype=torch.bool)
    for settings in (LOOSE, TIGHT):
        division = divide(LOSSES, 1000 * LOSSES - 7, coins, settings)
        assert division.label.equal(~NOISY)
        assert division.consensus.equal(torch.where(NOISY, 0, 2))
        assert (division.bge - division.tse).abs().max() < 1e-3


def test_a_coin_decides_where_the_two_disagree():
    other = LOSSES.clone()
    other[[0, 1, 5]] = torch.tensor([2.0, 2.1, 0.1])
    coins = torch.tensor([True, False, False, False, False, True, True, False, True, False])
    division = divide(LOSSES, other, coins, LOOSE)
    assert division.consensus.tolist() == [1, 1, 2, 2, 2, 1, 0, 0, 0, 2]
    assert division.label.tolist() == [True, False, True, True, True, True, False, False, False, True]


def test_a_mixture_of_few_rounds_is_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = torch.rand(300, generator=torch.Generator().manual_seed(0))
        found = clean_probability(values, replace(TIGHT, rounds=1))
    assert found[values.argmin()] > 0.5 > found[values.argmax()]


def test_is_clean_is_above_a_half():
    assert is_clean(torch.tensor([0.5, 0.51, 0.2])).tolist() == [False, True, False]
    assert is_clean(torch.tensor([0.8, 0.6, 0.9])).tolist() == [True, False, True]
    assert is_clean(torch.tensor([1.0, 1.0, 1.0])).tolist() == [True, True, True]


# ---- losses that tell nothing ----------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 200])
def test_pairs_of_equal_losses_are_clean(count):
    equal = torch.full((count,), 0.3)
    division = divide(equal, equal, torch.zeros(count, dtype=torch.bool), LOOSE)
    assert division.label.all() and (division.consensus == 2).all() and division.label.shape == (count,)


def test_one_embedding_of_equal_losses_leaves_it_to_the_other_and_the_coin():
    division = divide(torch.ones(10), LOSSES, torch.ones(10, dtype=torch.bool), LOOSE)
    assert division.consensus.equal(torch.where(NOISY, 1, 2)) and division.label.all()


def test_two_pairs_can_be_divided():
    division = divide(torch.tensor([0.1, 3.0]), torch.tensor([0.2, 2.0]), torch.zeros(2, dtype=torch.bool), TIGHT)
    assert division.label.tolist() == [True, False]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_losses_that_are_no_numbers_are_refused(bad):
    with pytest.raises(UserError, match="1 pair of 3 cannot be divided, as their loss is not a number"):
        divide(torch.tensor([0.1, bad, 0.2]), torch.ones(3), torch.ones(3, dtype=torch.bool), LOOSE)


def test_nothing_of_a_division_has_a_gradient():
    losses = LOSSES.clone().requires_grad_()
    division = divide(losses, losses, draw_coins(0, 0, 10), LOOSE)
    assert not division.bge.requires_grad and division.label.dtype == torch.bool


def test_coins_are_fair_and_depend_on_seed_and_epoch():
    coins = draw_coins(1, 2, 10_000)
    assert coins.dtype == torch.bool and abs(coins.float().mean() - 0.5) < 0.02
    assert draw_coins(1, 2, 10_000).equal(coins)
    assert not draw_coins(1, 3, 10_000).equal(coins) and not draw_coins(2, 2, 10_000).equal(coins)
