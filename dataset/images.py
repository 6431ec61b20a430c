"""Images from files, as the encoders want them.

Letters: H and W image height and width.
"""

import os
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from utils.errors import UserError


def as_rgb(image: Image.Image) -> Image.Image:
    """RGB of any picture, upright: turned as its EXIF says, 16-bit grey scaled, transparency over white."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def load_image(path: str | os.PathLike, size: tuple[int, int]) -> Tensor:
    """Decode an image file and resize it (bicubic) to (height, width): uint8 RGB [3, H, W].

    Raises UserError naming the file when it is missing or no readable image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on large pictures and odd metadata
            with Image.open(path) as image:
                resized = as_rgb(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    except FileNotFoundError:
        raise UserError(f"image {path} does not exist") from None
    except UnidentifiedImageError:
        raise UserError(f"image {path} is no image; replace it or remove its annotation") from None
    except Exception as error:  # broken files make decoders raise nearly any type
        reason = " ".join(str(error).split())
        raise UserError(f"image {path} cannot be read: {reason}; replace it or remove its annotation") from None
    return torch.from_numpy(np.stack([np.asarray(band) for band in resized.split()]))  # pixel by pixel is slower
