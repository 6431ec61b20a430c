"""AVIF and HEIF (HEIC), which phones write, under the same rules as all other formats."""

import io

import numpy as np
import pytest
from PIL import Image, features

from dataset import decoding
from dataset.decoding import Unusable, decode, image_fault, known_formats, usual_ending

KINDS = [
    pytest.param(
        kind, marks=pytest.mark.skipif(kind not in known_formats(), reason=f"{kind} cannot be read here"), id=kind
    )
    for kind in ("AVIF", "HEIF")
]
COLOURS = np.kron(np.random.default_rng(0).integers(0, 255, (4, 2, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))


def written(kind, **options):
    content = io.BytesIO()
    Image.fromarray(COLOURS).save(content, kind, quality=95, **options)
    return content.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_it_shows_what_was_written_and_every_cut_is_noticed(kind):
    content = written(kind)
    assert image_fault(content) is None
    assert np.abs(np.asarray(decode(content)).astype(int) - COLOURS).mean() < 12
    for length in range(len(content)):
        assert image_fault(content[:length]) is not None, length


@pytest.mark.parametrize("kind", KINDS)
def test_several_pictures_and_curves_of_hdr_are_refused(kind):
    several = written(kind, save_all=True, append_images=[Image.fromarray(255 - COLOURS)])
    assert "holds 2 pictures" in image_fault(several)
    content = written(kind)
    box = content.index(b"colrnclx")
    for curve, fault in ((16, "HDR"), (18, "HDR"), (13, "")):
        patched = content[: box + 10] + curve.to_bytes(2, "big") + content[box + 12 :]
        assert (fault in (image_fault(patched) or "")) if fault else image_fault(patched) is None


@pytest.mark.parametrize("kind", KINDS[:1])  # in a HEIF, EXIF says nothing of how it is shown
def test_it_is_turned_as_its_file_says(kind):
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = 6
    assert decode(written(kind, exif=exif)).size == (COLOURS.shape[0], COLOURS.shape[1])


def test_what_is_not_installed_is_not_read(monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    known_formats.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(decoding.importlib, "import_module", absent)
        assert known_formats() == ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
        assert ".avif" not in decoding.known_endings() and ".heic" not in decoding.known_endings()
        with pytest.raises(Unusable, match=r"no image of a known format \(JPEG, PNG, WEBP, GIF, BMP, TIFF\)"):
            decode(b"\0\0\0\x1cftypavif" + bytes(60))
    monkeypatch.undo()
    known_formats.cache_clear()


def absent(name):
    raise ModuleNotFoundError(f"no {name}")


def test_every_format_has_a_usual_ending():
    assert [usual_ending(name) for name in ("JPEG", "MPO", "TIFF", "HEIF")] == [".jpg", ".jpg", ".tif", ".heic"]
