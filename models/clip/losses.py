"""The mathematics of IRRA's and RDE's losses, as pure functions of tensors.

Letters: B samples of this process, M samples of all processes, C identities, V vocabulary, K masked words.

A function of one direction takes a matrix [B, M] whose rows are this process' captions (or images) and whose columns
are the images (or captions) of all processes, and returns a value for each row. With two directions, the rows of the
first matrix are images in IRRA's losses and captions in RDE's; the second is that of the other direction, which is the
transpose of the first where there is one process. `same` [B, M] tells which rows and columns share an identity (True),
`own` [B] in which column each row's own partner is.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, relu, softmax

from models.losses import FAR_BELOW, Mean

NOT_MASKED = 0  # label of a word that was not masked: padding, which never is
TINY = 1e-8  # added to a share of 0 before its logarithm is taken


# ---- directions ------------------------------------------------------------------------


def divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """KL divergence of the softmax of each row of logits from targets [B, M], not turned around: [B]."""
    predicted = log_softmax(logits, dim=1)
    return (predicted.exp() * (predicted - (targets + TINY).log())).sum(1)


def identity_shares(same: Tensor) -> Tensor:
    """1 / (number of equal identities) where equal: [B, M]. Rows sum to 1."""
    return same / same.sum(1, keepdim=True)


def identity_directions(same: Tensor) -> Tensor:
    """Rows of length 1, equal where identities are: [B, M]."""
    return same / same.sum(1, keepdim=True).sqrt()


# ---- IRRA ------------------------------------------------------------------------------


def similarity_distribution(of_images: Tensor, of_texts: Tensor, same: Tensor) -> Tensor:
    """SDM (IRRA section 3.3): the similarities of a batch follow its identities. Logits of both directions [B, M]."""
    targets = identity_shares(same)
    return (divergence(of_images, targets) + divergence(of_texts, targets)).mean()


def contrastive(of_images: Tensor, of_texts: Tensor, own: Tensor) -> Tensor:
    """ITC, as CLIP is trained: each row finds its own partner. Logits of both directions [B, M]."""
    return (cross_entropy(of_images, own) + cross_entropy(of_texts, own)) / 2


def projection_matching(of_images: Tensor, of_texts: Tensor, same: Tensor) -> Tensor:
    """CMPM: SDM on projections [B, M], of features (rows) on normalised ones (columns), without a temperature."""
    targets = identity_directions(same)
    return (divergence(of_images, targets) + divergence(of_texts, targets)).mean()


def identity(image_logits: Tensor, text_logits: Tensor, labels: Tensor) -> Tensor:
    """Both modalities are classified by one classifier: logits [B, C], labels [B]."""
    return (cross_entropy(image_logits, labels) + cross_entropy(text_logits, labels)) / 2


def masked_words(logits: Tensor, labels: Tensor) -> Mean:
    """MLM: logits [K, V] and labels [K] of the words that were masked; NOT_MASKED takes no part."""
    values = cross_entropy(logits, labels, ignore_index=NOT_MASKED, reduction="sum")
    return Mean(values, (labels != NOT_MASKED).sum())


# ---- RDE: a value for each pair --------------------------------------------------------


class Pairs(NamedTuple):
    """Which rows and columns share an identity [B, M] (True), and the column of each row's own partner [B]."""

    same: Tensor
    own: Tensor


class PairLossSettings(NamedTuple):
    """tau: of TAL's and TRL's soft maxima; margin: of both; temperature: of SDM and InfoNCE."""

    tau: float = 0.015
    margin: float = 0.1
    temperature: float = 0.02


def positive_similarity(similarity: Tensor, same: Tensor, tau: float) -> Tensor:
    """Mean similarity to those of the same identity, the more similar ones counting more, without gradient: [B]."""
    shares = softmax((similarity.detach() / tau).masked_fill(~same, -torch.inf), dim=1)
    return (shares * similarity).sum(1)


def triplet_alignment(similarity: Tensor, pairs: Pairs, settings: PairLossSettings) -> Tensor:
    """TAL (RDE section 3.3): a triplet loss whose negative is a soft maximum over all; 0 without any: [B, M] -> [B].

    Rows without a negative have a finite stand-in, so that their gradient is 0 and not NaN.
    """
    tau, different = settings.tau, ~pairs.same
    negative = tau * (similarity / tau).masked_fill(pairs.same, FAR_BELOW).logsumexp(1)
    loss = relu(settings.margin - positive_similarity(similarity, pairs.same, tau) + negative)
    return loss.where(different.any(1), 0)


def triplet_ranking(similarity: Tensor, pairs: Pairs, settings: PairLossSettings) -> Tensor:
    """TRL: the same with the hardest negative, or a similarity of 0 where all are lower: [B, M] -> [B]."""
    hardest = similarity.masked_fill(pairs.same, 0).max(1).values
    return relu(settings.margin - positive_similarity(similarity, pairs.same, settings.tau) + hardest)


def pair_distribution(similarity: Tensor, pairs: Pairs, settings: PairLossSettings) -> Tensor:
    """SDM of each row: [B, M] -> [B]."""
    return divergence(similarity / settings.temperature, identity_shares(pairs.same))


def pair_contrast(similarity: Tensor, pairs: Pairs, settings: PairLossSettings) -> Tensor:
    """InfoNCE of each row, half of it as there are two directions: [B, M] -> [B]."""
    return cross_entropy(similarity / settings.temperature, pairs.own, reduction="none") / 2


class PairLoss(NamedTuple):
    """A loss of one direction, and whether that of a batch is the mean over its clean pairs, or their sum."""

    of_rows: Callable[[Tensor, Pairs, PairLossSettings], Tensor]
    is_mean: bool


PairLossName = Literal["TAL", "TRL", "InfoNCE", "SDM"]
PAIR_LOSSES: dict[PairLossName, PairLoss] = {
    "TAL": PairLoss(triplet_alignment, is_mean=False),
    "TRL": PairLoss(triplet_ranking, is_mean=False),
    "InfoNCE": PairLoss(pair_contrast, is_mean=True),
    "SDM": PairLoss(pair_distribution, is_mean=True),
}


def loss_of_pairs(
    name: PairLossName, of_texts: Tensor, of_images: Tensor, pairs: Pairs, settings: PairLossSettings
) -> Tensor:
    """The loss of each pair, both directions together: similarities [B, M] -> [B]."""
    of_rows = PAIR_LOSSES[name].of_rows
    return of_rows(of_texts, pairs, settings) + of_rows(of_images, pairs, settings)


def over_clean_pairs(name: PairLossName, values: Tensor, clean: Tensor, parts: int = 1) -> Mean:
    """The loss of a batch from that of its pairs [B], of which `clean` [B] says whether they count (1) or not (0).

    A sum over a batch that is spread over processes and micro-batches is `parts` times the mean of their sums, as
    gradients are averaged over both.
    """
    total = (values * clean).sum()
    return Mean(total, clean.sum()) if PAIR_LOSSES[name].is_mean else Mean(total * parts, torch.ones_like(total))
