"""The random draws of a step: their distribution, and what they depend on."""

from dataclasses import replace

import pytest
import torch
from tiny_model import SPECIAL, VOCABULARY, captions
from torch import Tensor

from dataset.batch import TextTokens
from models.losses import IGNORED
from models.randomness import MaskedTokens, RandomDraws, StepNoise, pick


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def draws_of(samples: list[int], seed: int = 0, epoch: int = 0) -> RandomDraws:
    return RandomDraws(StepNoise.draw(seed, epoch, samples, tokens=12, patches=6), SPECIAL, VOCABULARY)


# ---- one index by its weight -----------------------------------------------------------


def test_pick_by_hand():
    # weights 1, 0, 3: below a quarter the first, above it the last
    numbers = torch.tensor([0.0, 0.2, 0.26, 0.9])
    assert pick(torch.tensor([1.0, 0.0, 3.0]).expand(4, 3), numbers).tolist() == [0, 0, 2, 2]


def test_pick_draws_in_proportion_to_the_weights():
    weights, trials = torch.tensor([1.0, 0.0, 3.0, 0.5, 5.5]), 20_000
    counts = pick(weights.expand(trials, 5), uniform(trials)).bincount(minlength=5)
    expected = trials * weights / weights.sum()
    possible = weights > 0
    # chi-square with three degrees of freedom: above 16.3 once in a thousand
    assert ((counts - expected)[possible].square() / expected[possible]).sum() < 16.3


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("seed", range(20))
def test_pick_never_takes_a_weight_of_zero(number, seed):
    weights = uniform(50, 300, seed=seed) * (uniform(50, 300, seed=seed + 100) < 0.3)
    weights[:, 0] = weights[:, -1] = 0
    assert (weights.gather(1, pick(weights, torch.full((50,), number))[:, None]) > 0).all()


@pytest.mark.parametrize("count", [1, 127, 128, 129, 5000])
def test_pick_is_the_inverse_of_the_cumulative_distribution(count):
    weights, numbers = uniform(200, count).pow(8), uniform(200, seed=1)
    cumulative = weights.double().cumsum(1)
    expected = [
        int((row <= number * row[-1]).sum()) for row, number in zip(cumulative, numbers * (1 - 1e-6), strict=True)
    ]
    assert pick(weights, numbers).tolist() == expected


def test_pick_does_not_depend_on_the_scale_of_the_weights():
    weights, numbers = uniform(100, 8), uniform(100, seed=1)
    assert torch.equal(pick(weights, numbers), pick(weights * 2**-40, numbers))


def test_pick_from_no_weight_at_all_stays_inside():
    assert pick(torch.zeros(2, 4), torch.tensor([0.0, 0.99])).max() < 4


def test_hard_negatives_follow_their_own_weights():
    # texts may only draw the image after them, images only the text before them
    after = torch.eye(4).roll(1, dims=1)
    image, text = draws_of([0, 1, 2, 3]).hard_negatives(after, after.T)
    assert image.tolist() == [1, 2, 3, 0]
    assert text.tolist() == [3, 0, 1, 2]


# ---- masked and sampled words ----------------------------------------------------------


def read(drawn: MaskedTokens) -> tuple[Tensor, Tensor]:
    return drawn.ids, drawn.labels


def crowd(size: int = 4000) -> tuple[RandomDraws, TextTokens]:
    """Many captions of 6 to 12 tokens without special tokens inside."""
    return draws_of(list(range(size))), captions([6 + i % 7 for i in range(size)])


@pytest.mark.parametrize("purpose", ["mlm", "mrtd"])
def test_masked_tokens_leave_cls_and_padding_alone(purpose):
    draws, text = crowd(200)
    ids, labels = read(draws.masked_tokens(text, purpose, probability=1.0))
    may_change = text.mask & (text.ids != SPECIAL.cls)
    assert torch.equal(labels != IGNORED, may_change)
    assert torch.equal(ids[~may_change], text.ids[~may_change])


def test_words_that_the_data_have_hidden_are_nothing_to_tell():
    draws, text = crowd(200)
    hidden = text.mask & (text.ids % 3 == 0) & (text.ids != SPECIAL.cls)
    assert hidden.any()
    given = replace(text, ids=text.ids.masked_fill(hidden, SPECIAL.mask))
    drawn = replace(draws, some_hidden=True).masked_tokens(given, "mlm", probability=1.0)
    assert torch.equal(drawn.labels != IGNORED, text.mask & (text.ids != SPECIAL.cls) & ~hidden)


@pytest.mark.parametrize("purpose", ["mlm", "mrtd"])
def test_labels_hold_the_original_ids(purpose):
    draws, text = crowd(200)
    ids, labels = read(draws.masked_tokens(text, purpose, probability=0.5))
    assert torch.equal(labels[labels != IGNORED], text.ids[labels != IGNORED])
    assert torch.equal(ids[labels == IGNORED], text.ids[labels == IGNORED])


@pytest.mark.parametrize("probability", [0.15, 0.3])
def test_the_share_of_masked_words_is_the_probability(probability):
    draws, text = crowd()
    labels = draws.masked_tokens(text, "mlm", probability).labels
    words = (text.mask & (text.ids != SPECIAL.cls)).sum()
    # the standard deviation of the share is below 0.003 here
    assert (labels != IGNORED).sum() / words == pytest.approx(probability, abs=0.01)


def test_of_masked_words_80_percent_become_mask_10_percent_random_and_10_percent_stay():
    draws, text = crowd()
    ids, labels = read(draws.masked_tokens(text, "mlm", 0.5))
    new, old = ids[labels != IGNORED], text.ids[labels != IGNORED]
    hidden, kept = new == SPECIAL.mask, new == old
    # a random word is the mask, or the old word, once in VOCABULARY
    assert hidden.float().mean() == pytest.approx(0.8 + 0.1 / VOCABULARY, abs=0.015)
    assert kept.float().mean() == pytest.approx(0.1 + 0.1 / VOCABULARY, abs=0.015)
    random = new[~hidden & ~kept]
    assert random.min() >= 0
    assert random.max() == VOCABULARY - 1
    assert random.unique().numel() >= VOCABULARY - 1  # all but the mask itself


def test_mlm_and_mrtd_mask_different_words():
    draws, text = crowd(50)
    mlm, mrtd = (draws.masked_tokens(text, purpose, 0.3) for purpose in ("mlm", "mrtd"))
    assert not torch.equal(mlm.labels, mrtd.labels)


@pytest.mark.parametrize(("probability", "share"), [(0.0, 8), (0.11, 8), (0.15, 4), (0.4, 2), (1.0, 1)])
def test_the_number_of_masked_words_has_a_bound_known_in_main_memory(probability, share):
    draws, text = crowd(200)
    words = text.ids.numel()
    most = draws.noise.most_masked("mlm", text.ids.shape[1], probability)
    drawn = replace(draws, most_masked={"mlm": most}).masked_tokens(text, "mlm", probability)
    assert int((drawn.labels != IGNORED).sum()) <= drawn.at_most == words // share
    assert draws.masked_tokens(text, "mlm", probability).at_most == words


def test_the_bound_of_masked_words_is_met_by_chance_alone():
    noise = draws_of([3, 4]).noise
    chances = noise.mlm[:, :4, 0].flatten().sort().values
    for count, most in ((1, 1), (2, 2), (4, 4), (5, 8), (8, 8)):  # of eight words
        assert noise.most_masked("mlm", 4, float(chances[count - 1]) + 1e-6) == most


def test_sampled_tokens_follow_the_softmax_of_the_logits():
    draws, chances = draws_of(list(range(4000))), torch.tensor([0.1, 0.2, 0.7])
    sampled = draws.sampled_tokens(chances.log().expand(4000, 5, 3))
    assert sampled.shape == (4000, 5)
    shares = sampled.flatten().bincount(minlength=3) / sampled.numel()
    assert shares.tolist() == pytest.approx(chances.tolist(), abs=0.012)


# ---- what the noise depends on ---------------------------------------------------------

PARTS = ("negatives", "mlm", "mrtd", "sampled", "patches")


def test_noise_has_a_number_for_every_draw():
    noise = StepNoise.draw(0, 0, [4, 5, 6], tokens=7, patches=5)
    shapes = [tuple(getattr(noise, name).shape) for name in PARTS]
    assert shapes == [(3, 2), (3, 7, 3), (3, 7, 3), (3, 7), (3, 5)]
    numbers = torch.cat([getattr(noise, name).flatten() for name in PARTS])
    assert 0 <= numbers.min() <= numbers.max() < 1
    assert numbers.unique().numel() > 0.99 * numbers.numel()  # no draw repeats another


@pytest.mark.parametrize("part", PARTS)
def test_noise_of_a_sample_does_not_depend_on_its_batch(part):
    together = getattr(StepNoise.draw(1, 2, [7, 3, 9], 6, 4), part)
    alone = getattr(StepNoise.draw(1, 2, [3], 6, 4), part)
    assert torch.equal(together[1], alone[0])


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("changed", [(2, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3)])
def test_another_seed_epoch_or_sample_gives_other_noise(part, changed):
    seed, epoch, sample = changed
    one = getattr(StepNoise.draw(1, 2, [3], 6, 4), part)
    other = getattr(StepNoise.draw(seed, epoch, [sample], 6, 4), part)
    assert (one != other).all()


def test_noise_does_not_touch_the_global_random_state():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    StepNoise.draw(0, 0, [0, 1], 5, 5)
    assert torch.equal(torch.rand(4), expected)


def test_a_shorter_batch_masks_the_same_words():
    samples, text = [0, 1, 2], captions([6, 5, 6])
    padded = TextTokens(torch.nn.functional.pad(text.ids, (0, 4)), torch.nn.functional.pad(text.mask, (0, 4)))
    short, long = (draws_of(samples).masked_tokens(each, "mlm", 0.5).ids for each in (text, padded))
    assert torch.equal(long[:, :6], short)


def test_patch_noise_is_that_of_the_samples():
    draws = draws_of([2, 8])
    assert torch.equal(draws.patch_noise(), draws.noise.patches)
