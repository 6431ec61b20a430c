"""Fits what the scores of phrases mean (`CategoryCalibration`) on people of whom it is known what they have.

Multinomial logistic regression, one for each category. Images of one person err together, so every person counts
once, however many images show them.

Letters: G images, K options of a category, F features (cosine, match logit).
"""

import logging
from collections.abc import Mapping

import numpy as np

from evaluation.description.meaning import CategoryCalibration, Evidence, softmax
from evaluation.description.phrases import Category, PhraseTable, columns_of

logger = logging.getLogger(__name__)

MIN_PEOPLE = 4  # people that a category is fitted on
STEPS, CONVERGED = 100, 1e-10
PRIOR, SLOPE_PRIOR = 1.0, 1e-6  # curvature without a person: an option that nobody has gets a finite offset


def fit_category(
    category: Category, evidence: Evidence, targets: np.ndarray, people: np.ndarray
) -> CategoryCalibration | None:
    """evidence [G, K]; targets [G]: index of the true option, below 0 = none; people [G]. None of too few people."""
    known = targets >= 0
    if len(np.unique(people[known])) < MIN_PEOPLE or len(np.unique(targets[known])) < 2:
        return None
    evidence, targets, people = evidence.select_images(known), targets[known], people[known]
    features = [evidence.similarity, *([] if evidence.match is None else [evidence.match])]
    slopes, offsets = fit_options(np.stack(features, axis=-1), targets, weights_of(people))
    if not slopes.any():
        logger.warning(
            "%s: better scores do not mean better phrases here; scores say how common each is", category.name
        )
    return CategoryCalibration(
        captions=dict(category.options),
        similarity=float(slopes[0]),
        match=None if evidence.match is None else float(slopes[1]),
        offsets=dict(zip(category.names, map(float, offsets), strict=True)),
        images=int(known.sum()),
        people=len(np.unique(people)),
    )


def weights_of(people: np.ndarray) -> np.ndarray:
    """How much each image [G] counts: all of one person as much as one."""
    _, number, counts = np.unique(people, return_inverse=True, return_counts=True)
    return 1 / counts[number]


def fit_options(features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes [F] and offsets [K] of the log odds of options; features [G, K, F]; targets, weights [G].

    Better scores never mean less: the feature whose slope would be lowest is left out until none is below 0.
    """
    used = list(range(features.shape[-1]))
    while True:
        scale = features[..., used].std(axis=(0, 1))
        scale = np.where(scale > 0, scale, 1)
        found, offsets = fit_multinomial(features[..., used] / scale, targets, weights)
        if not len(used) or found.min() >= 0:
            break
        del used[int(found.argmin())]
    slopes = np.zeros(features.shape[-1])
    slopes[used] = found / scale
    return slopes, offsets


def fit_multinomial(features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `fit_options`, by Newton's method, whatever the signs. Offsets sum to 0."""
    images, options, count = features.shape
    inputs = np.concatenate([features, np.broadcast_to(np.eye(options), (images, options, options))], axis=-1)
    penalty = np.array([SLOPE_PRIOR] * count + [PRIOR] * options)
    found = np.zeros(count + options)
    value = penalised(inputs, targets, weights, penalty, found)
    for _ in range(STEPS):
        chance = softmax(inputs @ found)
        mean = np.einsum("gk,gkx->gx", chance, inputs)
        gradient = weights @ (mean - inputs[np.arange(images), targets]) + penalty * found
        squares = np.einsum("gk,gkx,gky->xy", weights[:, None] * chance, inputs, inputs, optimize=True)
        hessian = squares - (weights[:, None] * mean).T @ mean + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (better := penalised(inputs, targets, weights, penalty, found - size * step)) > value and size > 1e-6:
            size /= 2
        found, value = found - size * step, better
        if np.abs(size * step).max() < CONVERGED:
            break
    return found[:count], found[count:] - found[count:].mean()


def penalised(
    inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray, penalty: np.ndarray, factors: np.ndarray
) -> float:
    """Minus the log likelihood of the targets, and what the prior takes."""
    odds = inputs @ factors
    top = odds.max(axis=1, keepdims=True)
    likelihood = odds[np.arange(len(targets)), targets] - top[:, 0] - np.log(np.exp(odds - top).sum(axis=1))
    return float(0.5 * (penalty * factors**2).sum() - weights @ likelihood)


def fit_table(
    table: PhraseTable, evidence: Evidence, truth: Mapping[str, np.ndarray], people: np.ndarray
) -> dict[str, CategoryCalibration]:
    """The calibrations of all categories of which enough is known; evidence [G, P] of `captions_of`."""
    fitted = {
        name: fit_category(table[name], evidence.select_captions(columns), truth[name], people)
        for name, columns in columns_of(table).items()
    }
    return {name: one for name, one in fitted.items() if one is not None}
