"""How sure a mean over captions is, and whether two models differ by more than chance.

Captions of one person share their images, so they err together: resampling takes people, each with all their
captions, and not captions one by one, which would make intervals too narrow.

Letters: C captions, G groups (people), S seeds, R resamples.
"""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
PERMUTATIONS = 10000
LEVEL = 0.95
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
        """For a table."""
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}


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
    means = resampled_means(sums, counts, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


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
