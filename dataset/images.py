"""Images from files, as the encoders want them.

Letters: H and W image height and width.
"""

import os
import warnings
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset.decoding import Unusable, decode, read_content
from dataset.digests import CHANGED, blake2_of
from utils.errors import UserError

Resampling = Literal["bicubic", "bilinear"]


def load_image(
    path: str | os.PathLike, size: tuple[int, int], digest: str | None = None, resampling: Resampling = "bicubic"
) -> Tensor:
    """Decode an image file and resize it to (height, width): uint8 RGB [3, H, W].

    digest: that of the file as it was prepared (`dataset.digests`); None = not known.

    Raises UserError naming the file when it is missing, no usable image (`dataset.decoding`), or changed.
    """
    try:
        content = read_content(path)
        image = image_from(content, size, resampling)
    except Unusable as fault:
        raise UserError(f"image {path} {fault}; replace it or remove its annotation") from None
    if digest is not None and blake2_of(content) != digest:
        raise UserError(f"image {path} {CHANGED}; restore it or prepare the data set again")
    return image


def image_from(content: bytes, size: tuple[int, int], resampling: Resampling = "bicubic") -> Tensor:
    """The content of an image file, decoded and resized as by `load_image`. Raises Unusable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; what matters is checked
        resized = decode(content).resize((size[1], size[0]), Image.Resampling[resampling.upper()])
    return torch.from_numpy(np.stack([np.asarray(band) for band in resized.split()]))  # pixel by pixel is slower
