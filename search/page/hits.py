"""Hits as the page shows them: small pictures, what is written below them, and what is around an image."""

from collections.abc import Sequence
from contextlib import suppress

from PIL import Image

from dataset.decoding import Unusable, decode
from evaluation.drawing.pictures import placeholder
from search.frames import frame_around
from search.read_gallery import ReadGallery
from search.searcher import Hit

PICTURE = (192, 384)  # width and height that images are shown in, in pixels
FRAME = (640, 480)


def picture_of(gallery: ReadGallery, path: str) -> Image.Image:
    """An image small enough for the page, or a grey field in place of it."""
    try:
        picture = decode(gallery.content_of(path))
    except Unusable:
        return placeholder(path, PICTURE)
    picture.thumbnail(PICTURE)
    return picture


def surroundings(gallery: ReadGallery, path: str, moments: Sequence[str]) -> list[tuple[Image.Image, str]]:
    """The frame that an image was cut out of, if it was, and the others of its group."""
    pictures = []
    with suppress(Unusable):  # the hit itself was there a moment ago
        if (frame := frame_around(gallery, path)) is not None:
            frame.thumbnail(FRAME)
            pictures.append((frame, "the frame"))
    return [*pictures, *((picture_of(gallery, moment), "another moment") for moment in moments)]


def label_of(hit: Hit) -> str:
    """Short, or the page cuts it."""
    more = f", +{len(hit.moments)}" if hit.moments else ""
    if hit.probability is not None:
        return f"{hit.probability:.0%} likely, cos. {hit.similarity:.2f}{more}"
    if hit.match is None:
        return f"cosine {hit.similarity:.2f}{more}"
    return f"match {hit.match:.0%}, cos. {hit.similarity:.2f}{more}"
