"""What training does to an image before a model sees it; each image is augmented twice.

The published models of MARS and RaSa see an image or its mirror image, which `TrainSet` draws itself: a loader then
hands over one image alone. Any other `Augmentation` makes both views. What it draws comes from the `rng` it is given,
which depends on (seed, epoch, sample) alone, so that a resumed run sees the same images.

Letters: H and W image height and width.
"""

import math
import random
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from dataset.batch import PIXEL_MEAN, PIXEL_STD
from utils.config import Fraction, Part, Section, Whole

Augment = Callable[[Tensor, random.Random], Tensor]
"""Image uint8 [3, H, W] -> image of that size and type. Can be pickled, as loader processes are spawned with it."""

Erased = Literal["image", "published", "mean"]
ERASED_AREA, ERASED_ASPECT = (0.02, 0.4), (0.3, 3.3)  # of the image; height over width
TRIES = 10  # to fit a rectangle into the image
GREY = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # how bright red, green and blue are


class Augmentation(Section):
    """A view of an image uint8 [3, H, W], of the same size.

    flip: probability of the mirror image; crop: black pixels added on all sides, of which a chance part is cut out;
    light: how much brightness, contrast and colour vary, each by a factor from 1 - light to 1 + light;
    erase: probability that a rectangle of 2 to 40 % of the image is erased (crop and erase: IRRA); erased: what it
    becomes, see `erased_colour`.
    """

    flip: Fraction = 0.5
    crop: Whole = 0
    light: Part = 0.0
    erase: Fraction = 0.0
    erased: Erased = "image"

    @property
    def only_flips(self) -> bool:
        """Whether it is that of the published MARS and RaSa."""
        return self == Augmentation(erased=self.erased)

    def __call__(self, image: Tensor, rng: random.Random) -> Tensor:
        if rng.random() < self.flip:
            image = image.flip(-1)
        if self.crop:
            image = crop(image, self.crop, rng)
        if self.light:
            image = vary_light(image, self.light, rng)
        return erase(image, rng, self.erased) if rng.random() < self.erase else image


def draw_mirrored(rng: random.Random) -> bool:
    """Whether a view is the mirror image: half of the time."""
    return rng.random() < 0.5


def crop(image: Tensor, margin: int, rng: random.Random) -> Tensor:
    """A chance part of the image [3, H, W] with a black margin, as large as the image."""
    height, width = image.shape[1:]
    top, left = rng.randint(0, 2 * margin), rng.randint(0, 2 * margin)
    return pad(image, (margin,) * 4)[:, top : top + height, left : left + width]


def vary_light(image: Tensor, by: float, rng: random.Random) -> Tensor:
    """The image [3, H, W] brighter or darker, with more or less contrast and colour."""
    brightness, contrast, colour = (1 + by * rng.uniform(-1, 1) for _ in range(3))
    values = image.float() * brightness
    grey = (values * GREY).sum(0, keepdim=True)
    values = grey + colour * (values - grey)
    mean = grey.mean()
    return (mean + contrast * (values - mean)).round().clamp(0, 255).to(torch.uint8)


def erase(image: Tensor, rng: random.Random, becomes: Erased = "image") -> Tensor:
    """The image [3, H, W] with a rectangle of one colour; as it is when none fits in a few tries."""
    height, width = image.shape[1:]
    for _ in range(TRIES):
        area = rng.uniform(*ERASED_AREA) * height * width
        aspect = math.exp(rng.uniform(*map(math.log, ERASED_ASPECT)))
        tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < tall < height and 0 < wide < width:
            top, left = rng.randint(0, height - tall), rng.randint(0, width - wide)
            erased = image.clone()
            erased[:, top : top + tall, left : left + wide] = erased_colour(image, becomes)
            return erased
    return image


def erased_colour(image: Tensor, becomes: Erased) -> Tensor:
    """What erased pixels become, uint8 [3, 1, 1].

    image: the mean colour of this image; mean: that of all images, 0 once it is normalised; published: what IRRA and
    RDE write, the three numbers of that mean into an image that is normalised already, which is a lighter grey.
    """
    if becomes == "image":
        return image.float().mean((1, 2), keepdim=True).to(torch.uint8)
    mean, std = (torch.tensor(part)[:, None, None] for part in (PIXEL_MEAN, PIXEL_STD))
    return (255 * (mean * std + mean if becomes == "published" else mean)).round().to(torch.uint8)
