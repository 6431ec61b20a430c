"""What the camera does to the drawn scene: light, colour cast, blur, resolution and noise."""

import io
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter


@dataclass(frozen=True)
class Camera:
    """One recording. gains: red, green, blue; blur in pixels of a 192-pixel-tall image."""

    gains: tuple[float, float, float]
    contrast: float
    side_shadow: float
    blur: float
    resolution: float
    noise: float
    quality: int


def sample_camera(rng: random.Random, nuisance: float) -> Camera:
    """Recording conditions; `nuisance` (0 none, 1 normal) scales how far they leave the ideal."""
    bright = 1 + nuisance * rng.uniform(-0.16, 0.12)
    red, green, blue = (bright * (1 + nuisance * rng.uniform(-0.05, 0.05)) for _ in range(3))
    return Camera(
        gains=(red, green, blue),
        contrast=1 + nuisance * rng.uniform(-0.14, 0.1),
        side_shadow=nuisance * rng.uniform(0, 0.22) * rng.choice((-1, 0, 1)),
        blur=nuisance * rng.choice((0.0, 0.35, 0.7)),
        resolution=1 - nuisance * rng.choice((0.0, 0.0, 0.2, 0.35)),
        noise=nuisance * rng.uniform(0, 7),
        quality=round(96 - 22 * nuisance * rng.random()),
    )


@lru_cache(maxsize=1)
def noise_pool() -> np.ndarray:
    """Unit noise [1024, 1024, 3] float32, drawn once per process from a fixed seed."""
    return np.random.default_rng(11).normal(0, 1, (1024, 1024, 3)).astype(np.float32)


def expose(image: Image.Image, camera: Camera, rng: random.Random) -> Image.Image:
    """The recorded image, the size of `image`; geometry is untouched, so masks stay aligned."""
    width, height = image.size
    if camera.resolution < 0.99:
        small = (max(8, round(width * camera.resolution)), max(16, round(height * camera.resolution)))
        image = image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BILINEAR)
    if camera.blur:
        image = image.filter(ImageFilter.GaussianBlur(camera.blur * height / 192))
    pixels = np.asarray(image, np.float32)
    gains = np.array(camera.gains, np.float32) * camera.contrast
    pixels = pixels * gains + np.float32(118 * (1 - camera.contrast))
    if camera.side_shadow:
        ramp = np.linspace(0, 1, width, dtype=np.float32)
        ramp = ramp if camera.side_shadow > 0 else ramp[::-1]
        pixels *= (1 - abs(camera.side_shadow) * ramp)[None, :, None]
    if camera.noise:
        pixels += camera.noise * noise_patch(rng, height, width)
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8), "RGB")


def noise_patch(rng: random.Random, height: int, width: int) -> np.ndarray:
    """Unit noise [height, width, 3] from a random place of the pool, wrapped around."""
    rows = (np.arange(height) + rng.randrange(1024)) % 1024
    columns = (np.arange(width) + rng.randrange(1024)) % 1024
    return noise_pool()[rows[:, None], columns]


def encode(image: Image.Image, image_format: str, quality: int) -> bytes:
    """The file contents: JPEG at `quality` without colour subsampling, or PNG."""
    buffer = io.BytesIO()
    if image_format == "jpg":
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def encode_mask(label: np.ndarray) -> bytes:
    """A single-channel PNG of a label map [H, W] uint8."""
    buffer = io.BytesIO()
    Image.fromarray(label, "L").save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()
