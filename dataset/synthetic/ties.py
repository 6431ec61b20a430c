"""Expected metrics of rankings in which images of equal score come in random order: exact, in closed form.

After McSherry and Najork, Computing information retrieval performance measures efficiently in the presence of tied
scores, 2008. C captions, G images, P right images of the caption that has most. Rows are captions.
"""

import numpy as np

CUTOFFS = (1, 5, 10)


def expected_metrics(scores: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    """Expected R@k, average precision and inverse negative penalty by name [C], 0 to 1.

    scores [C, G], higher is better; right [C, G] True = shows the caption's identity. A caption without a right image
    counts 0.
    """
    total = right.sum(1)
    index = np.argsort(~right, axis=1, kind="stable")[:, : max(1, int(total.max(initial=0)))]  # [C, P]
    valid, own = np.take_along_axis(right, index, 1), np.take_along_axis(scores, index, 1)
    above, tied, right_above, right_tied = (np.zeros(own.shape, np.int64) for _ in range(4))
    for column in range(own.shape[1]):
        score = own[:, column, None]
        above[:, column], tied[:, column] = (scores > score).sum(1), (scores == score).sum(1)
        right_above[:, column] = ((own > score) & valid).sum(1)
        right_tied[:, column] = ((own == score) & valid).sum(1)

    def at(column: np.ndarray) -> list[np.ndarray]:
        return [np.take_along_axis(counts, column[:, None], 1)[:, 0] for counts in (above, tied, right_tied)]

    best = at(np.where(valid, above, scores.shape[1]).argmin(1))
    worst = at(np.where(valid, above, -1).argmax(1))
    precision = np.where(valid, expected_precision(above, tied, right_above, right_tied), 0).sum(1)
    return {
        **{f"r{k}": np.where(total, expected_recall(k, *best), 0) for k in CUTOFFS},
        "mAP": precision / np.maximum(total, 1),
        "mINP": total * expected_inverse_rank_of_last(*worst),
    }


def expected_recall(k: int, above: np.ndarray, tied: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Probability that one of the first k images is right.

    above: wrong images that come first for sure; tied: images of the next score; right: right ones among these.
    """
    missed = np.ones(len(above))
    for drawn in range(k):
        taken = np.clip(drawn - above, 0, tied - 1)  # images of this score that were taken before
        miss = np.maximum(tied - right - taken, 0) / (tied - taken)
        missed *= np.where(drawn >= above, miss, 1.0)
    return 1 - missed


def expected_precision(above: np.ndarray, tied: np.ndarray, right_above: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Expected precision at the rank of an image among `tied` ones of its score, of which `right` are right.

    Rank j of the tied: (right_above + 1 + (j - 1)(right - 1) / (tied - 1)) / (above + j), averaged over j.
    """
    most = int((above + tied).max(initial=0))
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, most + 1))])
    inverse = harmonic[above + tied] - harmonic[above]  # sum over j of 1 / (above + j)
    others = (right - 1) / np.maximum(tied - 1, 1)
    return ((right_above + 1) * inverse + others * (tied - (above + 1) * inverse)) / tied


def expected_inverse_rank_of_last(above: np.ndarray, tied: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Expected inverse of the rank of the last of `right` images among `tied` ones of one score."""
    chance, found = right / tied, np.zeros(len(above))  # chance: that it comes at the last index of all
    for behind in range(int(tied.max(initial=0))):
        index = tied - behind
        found += np.where(index >= 1, chance / np.maximum(above + index, 1), 0)
        chance = np.where(index > 1, chance * np.maximum(index - right, 0) / np.maximum(index - 1, 1), 0)
    return found
