"""What training does to an image before a model sees it; each image is augmented twice.

A further augmentation is a function here that `random_flip` makes way for in `TrainSet`. It draws from the `rng` it is
given, which depends on (seed, epoch, sample) alone, so that a resumed run sees the same images.

Letters: H and W image height and width.
"""

import random
from collections.abc import Callable

from torch import Tensor

Augment = Callable[[Tensor, random.Random], Tensor]
"""Image uint8 [3, H, W] -> image of that size and type. Can be pickled, as loader processes are spawned with it."""


def random_flip(image: Tensor, rng: random.Random) -> Tensor:
    """The mirror image half of the time: the augmentation of the published models."""
    return image.flip(-1) if rng.random() < 0.5 else image
