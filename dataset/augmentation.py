"""What training does to an image before a model sees it; each image is augmented twice.

The published models see an image or its mirror image, which `TrainSet` draws itself: a loader then hands over one image
alone. Another augmentation is a function that it is given in place of that. It draws from the `rng` it is given, which
depends on (seed, epoch, sample) alone, so that a resumed run sees the same images.

Letters: H and W image height and width.
"""

import random
from collections.abc import Callable

from torch import Tensor

Augment = Callable[[Tensor, random.Random], Tensor]
"""Image uint8 [3, H, W] -> image of that size and type. Can be pickled, as loader processes are spawned with it."""


def draw_mirrored(rng: random.Random) -> bool:
    """Whether a view is the mirror image: half of the time."""
    return rng.random() < 0.5
