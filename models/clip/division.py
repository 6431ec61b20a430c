"""Which training pairs are clean, by their losses (RDE section 3.3, confident consensus division).

N training pairs. The losses of most clean pairs are low and those of most noisy ones high: a mixture of two Gaussians
tells them apart, for each of the two embeddings. Pairs on which the two disagree are clean or noisy by a coin.
"""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError
from utils.text import counted

COIN_STREAM = 3  # no other draw from (seed, epoch, ...) has this number


@dataclass(frozen=True)
class MixtureSettings:
    """How a mixture is fitted: at most `rounds` of expectation maximisation, until they change the mean log-likelihood
    by less than `tolerance`; `regularisation` is added to variances. seed: of the 2-means that it starts from.
    """

    rounds: int
    tolerance: float
    regularisation: float
    seed: int = 0


LOOSE = MixtureSettings(rounds=10, tolerance=1e-2, regularisation=5e-4)
TIGHT = MixtureSettings(rounds=100, tolerance=1e-4, regularisation=1e-6)
MixtureName = Literal["loose", "tight"]
MIXTURES: dict[MixtureName, MixtureSettings] = {"loose": LOOSE, "tight": TIGHT}
"""Published: `usual_mixture`, and tight for RSTPReid."""
NOISY = 0.4  # shares of noisy pairs above it have the tight mixture


@dataclass(frozen=True)
class Division:
    """The division of all pairs for an epoch, each part [N].

    bge, tse: the probability float64 that a pair is clean, by the losses of either embedding.
    consensus: how many of the two say that it is clean, int64 0, 1 or 2. label: True = trained on as clean.
    """

    bge: Tensor
    tse: Tensor
    consensus: Tensor
    label: Tensor


def usual_mixture(noisy: float) -> MixtureName:
    """The mixture that is published where this share of all pairs is noisy."""
    return "tight" if noisy > NOISY else "loose"


def divide(bge: Tensor, tse: Tensor, coins: Tensor, settings: MixtureSettings) -> Division:
    """Divide all pairs by their losses [N] of either embedding; coins [N] bool decide where these disagree.

    Raises UserError when a loss is not a finite number.
    """
    by_bge, by_tse = clean_probability(bge, settings), clean_probability(tse, settings)
    consensus = is_clean(by_bge).long() + is_clean(by_tse).long()
    label = torch.where(consensus == 1, coins, consensus == 2)
    return Division(by_bge, by_tse, consensus, label)


def clean_probability(losses: Tensor, settings: MixtureSettings) -> Tensor:
    """The probability [N] float64 that a pair belongs to the component of lower losses [N]; 1 where all are equal."""
    values = losses.detach().double().cpu()
    if wrong := int((~values.isfinite()).sum()):
        raise UserError(
            f"{counted(wrong, 'pair')} of {len(values)} cannot be divided, as their loss is not a number: the training"
            " has diverged; take a lower learning rate"
        )
    if not len(values) or values.min() == values.max():
        return torch.ones_like(values)
    scaled = (values - values.min()) / (values.max() - values.min())
    return torch.from_numpy(_of_lower_component(scaled.numpy()[:, None], settings))


def _of_lower_component(scaled: np.ndarray, settings: MixtureSettings) -> np.ndarray:
    """The probabilities [N] of the component with the lower mean, for losses [N, 1] between 0 and 1."""
    # takes a second to import, and only this training needs it
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(
        2,
        max_iter=settings.rounds,
        tol=settings.tolerance,
        reg_covar=settings.regularisation,
        random_state=settings.seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the published rounds are few on purpose
        mixture.fit(scaled)
    return mixture.predict_proba(scaled)[:, mixture.means_[:, 0].argmin()]


def is_clean(probability: Tensor) -> Tensor:
    """Which pairs are clean, True, by their probability [N]: above a half.

    Where all are, the least probable 1 % count as noisy (and the pair after them, as published), unless that would
    leave none clean.
    """
    clean = probability > 0.5
    if not len(probability) or not clean.all():
        return clean
    limit = probability.sort().values[len(probability) // 100]
    above = probability > limit
    return above if above.any() else clean


def draw_coins(seed: int, epoch: int, pairs: int) -> Tensor:
    """A fair coin [N] bool for every pair, by (seed, epoch) and its index: the same in every process."""
    return torch.from_numpy(np.random.default_rng((seed, epoch, 0, COIN_STREAM)).random(pairs) < 0.5)
