"""Hits as the page shows them: small pictures in a list, what is written below them, and what is around an image.

Pictures are part of the page's text (data URLs): no copy of them is written to a disk.
"""

import base64
import html
import io
from collections.abc import Sequence
from contextlib import suppress

from PIL import Image

from dataset.decoding import Unusable, decode
from evaluation.drawing.pictures import placeholder
from search.gallery.searchable_gallery import SearchableGallery
from search.searcher import Hit
from search.serving.frame_view import frame_around
from utils.errors import UserError

PICTURE = (192, 384)  # width and height that images are shown in, in pixels
FRAME = (640, 480)
QUALITY = 88  # of JPEG
MAX_SHOWN_METADATA = 4  # metadata of a hit that are shown below it

Pictures = Sequence[tuple[Image.Image, str]]


def hits_as_html(gallery: SearchableGallery, hits: Sequence[Hit], asked: str) -> str:
    """A list of buttons, one for each hit; asked: the sentence, which page.js takes into the history."""
    items = "".join(
        f"<li><button type='button' data-index='{rank - 1}'>{picture_as_html(gallery, hit, rank, 'Show why.')}"
        f"{caption_as_html(hit, rank)}</button></li>"
        for rank, hit in enumerate(hits, 1)
    )
    said = html.escape(asked, quote=True)
    title = "<h2>Results</h2><p class='hint'>Choose an image to see why it was found.</p>" if hits else ""
    return f"<div class='asked' data-asked='{said}' data-count='{len(hits)}'>{title}<ol class='hits'>{items}</ol></div>"


def chosen_path(shown: Sequence[str], index: object) -> str:
    """The path of the hit that was chosen on the page, of those that are `shown`; empty when it is none of them."""
    return shown[index] if isinstance(index, int) and 0 <= index < len(shown) else ""


def picture_as_html(gallery: SearchableGallery, hit: Hit, rank: int, more: str = "") -> str:
    """The picture of a hit, which says all that is written below it, and more."""
    said = ", ".join([f"Result {rank}: {label_of(hit)}", *said_of(hit)])
    return image_as_html(picture_of(gallery, hit.path), f"{said}. {more}".strip())


def caption_as_html(hit: Hit, rank: int) -> str:
    """Rank, scores and metadata of a hit; a screen reader has them from the picture."""
    about = ", ".join(said_of(hit))
    return (
        f"<span class='about' aria-hidden='true'><b>{rank}</b> {html.escape(label_of(hit))}"
        f"{f'<br>{html.escape(about)}' if about else ''}</span>"
    )


def said_of(hit: Hit) -> list[str]:
    """The first of its metadata, by name."""
    return [f"{name} {value}" for name, value in list(hit.metadata.items())[:MAX_SHOWN_METADATA]]


def image_as_html(picture: Image.Image, said: str) -> str:
    """A picture within the page. said: what it shows, for who cannot see it."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=QUALITY)
    content = base64.b64encode(file.getvalue()).decode("ascii")
    width, height = picture.size
    alt = html.escape(said, quote=True)
    return f"<img src='data:image/jpeg;base64,{content}' width='{width}' height='{height}' alt='{alt}'>"


def pictures_as_html(pictures: Pictures) -> str:
    """Pictures beside each other, each with what it shows below it."""
    figures = "".join(
        f"<figure>{image_as_html(picture, name)}"
        f"<figcaption aria-hidden='true'>{html.escape(name)}</figcaption></figure>"
        for picture, name in pictures
    )
    return f"<div class='pictures'>{figures}</div>"


def picture_of(gallery: SearchableGallery, path: str) -> Image.Image:
    """An image small enough for the page, or a grey field in place of one that is gone or out of reach by now."""
    try:
        picture = decode(gallery.content_of(path))
    except (Unusable, UserError):
        return placeholder(path, PICTURE)
    picture.thumbnail(PICTURE)
    return picture


def surroundings(gallery: SearchableGallery, path: str, moments: Sequence[str]) -> list[tuple[Image.Image, str]]:
    """The frame that an image was cut out of, if it was, and the others of its group."""
    pictures = []
    with suppress(Unusable, UserError):  # the hit itself was there a moment ago
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
