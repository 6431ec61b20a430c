"""Pictures put together from parts: titled cells, rows that break, text in several colours. Lengths are pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from evaluation.drawing.fonts import draw_text, text_width
from evaluation.drawing.pictures import GREY, INK, PAPER, clean, fit, wrap

Colour = tuple[int, int, int]

HEAT = "turbo"
STRENGTH = 0.75  # how much of the image the strongest heat covers
FRAME = 5


@dataclass(frozen=True)
class Cell:
    """A picture under its title, framed in the title's colour, and with a note below."""

    picture: Image.Image
    title: str
    note: str = ""
    colour: Colour | None = None


def overlay(picture: Image.Image, heat: Tensor) -> Image.Image:
    """Heat [H, W], 0 or more and of the picture's size, over the picture: none at 0, most at its largest value."""
    share = heat / heat.max().clamp(min=1e-30)
    colours = matplotlib.colormaps[HEAT](share.numpy())[..., :3] * 255
    cover = STRENGTH * share.numpy()[..., None]
    return Image.fromarray((np.asarray(picture) * (1 - cover) + colours * cover).round().astype(np.uint8))


def draw_cell(cell: Cell, box: tuple[int, int], size: int, title_lines: int) -> Image.Image:
    """A cell whose picture lies centred in `box` (width, height); size: of the letters."""
    width, line = box[0] + 2 * FRAME, size + 4
    top, below = title_lines * line, line if cell.note else 0
    sheet = Image.new("RGB", (width, top + box[1] + 2 * FRAME + below), PAPER)
    draw = ImageDraw.Draw(sheet)
    lines = wrap(clean(cell.title), size, width, title_lines).split("\n")
    for number, text in enumerate(lines):
        corner = (width - text_width(text, size)) / 2, top - (len(lines) - number) * line
        draw_text(draw, corner, text, cell.colour or INK, size)
    left, upper = (width - cell.picture.width) // 2, top + FRAME + (box[1] - cell.picture.height) // 2
    if cell.colour:
        right, lower = left + cell.picture.width + FRAME - 1, upper + cell.picture.height + FRAME - 1
        draw.rectangle([left - FRAME, upper - FRAME, right, lower], fill=cell.colour)
    sheet.paste(cell.picture, (left, upper))
    note = fit(clean(cell.note), size, width)
    draw_text(draw, ((width - text_width(note, size)) / 2, sheet.height - below), note, GREY, size)
    return sheet


def lines_needed(titles: Sequence[str], box: tuple[int, int], size: int, most: int) -> int:
    """How many lines the longest of some titles of cells takes, at most `most`."""
    return max(wrap(clean(title), size, box[0] + 2 * FRAME, most).count("\n") + 1 for title in titles)


def flow(parts: Sequence[Image.Image], width: int, gap: int) -> Image.Image:
    """Pictures from left to right, on a new line where `width` ends, upper edges aligned."""
    lines: list[list[Image.Image]] = [[]]
    for part in parts:
        used = sum(other.width + gap for other in lines[-1])
        if lines[-1] and used + part.width > width:
            lines.append([])
        lines[-1].append(part)
    return stack([beside(line, gap) for line in lines], gap)


def beside(parts: Sequence[Image.Image], gap: int) -> Image.Image:
    """Pictures in one line."""
    width = sum(part.width for part in parts) + gap * max(0, len(parts) - 1)
    sheet = Image.new("RGB", (width, max((part.height for part in parts), default=0)), PAPER)
    left = 0
    for part in parts:
        sheet.paste(part, (left, 0))
        left += part.width + gap
    return sheet


def stack(parts: Sequence[Image.Image], gap: int, margin: int = 0) -> Image.Image:
    """Pictures one below the other, with a margin around all."""
    width = max((part.width for part in parts), default=0) + 2 * margin
    height = sum(part.height for part in parts) + gap * max(0, len(parts) - 1) + 2 * margin
    sheet, top = Image.new("RGB", (width, height), PAPER), margin
    for part in parts:
        sheet.paste(part, (margin, top))
        top += part.height + gap
    return sheet


def text_line(text: str, size: int, width: int, colour: Colour = INK) -> Image.Image:
    """One line of text, cut where it is too long."""
    sheet = Image.new("RGB", (width, size + 8), PAPER)
    draw_text(ImageDraw.Draw(sheet), (0, 2), fit(clean(text), size, width), colour, size)
    return sheet


def coloured_text(text: str, colours: Sequence[Colour], size: int, width: int) -> Image.Image:
    """Text whose characters have a colour each, broken between words."""
    words = words_in_colours(text, colours)
    lines: list[list[tuple[float, list[tuple[str, Colour]]]]] = [[]]
    left = 0.0
    space = text_width(" ", size)
    for word in words:
        long = sum(text_width(part, size) for part, _ in word)
        if lines[-1] and left + long > width:
            lines.append([])
            left = 0.0
        lines[-1].append((left, word))
        left += long + space
    sheet = Image.new("RGB", (width, len(lines) * (size + 8)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        for x, word in line:
            for part, colour in word:
                draw_text(draw, (x, number * (size + 8)), part, colour, size)
                x += text_width(part, size)
    return sheet


def words_in_colours(text: str, colours: Sequence[Colour]) -> list[list[tuple[str, Colour]]]:
    """Words between white space, each as runs of characters of one colour."""
    words: list[list[tuple[str, Colour]]] = [[]]
    for character, colour in zip(text, colours, strict=True):
        if character.isspace():
            words.append([])
        elif words[-1] and words[-1][-1][1] == colour:
            words[-1][-1] = (words[-1][-1][0] + clean(character), colour)
        else:
            words[-1].append((clean(character), colour))
    return [word for word in words if word]
