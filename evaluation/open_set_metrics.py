"""How well scores tell whether the described person is in the gallery at all, and how true probabilities are.

Pure functions of the hits of C searches, N of each, best first. present [C]: True = the described person is in the
gallery; of all others every hit is wrong. weights [C]: how often a search counts, 1 or as a bootstrap has drawn it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.statistics import RESAMPLES, Estimate, interval_of

BINS = 10  # of probabilities, equally wide
RATES = (0.01, 0.1)  # of false alarms, at which right hits are counted
NAMES = {
    "auroc": "AUROC",
    **{f"tpir_{rate:g}": f"TPIR at {rate:.0%} FPIR" for rate in RATES},
    **{f"fpir_{rate:g}": f"FPIR, {rate:.0%} wanted" for rate in RATES},
    "r1": "R@1 of present",
    "ece": "ECE of best hits",
    "ece_others": "ECE of other hits",
    "ece_raw": "ECE without calibration",
}


@dataclass(frozen=True)
class OpenSearches:
    """Searches of a gallery that lacks the described person in some.

    scores, right, probabilities [C, N], present, people [C]: as above, and whom each search is for; thresholds: score
    of the best hit by rate of false alarms; raw [C]: what the model itself takes for the probability of the best hit,
    if it does.
    """

    scores: np.ndarray
    right: np.ndarray
    probabilities: np.ndarray
    present: np.ndarray
    people: np.ndarray
    thresholds: Mapping[float, float]
    raw: np.ndarray | None = None


def measures_of(found: OpenSearches) -> dict[str, Callable[[np.ndarray], float]]:
    """Each value of `NAMES` in per cent, as a function of weights [C]."""
    best, right, present = found.scores[:, 0], found.right[:, 0], found.present
    shown = np.isfinite(found.scores)
    measures = {"auroc": auroc(best, present)}
    for rate, threshold in found.thresholds.items():
        measures[f"tpir_{rate:g}"] = share(right & (best > threshold), present)
        measures[f"fpir_{rate:g}"] = share(best > threshold, ~present)
    measures["r1"] = share(right, present)
    measures["ece"] = calibration_error(found.probabilities[:, :1], found.right[:, :1], shown[:, :1])
    measures["ece_others"] = calibration_error(found.probabilities[:, 1:], found.right[:, 1:], shown[:, 1:])
    if found.raw is not None:
        measures["ece_raw"] = calibration_error(found.raw[:, None], found.right[:, :1], shown[:, :1])
    return measures


def measure(found: OpenSearches, seed: int) -> dict[str, Estimate]:
    """Each value of `NAMES` in per cent, with its bootstrap interval over people.

    Of few people, some resamples have nobody present, or nobody absent: values that need them are of the others.
    """
    people, person = np.unique(found.people, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(people), np.full(len(people), 1 / len(people)), size=RESAMPLES)
    all_once, found_of = np.ones(len(person)), {}
    for name, value in measures_of(found).items():
        values = np.array([value(one[person]) for one in drawn])
        values = values[np.isfinite(values)]
        interval = interval_of(values) if len(values) else (np.nan, np.nan)
        found_of[name] = Estimate(value(all_once), *interval, len(person))
    return found_of


def share(wanted: np.ndarray, among: np.ndarray) -> Callable[[np.ndarray], float]:
    """weights -> per cent of the searches `among` [C] that are `wanted` [C]; NaN where there are none."""

    def of(weights: np.ndarray) -> float:
        total = weights[among].sum()
        return float(100 * weights[among & wanted].sum() / total) if total else np.nan

    return of


def auroc(best: np.ndarray, present: np.ndarray) -> Callable[[np.ndarray], float]:
    """weights -> how often, in per cent, the best hit of a search for someone present scores higher than of another.

    best [C]: scores of the best hits. Equal scores count half. NaN where all are present, or none is.
    """
    values, index = np.unique(best, return_inverse=True)

    def of(weights: np.ndarray) -> float:
        with_person = np.bincount(index, weights * present, len(values))
        without = np.bincount(index, weights * ~present, len(values))
        pairs = with_person.sum() * without.sum()
        below = without.cumsum() - without / 2
        return float(100 * (with_person @ below) / pairs) if pairs else np.nan

    return of


def calibration_error(probabilities: np.ndarray, right: np.ndarray, shown: np.ndarray) -> Callable[[np.ndarray], float]:
    """weights -> expected calibration error (ECE) in points of per cent: over bins of probabilities, the mean distance
    between the mean probability and the share of right hits, each bin by its number of hits; [C, N] each, shown:
    True = there is such a hit. NaN where there is none."""
    search = np.broadcast_to(np.arange(len(shown))[:, None], shown.shape)[shown]
    values, hit = probabilities[shown], right[shown]
    number = bin_of(values)

    def of(weights: np.ndarray) -> float:
        counts = weights[search]
        if not counts.sum():
            return np.nan
        distance = np.bincount(number, counts * (values - hit), BINS)
        return float(100 * np.abs(distance).sum() / counts.sum())

    return of


def bin_of(probabilities: np.ndarray) -> np.ndarray:
    """Number of the bin of each probability, 0 to BINS - 1."""
    return np.minimum((probabilities * BINS).astype(int), BINS - 1)
