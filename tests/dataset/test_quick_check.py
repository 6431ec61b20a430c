"""The quick check of image files finds what decoding finds."""

import io

import pytest
from PIL import Image
from test_prepare import picture

from dataset.decoding import image_fault


def decodes(content):
    try:
        Image.open(io.BytesIO(content)).load()
    except Exception:
        return False
    return True


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
def test_quick_check_finds_every_truncation_that_decoding_finds(kind):
    """The quick check against its plain twin, decoding, for cuts everywhere in the file."""
    content = picture(3, kind, (24, 48))
    assert image_fault(content) is None
    for length in [*range(0, len(content) - 16, 7), *range(len(content) - 16, len(content))]:
        cut = content[:length]
        assert image_fault(cut) is not None or decodes(cut), length
        assert (image_fault(cut) is None) == (image_fault(cut, full=True) is None), length


def test_thumbnail_does_not_hide_a_truncated_jpeg():
    # the header carries a whole JPEG, end marker included, after its first segment of 18 bytes
    thumbnail = b"Exif\0\0" + picture(1)
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    content = picture(2)
    content = content[:20] + segment + content[20:]
    assert image_fault(content) is None
    assert image_fault(content[:-30]) is not None
