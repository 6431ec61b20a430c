"""What a score means: how likely an image shows the described person, and whether anybody in a gallery fits.

The event is "this image shows the described person", of the images that a search shows, in a gallery that is open:
every second search is for a person who is not in it (`PRESENT`). Its log odds are a line of the score of the image and
of the best score of the search (Platt's scaling with a second input: the same score means less behind a weak best hit).
A gallery of twice as many images has twice as many wrong ones of every score: odds are divided by the number of images.

The second question is answered by the best hit alone: scores that it reaches in searches for people who are not there
give a threshold for each rate of false alarms. They too follow the number of images.

Letters: C searches, N hits of each, best first, F inputs of a fit.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evaluation.description.meaning import CategoryCalibration
from evaluation.statistics import probability_of
from utils.errors import UserError
from utils.files import read_json, write_json

logger = logging.getLogger(__name__)

PRESENT = 0.5  # share of searches whose person is in the gallery
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of false alarms, that are recorded
TAIL = 0.1  # from this rate on, log rates of rare false alarms fall as a line where none was recorded
FALSE_ALARMS = 0.05  # of a search, unless another rate is asked for
HOW_TO_FIT = "python -m evaluation calibrate --checkpoint %s fits one on validation data"
ENDING = ".calibration.json"  # of the file beside a checkpoint
STEPS, CONVERGED, LONGEST_STEP = 100, 1e-10, 4.0  # of Newton's method, on inputs of deviation 1


class StageCalibration(BaseModel):
    """What the scores of one stage mean.

    slope, lift, offset: log odds = slope * score + lift * best score of the search + offset, in a gallery of so many
    `images`. alarms: (rate, score that the best hit goes beyond in so many of the searches for people who are not
    there), rates ascending. captions, people: that all of this was fitted on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    slope: float
    lift: float
    offset: float
    images: Annotated[int, Field(ge=1)]
    captions: Annotated[int, Field(ge=1)]
    people: Annotated[int, Field(ge=1)]
    alarms: Annotated[tuple[tuple[Annotated[float, Field(gt=0, lt=1)], float], ...], Field(min_length=1)]

    def probabilities(self, scores: np.ndarray, images: int) -> np.ndarray:
        """scores [C, N], best first, in a gallery of `images` -> how likely each shows the described person [C, N]."""
        shown = np.isfinite(scores)
        scores = np.where(shown, scores, 0.0)
        odds = self.slope * scores + self.lift * scores[:, :1] + self.offset - np.log(images / self.images)
        return np.where(shown, probability_of(odds), 0.0)

    def threshold(self, rate: float, images: int) -> float:
        """The score that the best hit goes beyond in this share of the searches for people who are not there.

        Raises UserError unless the rate is between 0 and 1.
        """
        require_rate(rate)
        wanted = np.log(expected_alarms(rate) * self.images / images)  # in a gallery as large as that of the fit
        log_counts, scores = self.alarm_curve
        if wanted < log_counts[0]:
            tail = int(np.searchsorted(log_counts, np.log(expected_alarms(TAIL))))
            return float(scores[0] + (wanted - log_counts[0]) * slope_between(log_counts, scores, 0, tail))
        return float(np.interp(wanted, log_counts, scores))

    @cached_property
    def alarm_curve(self) -> tuple[np.ndarray, np.ndarray]:
        """log of the expected number of false alarms, ascending, and the score at which there are so many."""
        rates, scores = np.array(self.alarms).T
        return np.log(expected_alarms(rates)), scores


class Calibration(BaseModel):
    """What the scores of a model mean, by stage, and those of phrases that describe people, by category.

    model: the digest of its weights, where they are in another file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    model: str | None = None
    stages: dict[Annotated[str, Field(pattern="^(stage1|reranked)$")], StageCalibration]
    attributes: dict[str, CategoryCalibration] = {}


# ---- fitting ---------------------------------------------------------------------------


def fit_stage(
    scores: np.ndarray, right: np.ndarray, present: np.ndarray, people: np.ndarray, images: int
) -> StageCalibration:
    """Fit one stage on searches in a gallery of `images`.

    scores [C, N], best first, -inf where there is no image; right [C, N] True = shows the described person;
    present [C] True = that person is in the gallery; people [C]: who that is.
    """
    slope, lift, offset = fit_odds(scores, right, weights_of(scores, present))
    return StageCalibration(
        slope=slope,
        lift=lift,
        offset=offset,
        images=images,
        captions=int(present.sum()),
        people=len(np.unique(people)),
        alarms=alarms_of(scores[~present, 0]),
    )


def weights_of(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """How much each hit counts [C, N]: the best hit of a search as much as all others together.

    Searches for people who are there count `PRESENT` together, all others the rest.
    """
    counts = np.isfinite(scores).astype(float)
    counts[:, 1:] /= np.maximum(counts[:, 1:].sum(axis=1, keepdims=True), 1)
    shares = np.where(present, PRESENT / max(present.sum(), 1), (1 - PRESENT) / max((~present).sum(), 1))
    weights = counts * shares[:, None]
    return weights / weights.sum() * np.isfinite(scores).sum()


def fit_odds(scores: np.ndarray, right: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Slope, lift and offset of log odds; scores, right, weights [C, N].

    Better scores never mean less: what would contradict this is left out, at the worst all that scores say.
    """
    shown = np.isfinite(scores)
    best = np.broadcast_to(scores[:, :1], scores.shape)[shown]
    inputs, values, counts = np.stack([scores[shown], best], axis=1), right[shown].astype(float), weights[shown]
    for used in (2, 1, 0):
        factors, offset = fit_logistic(inputs[:, :used], values, counts)
        slope, lift = np.pad(factors, (0, 2 - used))
        if slope >= 0 and slope + lift >= 0:
            break
    if not used:
        logger.warning("better scores do not mean better hits here: this model tells nobody apart")
    return float(slope), float(lift), float(offset)


def fit_logistic(inputs: np.ndarray, right: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Factors [F] of inputs [C, F] and offset of the log odds of right [C], 0 or 1, by Newton's method.

    As Platt does, targets are a little less sure than 0 and 1, so that perfect separation has a finite answer.
    """
    positive, negative = (weights * right).sum(), (weights * (1 - right)).sum()
    targets = np.where(right > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1)
    columns = np.concatenate([(inputs - mean) / deviation, np.ones((len(inputs), 1))], axis=1)
    found = np.zeros(columns.shape[1])
    for _ in range(STEPS):
        probability = probability_of(columns @ found)
        gradient = columns.T @ (weights * (probability - targets))
        curvature = weights * probability * (1 - probability)
        hessian = (columns * curvature[:, None]).T @ columns + 1e-9 * weights.sum() * np.eye(len(found))
        step = np.linalg.solve(hessian, gradient)
        found -= step * min(1.0, LONGEST_STEP / max(np.abs(step).max(), 1e-300))
        if np.abs(step).max() < CONVERGED:
            break
    factors = found[:-1] / deviation
    return factors, float(found[-1] - factors @ mean)


def alarms_of(best: np.ndarray) -> tuple[tuple[float, float], ...]:
    """(rate, score) of the best scores [C] of searches for people who are not there, as far as so many can tell."""
    finite = np.where(np.isfinite(best), best, best[np.isfinite(best)].min(initial=0))
    rates = [rate for rate in RATES if rate * len(best) >= 1] or [RATES[-1]]
    return tuple((rate, float(np.quantile(finite, 1 - rate, method="higher"))) for rate in rates)


def expected_alarms(rate: Any) -> Any:
    """How many wrong images go beyond a score on average, if at least one does in this share of searches (Poisson)."""
    return -np.log1p(-np.asarray(rate))


def slope_between(x: np.ndarray, y: np.ndarray, first: int, last: int) -> float:
    """The slope of a curve between two of its points; 0 for one point."""
    last = min(last, len(x) - 1)
    return float((y[last] - y[first]) / (x[last] - x[first])) if last > first else 0.0


def require_rate(rate: float) -> None:
    """Raises UserError unless a rate of false alarms is between 0 and 1."""
    if not 0 < rate < 1:
        raise UserError(f"a rate of false alarms must be between 0 and 1, such as {FALSE_ALARMS}, not {rate:g}")


# ---- files -----------------------------------------------------------------------------


def calibration_beside(checkpoint: Path) -> Path:
    """The file beside a checkpoint that says what its scores mean."""
    return checkpoint.with_name(checkpoint.stem + ENDING)


def write_calibration(checkpoint: Path, calibration: Calibration) -> Path:
    """Keep a calibration beside its checkpoint, which is not touched; returns the file."""
    file = calibration_beside(checkpoint)
    write_json(file, calibration.model_dump(), indent=2)
    return file


def read_calibration(content: Mapping[str, Any] | Path, where: str) -> Calibration:
    """A calibration from its file, or from what a checkpoint holds. Raises UserError when it is none."""
    try:
        found = read_json(content, "calibration") if isinstance(content, Path) else content
    except UserError as error:
        raise UserError(f"{error}; fit it again (python -m evaluation calibrate), or delete it") from None
    try:
        return Calibration.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        reason = f"{key}: {first['msg']}" if key else first["msg"]
        raise UserError(f"{where} is not a calibration ({reason}); fit it again, or delete it") from None


def choose_calibration(
    candidates: Sequence[tuple[Calibration, str]], checkpoint: Path, digest: Callable[[], str]
) -> Calibration | None:
    """The first calibration that is of these weights; what is of others is told. candidates: with where they are."""
    for calibration, where in candidates:
        if calibration.model is None or calibration.model == digest():
            return calibration
        logger.warning(
            "%s is of other weights than %s has and is not used; %s", where, checkpoint, HOW_TO_FIT % checkpoint
        )
    return None
