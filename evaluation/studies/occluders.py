"""Removes a part of an image, exactly as large as asked for, as something that hides a person would.

Letters: H and W image height and width.

The removed part takes the mean colour of the normalisation, which a model sees as zeros. What is removed depends on
seed, image and kind alone, and grows: a pixel that is gone at one fraction is gone at every larger one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def patches_order(height: int, width: int, patch: int, rng: np.random.Generator) -> np.ndarray:
    """Patch after patch in a random order, each row by row: indices of all pixels [H * W]."""
    rows, columns = -(-height // patch), -(-width // patch)
    turn = rng.permutation(rows * columns).reshape(rows, columns)
    turns = turn.repeat(patch, axis=0).repeat(patch, axis=1)[:height, :width]
    return turns.ravel().argsort(kind="stable")


def lower_order(height: int, width: int, patch: int, rng: np.random.Generator) -> np.ndarray:
    """Row after row from the bottom up, each from the left: indices of all pixels [H * W]."""
    return np.arange(height * width).reshape(height, width)[::-1].ravel()


def bar_order(height: int, width: int, patch: int, rng: np.random.Generator) -> np.ndarray:
    """Column after column away from a random one, each from the top: indices of all pixels [H * W]."""
    distance = np.abs(np.arange(width) - rng.uniform(-0.5, width - 0.5))
    columns = distance.argsort(kind="stable")
    return np.arange(height * width).reshape(height, width)[:, columns].T.ravel()


KINDS: dict[str, Callable[[int, int, int, np.random.Generator], np.ndarray]] = {
    "patches": patches_order,
    "lower": lower_order,
    "bar": bar_order,
}


@dataclass(frozen=True)
class Occluder:
    """A view of images (`EvaluationSplit.view`) without round(fraction * H * W) of their pixels.

    kind: one of `KINDS`; patch: side of a patch in pixels; mean: what takes the place of a pixel, of 0 to 1.
    """

    kind: str
    fraction: float
    patch: int
    mean: tuple[float, float, float]
    seed: int = 0

    def removed(self, height: int, width: int, index: int) -> np.ndarray:
        """Indices of the removed pixels of the image at this index of the gallery, those removed first in front."""
        rng = np.random.default_rng([self.seed, index, list(KINDS).index(self.kind)])
        return KINDS[self.kind](height, width, self.patch, rng)[: round(self.fraction * height * width)]

    def __call__(self, image: Tensor, index: int) -> Tensor:
        """uint8 [3, H, W] -> a copy without the part."""
        mean = torch.tensor([round(255 * value) for value in self.mean], dtype=image.dtype)
        where = torch.from_numpy(self.removed(image.shape[1], image.shape[2], index).copy())
        occluded = image.clone()
        occluded.flatten(1)[:, where] = mean[:, None]
        return occluded
