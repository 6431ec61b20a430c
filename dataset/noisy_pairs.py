"""Noisy correspondence: training pairs whose captions were exchanged, by a file of the published runs or drawn anew.

N training pairs, in the order of the annotations: all captions of the first image, all of the second, and so on. A
permutation p [N] int64 gives pair i, whose image and identity stay, the caption of pair p[i].
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataset.annotations import Entry
from utils.errors import UserError
from utils.files import atomic_write, similar_file
from utils.text import counted

RECORD = "noisy_pairs.npy"  # of what a run has drawn, in its folder
DRAW_STREAM = 4  # no other draw from (seed, epoch, ...) has this number: the order of an epoch tells nothing of noise

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NoisyPairs:
    """Pairs of which some have the caption of another one.

    permutation [N]: of all. trained [N] bool: those whose images are trained on. drawn: by chance, and not from a file.
    """

    permutation: np.ndarray
    trained: np.ndarray
    drawn: bool

    @property
    def truly_clean(self) -> np.ndarray:
        """Which of the pairs that are trained on have their own caption, True."""
        return truly_clean(self.permutation)[self.trained]

    def keep(self, folder: Path, resumed: bool) -> None:
        """Leave what was drawn in the folder of a run, or find it there when the run is resumed.

        Raises UserError when a run that is resumed has drawn something else.
        """
        path = folder / RECORD
        if not self.drawn:
            return
        if not resumed:
            path.unlink(missing_ok=True)  # of a run that has ended before its first checkpoint
        if not os.path.lexists(path):
            write_permutation(path, self.permutation)
        elif not np.array_equal(read_permutation(path, len(self.permutation)), self.permutation):
            raise UserError(
                f"noise file {path} is of another noisy_rate or seed: resume its run with the settings of that, or name"
                " another output folder"
            )


def open_permutation(pairs: int, path: str | os.PathLike | None, rate: float, seed: int) -> np.ndarray | None:
    """The permutation [N] of a file, or one drawn at this rate; None = no noise.

    Raises UserError when the file does not fit.
    """
    if not path and not rate:
        return None
    permutation = read_permutation(path, pairs) if path else draw_permutation(pairs, rate, seed)
    noisy = int((~truly_clean(permutation)).sum())
    logger.info("noisy pairs: %d of %d have the caption of another one", noisy, pairs)
    return permutation


def read_permutation(path: str | os.PathLike, pairs: int) -> np.ndarray:
    """The permutation [N] in a .npy file, N = `pairs`. Raises UserError when the file holds anything else."""
    found = _read_array(path)
    if problem := _fault(found, pairs):
        raise UserError(f"noise file {path} {problem}")
    return found


def _read_array(path: str | os.PathLike) -> Any:
    """What numpy finds in a file that may lie where nothing can be written. Raises UserError when it finds nothing."""
    try:
        with open(path, "rb") as file:
            return np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"noise file {path} does not exist{similar_file(Path(path))}") from None
    except Exception as error:  # damaged and foreign files make numpy and zipfile raise nearly any type
        reason = getattr(error, "strerror", None)
        found = f"cannot be read: {reason}" if reason else "is not a readable .npy file of numbers"
        raise UserError(f"noise file {path} {found}; name another") from None


def _fault(found: object, pairs: int) -> str:
    """What is wrong with what a file holds; empty when nothing is."""
    if not isinstance(found, np.ndarray) or found.dtype != np.int64 or found.ndim != 1:
        what = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else "several arrays"
        return f"holds {what}, not a row of int64"
    if len(found) != pairs:
        return (
            f"is for {counted(len(found), 'pair')}, but the training set has {pairs}: take the file of this data set,"
            " and annotations from which no pair was left out"
        )
    if not np.array_equal(np.sort(found), np.arange(pairs)):
        return f"is not a permutation: it does not have each number from 0 to {pairs - 1} once"
    return ""


def draw_permutation(pairs: int, rate: float, seed: int) -> np.ndarray:
    """Choose int(rate * N) pairs and shuffle their captions among them; some may get their own back (RDE section 4.1).

    Raises UserError when the rate is not between 0 and 1.
    """
    if not 0 <= rate <= 1:
        raise UserError(f"a noise rate of {rate} is not between 0 and 1")
    rng = np.random.default_rng((seed, 0, 0, DRAW_STREAM))
    chosen = rng.permutation(pairs)[: int(rate * pairs)]
    permutation = np.arange(pairs, dtype=np.int64)
    permutation[chosen] = rng.permutation(chosen)
    return permutation


def write_permutation(path: str | os.PathLike, permutation: np.ndarray) -> None:
    """Write a noise file that `read_permutation` reads. Raises UserError where there is a file, or on failure."""
    path = Path(path)
    if path.suffix != ".npy":
        raise UserError(f"noise file {path}: its name must end with .npy")
    if os.path.lexists(path):
        raise UserError(f"noise file {path} exists and is not overwritten: name another, or read this one")
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, permutation.astype(np.int64), allow_pickle=False)


def exchange_captions(entries: Sequence[Entry], permutation: np.ndarray) -> list[Entry]:
    """The same images and identities, each with the captions that the permutation [N] gives to its pairs.

    Raises ValueError when there are not N pairs.
    """
    captions = [caption for entry in entries for caption in entry.captions]
    if len(captions) != len(permutation):
        raise ValueError(f"a permutation of {len(permutation)} pairs for {len(captions)}")
    given = iter(permutation.tolist())
    return [replace(entry, captions=tuple(captions[next(given)] for _ in entry.captions)) for entry in entries]


def truly_clean(permutation: np.ndarray) -> np.ndarray:
    """Which pairs [N] have their own caption, True; for logs, not for training."""
    return permutation == np.arange(len(permutation))
