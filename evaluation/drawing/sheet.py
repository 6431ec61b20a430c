"""Ranking sheets: a picture with one row per caption, its first images framed right or wrong.

Green with a tick is right, red with a cross is wrong, so that the sheet also reads in grey.
Lengths are pixels.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw
from tqdm import tqdm

from evaluation.drawing.fonts import draw_text
from evaluation.drawing.pictures import (
    GREY,
    INK,
    LINE,
    PAPER,
    RIGHT,
    WRONG,
    Picture,
    clean,
    fit,
    format_score,
    load_picture,
    name_of,
    placeholder,
    save_picture,
    wrap,
)
from utils.errors import UserError

CELL = (104, 232)  # width and height of an image with its frame: person crops are tall
FRAME = 5
MARGIN = 16
CAPTION_WIDTH = 330
SCORE_HEIGHT = 26
MAX_ROWS = 100  # a sheet stays under some 30 000 pixels in height
MAX_COLUMNS = 50
NOTE = (0, 84, 147)


@dataclass
class SheetRow:
    """One caption and its ranked images, best first; `right` and `scores` run along `image_paths`.

    An image is named by its path, or given as the content of a file. right None: nobody knows which images are.
    identity "": nobody knows who is meant. note: a line of its own above the caption.
    """

    caption: str
    identity: str
    image_paths: Sequence[Picture]
    right: Sequence[bool] | None
    scores: Sequence[float] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        beside = [part for part in (self.right, self.scores) if part is not None]
        if any(len(part) != len(self.image_paths) for part in beside):
            raise ValueError("image_paths, right and scores of a row must have the same length")

    def ranked(self) -> Iterator[tuple[Picture, bool | None, float | None]]:
        """Path, right and score of each image from rank 1 on; None where nobody knows."""
        unknown = [None] * len(self.image_paths)
        right = unknown if self.right is None else self.right
        scores = unknown if self.scores is None else self.scores
        return zip(self.image_paths, right, scores, strict=True)


def ranking_sheet(
    queries: Sequence[SheetRow], path: str | os.PathLike, columns: int = 10, title: str | None = None
) -> None:
    """Draw `queries` with their first `columns` images into a PNG file.

    An image that cannot be read becomes a grey field with its name. At most `MAX_ROWS` captions
    and `MAX_COLUMNS` images of each are drawn; the sheet says so when captions were left out.
    Raises UserError when there is no query or no column, or when the file cannot be written.
    """
    if not queries or columns < 1:
        raise UserError("a ranking sheet needs at least one query and one column")
    columns = min(columns, MAX_COLUMNS)
    shown = queries[:MAX_ROWS]
    if len(shown) < len(queries):
        note = f"first {len(shown)} of {len(queries)} queries"
        title = f"{title} ({note})" if title else note
    top = MARGIN + (44 if title else 0)
    row_height = CELL[1] + SCORE_HEIGHT + MARGIN
    width = CAPTION_WIDTH + 3 * MARGIN + columns * (CELL[0] + 8) - 8
    sheet = Image.new("RGB", (width, top + len(shown) * row_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw_text(draw, (MARGIN, MARGIN), fit(clean(title), 24, width - 2 * MARGIN), INK, 24)
    for number, row in enumerate(tqdm(shown, desc="ranking sheet", leave=False)):
        _draw_row(sheet, draw, row, top + number * row_height, columns)
    save_picture(sheet, path)


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: SheetRow, top: int, columns: int) -> None:
    """The caption on the left, then the images from rank 1 on; `top` is the row's upper edge."""
    draw.line([(MARGIN, top), (sheet.width - MARGIN, top)], fill=LINE)
    top += 10
    below = top
    if row.note:
        draw_text(draw, (MARGIN, top), fit(clean(row.note), 17, CAPTION_WIDTH), NOTE, 17)
        below += 30
    caption = wrap(clean(row.caption), 17, CAPTION_WIDTH, 8 if row.note else 9)
    draw_text(draw, (MARGIN, below), caption, INK, 17, spacing=5)
    if row.identity:
        identity = fit(f"identity {clean(row.identity)}", 14, CAPTION_WIDTH)
        draw_text(draw, (MARGIN, top + CELL[1]), identity, GREY, 14)
    for rank, (image, right, score) in enumerate(list(row.ranked())[:columns]):
        left = 2 * MARGIN + CAPTION_WIDTH + rank * (CELL[0] + 8)
        _draw_cell(sheet, draw, (left, top), image, right, score)


def _draw_cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    image: Picture,
    right: bool | None,
    score: float | None,
) -> None:
    """One framed image with its mark and score below; `corner` is the upper left one; right None: no mark."""
    left, top = corner
    inner = CELL[0] - 2 * FRAME, CELL[1] - 2 * FRAME
    picture = load_picture(image, inner) or placeholder(name_of(image), inner)
    color = LINE if right is None else RIGHT if right else WRONG
    x, y = left + (CELL[0] - picture.width) // 2, top + (CELL[1] - picture.height) // 2
    draw.rectangle([x - FRAME, y - FRAME, x + picture.width + FRAME - 1, y + picture.height + FRAME - 1], fill=color)
    sheet.paste(picture, (x, y))
    if right is not None:
        _draw_mark(draw, left + 4, top + CELL[1] + 6, color, right)
    if score is not None:
        draw_text(draw, (left + 26, top + CELL[1] + 4), format_score(score), INK, 14)


def _draw_mark(draw: ImageDraw.ImageDraw, x: int, y: int, color: tuple[int, int, int], right: bool) -> None:
    """A tick or a cross in a 14 x 14 field, drawn with lines: no font has to hold the signs."""
    if right:
        draw.line([(x, y + 7), (x + 5, y + 12), (x + 14, y + 1)], fill=color, width=3, joint="curve")
    else:
        draw.line([(x + 1, y + 1), (x + 12, y + 12)], fill=color, width=3)
        draw.line([(x + 1, y + 12), (x + 12, y + 1)], fill=color, width=3)
