"""Images from files, as the encoders want them.

Letters: H and W image height and width.
"""

import os

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from utils.errors import UserError


def load_image(path: str | os.PathLike, size: tuple[int, int]) -> Tensor:
    """Decode an image file and resize it (bicubic) to (height, width): uint8 RGB [3, H, W].

    Raises UserError naming the file when it is missing or no readable image.
    """
    try:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC)
    except FileNotFoundError:
        raise UserError(f"image {path} does not exist") from None
    except UnidentifiedImageError:
        raise UserError(f"image {path} is no image; replace it or remove its annotation") from None
    except Exception as error:  # broken files make decoders raise nearly any type
        reason = " ".join(str(error).split())
        raise UserError(f"image {path} cannot be read: {reason}; replace it or remove its annotation") from None
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1)
