"""Pictures of every kind become the RGB that a person would see."""

import numpy as np
import pytest
from PIL import Image

from dataset.images import load_image

SIZE = (8, 4)  # height and width


def loaded(path) -> np.ndarray:
    """[H, W, 3] of a file."""
    return load_image(path, SIZE).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_a_red_or_white_picture_of_any_mode_is_red_or_white(tmp_path, mode):
    colour = (255, 255, 255) if mode in ("1", "L") else (255, 0, 0)
    Image.new("RGB", SIZE[::-1], colour).convert(mode).save(tmp_path / "a.tif")
    assert np.abs(loaded(tmp_path / "a.tif").astype(int) - colour).max() < 8


def test_grey_of_16_bits_is_scaled(tmp_path):
    ramp = np.linspace(0, 65535, 32).astype(np.uint16).reshape(8, 4)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert loaded(tmp_path / "a.png")[..., 0].tolist() == (ramp // 256).tolist()


def test_transparent_pixels_are_white_and_half_ones_are_mixed(tmp_path):
    picture = np.zeros((8, 4, 4), np.uint8)
    picture[4:, :, 3] = 128
    Image.fromarray(picture).save(tmp_path / "a.png")
    found = loaded(tmp_path / "a.png")
    assert (found[:3] == 255).all()
    assert np.abs(found[5:].astype(int) - 127).max() <= 1


def test_a_picture_turned_by_its_exif_stands_upright(tmp_path):
    upright = Image.new("RGB", (40, 80))
    upright.paste((255, 255, 255), (0, 0, 40, 40))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying: to be turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = loaded(tmp_path / "a.jpg")
    assert (found[:3] > 240).all()
    assert (found[5:] < 15).all()


def test_a_large_picture_brings_no_remark(tmp_path, recwarn):
    Image.new("1", (11_000, 11_000)).save(tmp_path / "a.png")
    assert loaded(tmp_path / "a.png").shape == (8, 4, 3)
    assert not recwarn.list


def test_planes_are_pillows_own_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 23, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        plain = np.asarray(image.resize((50, 40), Image.Resampling.BICUBIC))
    found = load_image(tmp_path / "a.jpg", (40, 50))
    assert found.is_contiguous()  # batches are stacked several times faster than from pixel order
    assert (found.permute(1, 2, 0).numpy() == plain).all()
