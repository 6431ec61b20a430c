"""What pictures are made of: text that fits, images that may be missing, colours. Lengths are pixels."""

import io
import math
import os
import re

from PIL import Image, ImageDraw

from dataset.decoding import as_rgb, known_formats
from evaluation.drawing.fonts import draw_text, text_width
from utils.errors import UserError
from utils.files import atomic_write
from utils.text import fill_lines

RIGHT, WRONG = (23, 135, 60), (200, 32, 40)
INK, GREY, LINE, PAPER = (32, 33, 36), (110, 114, 120), (222, 224, 228), (255, 255, 255)


Picture = str | os.PathLike | bytes  # the path of an image file, or the content of one


def name_of(picture: Picture) -> str:
    """The name of an image file; a content has none."""
    return "" if isinstance(picture, bytes) else os.path.basename(picture)


def load_picture(path: Picture, size: tuple[int, int], enlarge: bool = True) -> Image.Image | None:
    """The image scaled to fit `size` (width, height), RGB, or None when it cannot be read.

    path: of its file, or the content of one. enlarge: a smaller image grows to touch that box, else it stays as it is.
    """
    try:
        with Image.open(io.BytesIO(path) if isinstance(path, bytes) else path, formats=known_formats()) as image:
            image.draft("RGB", size)  # decodes large JPEG files at a fraction of their size
            image.load()
            small = image.width <= size[0] and image.height <= size[1]
            return as_rgb(image) if small and not enlarge else shrink(as_rgb(image), size)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None


def read_picture(path: str | os.PathLike, size: tuple[int, int]) -> Image.Image:
    """`load_picture` of an image that was read before. Raises UserError when it is gone since."""
    picture = load_picture(path, size)
    if picture is None:
        raise UserError(f"image {path} cannot be read any more; run the command again")
    return picture


def save_picture(picture: Image.Image, path: str | os.PathLike) -> None:
    """Write a PNG file. Raises UserError when it cannot be written."""
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")


def placeholder(name: str, size: tuple[int, int]) -> Image.Image:
    """A grey field of `size` (width, height) that names the image it stands for."""
    field = Image.new("RGB", size, LINE)
    text = f"not readable: {clean(name)}"
    draw_text(ImageDraw.Draw(field), (6, 6), wrap(text, 12, size[0] - 12, 8), INK, 12)
    return field


def format_score(score: float) -> str:
    """Three decimals, or the exponent form where that would be too long."""
    return f"{score:.3f}" if math.isfinite(score) and abs(score) < 1e4 else f"{score:.1e}"


def shrink(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale up or down to touch the box `size`, aspect kept; a side is never under one pixel."""
    scale = min(size[0] / image.width, size[1] / image.height)
    scaled = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(scaled, Image.Resampling.LANCZOS)


def clean(text: str) -> str:
    """One line of printable characters; half a surrogate pair becomes a question mark."""
    text = " ".join(str(text).split()).encode("utf-8", "replace").decode("utf-8")
    text = re.sub("[\ufe00-\ufe0f]", "", text)  # variants of emoji, which are drawn in one colour
    return "".join(character if character.isprintable() else " " for character in text)


def fit(text: str, size: int, width: float) -> str:
    """`text`, cut with an ellipsis where it is wider than `width`."""
    text = text[:500]
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def wrap(text: str, size: int, width: float, max_lines: int) -> str:
    """Break `text` into at most `max_lines` lines of `width`; the last one ends in an ellipsis if cut.

    Words wider than a line (file names, scripts without spaces) are broken anywhere.
    """
    lines = fill_lines(short_words(text[:4000], size, width), lambda line: text_width(line, size) <= width)
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], fit(lines[max_lines - 1] + " ...", size, width)]
    return "\n".join(lines)


def short_words(text: str, size: int, width: float) -> list[str]:
    """The words of `text`, those wider than a line cut into pieces as wide as a line."""
    words = []
    for word in text.split():
        piece = ""
        for character in word if text_width(word, size) > width else ():
            if piece and text_width(piece + character, size) > width:
                words.append(piece)
                piece = ""
            piece += character
        words.append(piece or word)
    return words
