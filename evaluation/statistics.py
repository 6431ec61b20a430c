"""How sure a mean over captions is, whether two models differ by more than chance, and rank correlations.

Captions of one person share their images, so they err together: resampling takes people, each with all their
captions, and not captions one by one, which would make intervals too narrow.

Letters: C captions, G groups (people), S seeds, R resamples, V values correlated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
PERMUTATIONS = 10000
LEVEL = 0.95
POWER = 2.80  # standard errors of a difference: 1.96 for p < 0.05, and 0.84 to reach that four times out of five
AT_ONCE = 2**24  # numbers drawn together


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` values and its confidence interval."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"

    def as_row(self, name: str) -> dict[str, float]:
        """Columns NAME, NAME_low and NAME_high of a table."""
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}

    @classmethod
    def from_row(cls, row: Mapping[str, Any], name: str, count: str) -> "Estimate":
        """From the columns of `as_row`, and that of the number of values."""
        return cls(row[name], row[f"{name}_low"], row[f"{name}_high"], row[count])


def interval_of(resampled: np.ndarray) -> tuple[float, float]:
    """The ends of the confidence interval of resampled values [R]: their percentiles."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def sums_of_groups(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """values [C], groups [C] -> sum and number of values of each group, [G] each; None = each value is a group."""
    if groups is None:
        return values, np.ones(len(values))
    _, group = np.unique(groups, return_inverse=True)
    return np.bincount(group, values), np.bincount(group).astype(float)


def estimate(values: np.ndarray, groups: np.ndarray | None = None, seed: int = 0) -> Estimate:
    """The mean of values [C] and its bootstrap interval (percentiles of the means of resampled groups).

    groups [C]: values that belong together. Several runs of one model are averaged before, value by value: the
    interval then says how far other people would move the mean, and not how far other seeds would.
    Without values all is NaN.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan, 0)
    sums, counts = sums_of_groups(values, groups)
    low, high = interval_of(resampled_means(sums, counts, np.random.default_rng(seed)))
    return Estimate(float(values.mean()), low, high, len(values))


def resampled_means(sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means [R] over as many groups as there are, drawn with replacement; sums, counts [G]."""
    groups = len(sums)
    means = []
    for portion in np.array_split(np.arange(RESAMPLES), max(1, RESAMPLES * groups // AT_ONCE)):
        drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=len(portion))  # [R', G]
        means.append((drawn @ sums) / (drawn @ counts))
    return np.concatenate(means)


def paired_p_value(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None, seed: int = 0) -> float:
    """Two-sided p-value of no difference between the means of two results [C] on the same captions.

    A permutation test: under the null hypothesis the results of a group may be exchanged, which turns the sign of
    its difference. Never 0: the smallest value is 1 / (1 + number of permutations).
    """
    difference, _ = sums_of_groups(np.asarray(first, dtype=float) - np.asarray(second, dtype=float), groups)
    difference = difference[difference != 0]  # their sign does not matter
    observed, rng, as_large = abs(difference.sum()), np.random.default_rng(seed), 0
    for portion in np.array_split(np.arange(PERMUTATIONS), max(1, PERMUTATIONS * len(difference) // AT_ONCE)):
        signs = rng.choice([-1.0, 1.0], size=(len(portion), len(difference)))
        as_large += int((np.abs(signs @ difference) >= observed - 1e-9).sum())
    return (1 + as_large) / (1 + PERMUTATIONS)


def detectable_difference(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> float:
    """The difference of means that would be told from chance: p < 0.05 with a probability of 80 %.

    Two-sided, by a paired test of results [C] as in `paired_p_value`, if differences of groups scatter as those of
    these results do. NaN for a single group.
    """
    difference, counts = sums_of_groups(np.asarray(first, dtype=float) - np.asarray(second, dtype=float), groups)
    if len(difference) < 2:
        return float("nan")
    about_mean = difference - counts * difference.sum() / counts.sum()
    return float(POWER * np.sqrt(len(counts) * about_mean.var(ddof=1)) / counts.sum())


# ---- rank correlation ------------------------------------------------------------------


def rank_of(values: np.ndarray) -> np.ndarray:
    """values [C] -> their ranks from 1 on; equal values share the mean of their ranks."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[index]


def correlations_of(moments: np.ndarray) -> np.ndarray:
    """Sums of products [..., V, V], the last value being 1 everywhere -> correlations [..., V - 1, V - 1].

    NaN where a value does not vary.
    """
    means = moments[..., :-1, -1:] / moments[..., -1:, -1:]
    covariance = moments[..., :-1, :-1] / moments[..., -1:, -1:] - means @ np.swapaxes(means, -1, -2)
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)
    deviation = np.sqrt(np.where(variance > 1e-9, variance, np.nan))
    return covariance / (deviation[..., :, None] * deviation[..., None, :])


def partial_correlation(result: np.ndarray, other: np.ndarray, between: np.ndarray) -> np.ndarray:
    """Correlation of a value with a result while another value is held fast, [...] each.

    result: of the value with the result; other: of the other value with the result; between: of both values. NaN
    where the other value leaves nothing to explain.
    """
    left = (1 - other**2) * (1 - between**2)
    return (result - other * between) / np.sqrt(np.where(left > 1e-9, left, np.nan))


def pair_correlations(names: Sequence[str], moments: np.ndarray) -> dict[str, np.ndarray]:
    """Sums of products [..., 4, 4] of two values with these names, a result and 1 -> correlations by name [...]."""
    found, (first, second) = correlations_of(moments), names
    between, of_first, of_second = found[..., 0, 1], found[..., 0, 2], found[..., 1, 2]
    return {
        first: of_first,
        second: of_second,
        f"{first}, {second} held fast": partial_correlation(of_first, of_second, between),
        f"{second}, {first} held fast": partial_correlation(of_second, of_first, between),
        f"between {first} and {second}": between,
    }


def partial_spearman(
    values: Mapping[str, np.ndarray], result: np.ndarray, groups: np.ndarray, seed: int
) -> dict[str, dict[str, float]]:
    """Rank correlations of two values [C] with a result [C], each alone and with the other one held fast.

    Intervals are percentiles over resampled groups; ranks stay those among all captions.
    """
    # from the middle rank on: sums of squares of small numbers keep more digits
    ranks = [rank_of(each) - (len(each) + 1) / 2 for each in (*values.values(), result)]
    columns = np.stack([*ranks, np.ones(len(result))], axis=1)  # [C, 4]
    _, group = np.unique(groups, return_inverse=True)
    moments = np.zeros((group.max() + 1, 4, 4))
    np.add.at(moments, group, columns[:, :, None] * columns[:, None, :])
    drawn = np.random.default_rng(seed).multinomial(len(moments), np.full(len(moments), 1 / len(moments)), RESAMPLES)
    resampled = pair_correlations(list(values), np.tensordot(drawn, moments, axes=1))  # by name [R]
    return {
        name: dict(zip(("mean", "low", "high"), (float(value), *interval_of(resampled[name])), strict=True))
        for name, value in pair_correlations(list(values), moments.sum(0)).items()
    }


def probability_of(log_odds: np.ndarray) -> np.ndarray:
    """The logistic function, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * log_odds))
