"""Intervals cover the truth as often as they say, and a p-value below 0.05 comes by chance one time in twenty."""

import numpy as np
import pytest

from evaluation import statistics
from evaluation.statistics import (
    detectable_difference,
    estimate,
    pair_correlations,
    paired_p_value,
    partial_correlation,
    partial_spearman,
    rank_of,
)


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    monkeypatch.setattr(statistics, "PERMUTATIONS", 400)


def captions_of_people(rng, people, each, spread):
    """Hits of captions: each person is as easy as a draw says, so that their captions err together."""
    ease = np.clip(0.6 + spread * rng.standard_normal(people), 0, 1)
    hits = rng.random((people, each)) < ease[:, None]
    return hits.astype(float).ravel(), np.repeat(np.arange(people), each)


def truth(spread):
    return np.clip(0.6 + spread * np.random.default_rng(9).standard_normal(10**6), 0, 1).mean()


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_intervals_cover_the_true_mean(spread):
    rng, true, covered = np.random.default_rng(0), truth(spread), 0
    for trial in range(400):
        values, people = captions_of_people(rng, 60, 8, spread)
        found = estimate(values, people, seed=trial)
        covered += found.low <= true <= found.high
    assert 0.91 <= covered / 400 <= 0.98


def test_captions_one_by_one_would_make_intervals_too_narrow():
    rng, true, covered = np.random.default_rng(0), truth(0.3), 0
    for trial in range(200):
        values, _ = captions_of_people(rng, 60, 8, 0.3)
        found = estimate(values, None, seed=trial)
        covered += found.low <= true <= found.high
    assert covered / 200 < 0.85


def test_equal_models_seldom_differ():
    rng = np.random.default_rng(1)
    found = [
        paired_p_value(rng.random(80) < 0.5, rng.random(80) < 0.5, np.repeat(np.arange(20), 4), trial)
        for trial in range(300)
    ]
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.09


def test_a_real_difference_is_found():
    rng = np.random.default_rng(2)
    worse = (rng.random(400) < 0.4).astype(float)
    better = np.maximum(worse, rng.random(400) < 0.15)
    assert paired_p_value(better, worse, np.repeat(np.arange(100), 4)) < 0.01
    assert paired_p_value(better, better) == 1


def test_four_of_five_differences_of_the_smallest_size_told_are_found():
    rng, people = np.random.default_rng(3), np.repeat(np.arange(60), 8)

    def results(better):
        """Two models that err alike, one of them better by so much; of a person all of it or twice or nothing."""
        ease = np.clip(0.5 + 0.2 * rng.standard_normal(60), 0.1, 0.8)
        more = better * rng.integers(0, 3, 60)
        return (rng.random(480) < np.repeat(ease + more, 8)).astype(float), (
            rng.random(480) < np.repeat(ease, 8)
        ).astype(float)

    told = np.median([detectable_difference(*results(0.08), people) for _ in range(50)])
    found = [paired_p_value(*results(told), people, trial) < 0.05 for trial in range(300)]
    assert 0.72 <= np.mean(found) <= 0.88
    assert np.isnan(detectable_difference(np.ones(3), np.zeros(3), np.zeros(3)))
    assert detectable_difference(np.ones(480), np.zeros(480), people) == 0


def test_an_interval_holds_its_mean_and_grows_with_its_groups():
    values = np.repeat([1.0, 0.0, 0.0, 1.0], 10)
    alone, together = estimate(values), estimate(values, np.repeat(np.arange(4), 10))
    assert alone.low < alone.mean == 0.5 == together.mean < alone.high
    assert together.high - together.low > alone.high - alone.low
    assert estimate([0.5] * 7) == statistics.Estimate(0.5, 0.5, 0.5, 7)
    assert np.isnan(estimate([]).mean)


# ---- rank correlation ------------------------------------------------------------------


def test_equal_values_share_their_mean_rank():
    assert rank_of(np.array([10, 30, 10, 20])).tolist() == [1.5, 4, 1.5, 3]


def test_partial_correlation_by_its_formula():
    # (0.8 - 0.5 * 0.6) / sqrt((1 - 0.5^2) * (1 - 0.6^2))
    found = partial_correlation(np.array(0.8), np.array(0.5), np.array(0.6))
    assert found == pytest.approx(0.5 / np.sqrt(0.75 * 0.64))
    assert np.isnan(partial_correlation(np.array(1.0), np.array(1.0), np.array(1.0)))


def test_correlations_of_sums_are_those_of_values():
    values = np.random.default_rng(0).standard_normal((50, 3)) @ np.array([[1, 0.5, 0.2], [0, 1, 0.7], [0, 0, 1]])
    extended = np.concatenate([values, np.ones((50, 1))], axis=1)
    found = pair_correlations(["length", "attributes"], extended.T @ extended)
    plain = np.corrcoef(values.T)
    assert found["length"] == pytest.approx(plain[0, 2])
    assert found["between length and attributes"] == pytest.approx(plain[0, 1])
    # what is left of length and result when a line through attributes is taken out
    left = [values[:, c] - np.polyval(np.polyfit(values[:, 1], values[:, c], 1), values[:, 1]) for c in (0, 2)]
    assert found["length, attributes held fast"] == pytest.approx(np.corrcoef(left)[0, 1])


def test_what_works_through_attributes_is_not_put_down_to_length():
    rng = np.random.default_rng(1)
    attributes = rng.integers(0, 6, 2000)
    lengths = 4 * attributes + rng.integers(0, 12, 2000)
    result = attributes + 2 * rng.random(2000)
    found = partial_spearman({"length": lengths, "attributes": attributes}, result, np.arange(2000) // 4, seed=0)
    assert found["length"]["low"] > 0.5
    held = found["length, attributes held fast"]
    assert held["low"] < 0 < held["high"]
    assert found["attributes, length held fast"]["low"] > 0.5


def test_a_property_that_does_not_vary_has_no_correlation():
    found = partial_spearman({"length": np.arange(8), "attributes": np.full(8, 3)}, np.arange(8), np.arange(8), seed=0)
    assert found["length"]["mean"] == pytest.approx(1)
    assert np.isnan(found["attributes"]["mean"])
