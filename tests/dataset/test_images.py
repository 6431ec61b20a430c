"""Pictures of every kind become the RGB that a person would see."""

import numpy as np
import pytest
from PIL import Image

from dataset.digests import blake2_of
from dataset.images import load_image
from utils.errors import UserError

SIZE = (8, 4)  # height and width


def loaded(path) -> np.ndarray:
    """[H, W, 3] of a file."""
    return load_image(path, SIZE).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_a_red_or_white_picture_of_any_mode_is_red_or_white(tmp_path, mode):
    colour = (255, 255, 255) if mode in ("1", "L") else (255, 0, 0)
    # compressed: Pillow 12 calls a plain TIFF of YCbCr pixels, its own too, cut off
    Image.new("RGB", SIZE[::-1], colour).convert(mode).save(tmp_path / "a.tif", compression="tiff_lzw")
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


def test_odd_metadata_brings_no_remark(tmp_path, recwarn):
    nine_tags_follow = b"Exif\0\0MM\0*\0\0\0\x08\0\x09"
    Image.new("RGB", (9, 9)).save(tmp_path / "a.jpg", exif=nine_tags_follow)
    assert loaded(tmp_path / "a.jpg").shape == (8, 4, 3)
    assert not recwarn.list


def test_a_file_with_another_digest_has_changed(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    digest = blake2_of((tmp_path / "a.png").read_bytes())
    assert load_image(tmp_path / "a.png", SIZE, digest).max() == 0
    Image.new("RGB", (9, 9), (0, 0, 1)).save(tmp_path / "a.png")
    with pytest.raises(UserError) as caught:
        load_image(tmp_path / "a.png", SIZE, digest)
    advice = "restore it or prepare the data set again"
    assert str(caught.value) == f"image {tmp_path / 'a.png'} changed since it was prepared; {advice}"


def test_planes_are_pillows_own_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 23, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        plain = np.asarray(image.resize((50, 40), Image.Resampling.BICUBIC))
    found = load_image(tmp_path / "a.jpg", (40, 50))
    assert found.is_contiguous()  # batches are stacked several times faster than from pixel order
    assert (found.permute(1, 2, 0).numpy() == plain).all()


def test_a_name_that_the_system_cannot_use_is_told(tmp_path):
    with pytest.raises(UserError, match="utf-8 has no letters for; set PYTHONUTF8=1"):
        load_image(tmp_path / "\ud800.png", (4, 4))
