"""The picture of the Grad-CAM study: captions in the colours of their attributes, and a heat map for each.

Letters: C attributes of a caption, L patches, H and W pixels, T word pieces.
"""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dataset.captions import clean_caption, clean_caption_with_offsets
from evaluation.drawing.fonts import draw_text, text_width
from evaluation.drawing.panels import (
    Cell,
    Colour,
    coloured_text,
    draw_cell,
    flow,
    lines_needed,
    overlay,
    stack,
    text_line,
)
from evaluation.drawing.pictures import GREY, INK, PAPER, clean, read_picture
from evaluation.studies.caption_maps import CaptionMaps, upsample
from evaluation.studies.shown_captions import ShownCaption
from models.word_maps import MapTarget

WIDTH, MARGIN, GAP = 1180, 16, 12
PICTURE, WORD_PICTURE = (122, 244), (86, 172)  # most width and height of a picture
TITLE, TEXT, SMALL = 24, 22, 18  # letters
TITLE_LINES = 4
COLOURS: tuple[Colour, ...] = (
    *((0, 114, 178), (213, 94, 0), (0, 128, 92), (176, 64, 138)),
    *((106, 79, 192), (154, 116, 0), (0, 139, 163), (160, 82, 45)),
)

Grid = tuple[int, int]  # rows and columns of patches


def draw_sheet(
    captions: Sequence[ShownCaption],
    maps: Mapping[str, Sequence[CaptionMaps]],
    grids: Mapping[str, Grid],
    abouts: Mapping[str, MapTarget],
    titles: Sequence[str],
    with_words: bool,
) -> Image.Image:
    """A block for each caption: its text, and for each model (by name) a line of overlays.

    titles: lines of the heading.
    """
    width = WIDTH - 2 * MARGIN
    blocks = [draw_heading(titles, width)]
    for number, caption in enumerate(captions):
        parts = [draw_caption(caption, width)]
        for name, found in maps.items():
            one, grid, about = found[number], grids[name], abouts[name]
            parts.append(text_line(f"{name}: {about.score} {one.score:.2f}", SMALL, width, GREY))
            parts.append(flow(draw_attributes(caption, one, grid, about.note), width, GAP))
            if with_words:
                parts.append(flow(draw_words(caption, one, grid), width, GAP))
        blocks.append(stack(parts, 8))
    return stack(blocks, 34, MARGIN)


def draw_heading(titles: Sequence[str], width: int) -> Image.Image:
    """The titles, and a scale from no heat to the most, on a line of its own where both do not fit on one."""
    scale = overlay(Image.new("RGB", (150, 18), (128, 128, 128)), torch.linspace(0, 1, 150).expand(18, 150))
    legend = Image.new("RGB", (430, TITLE + 8), PAPER)
    draw = ImageDraw.Draw(legend)
    draw_text(draw, (0, 5), "nothing", INK, SMALL)
    legend.paste(scale, (82, 7))
    draw_text(draw, (240, 5), "the map's maximum", INK, SMALL)
    lines = [text_line(title, TITLE, int(text_width(clean(title), TITLE)) + 2) for title in titles]
    return flow([stack(lines, 4), legend], width, GAP)


def draw_caption(caption: ShownCaption, width: int) -> Image.Image:
    """The caption as written, the words of each attribute in its colour."""
    number = "" if caption.number is None else f"{caption.number}:  "
    colours = [GREY] * len(number) + character_colours(caption)
    return coloured_text(number + caption.text, colours, TEXT, width)


def character_colours(caption: ShownCaption) -> list[Colour]:
    """The colour of each character of the caption as written."""
    colours = [INK] * len(caption.text)
    _, origins = clean_caption_with_offsets(caption.text, None)
    for attribute, spans in enumerate(caption.attributes):
        for start, end in spans:
            for character in range(origins[start], origins[end - 1] + 1):
                colours[character] = colour_of(attribute)
    return colours


def colour_of(attribute: int) -> Colour:
    return COLOURS[attribute % len(COLOURS)]


def draw_attributes(caption: ShownCaption, maps: CaptionMaps, grid: Grid, note: str) -> list[Image.Image]:
    """The image, the map of all words, and each attribute that the model read; note: how its score is written."""
    picture = read_picture(caption.image, PICTURE)
    cells = [Cell(picture, "image"), Cell(heated(picture, maps.whole, grid), "all words")]
    for attribute, is_present in enumerate(maps.present):
        if is_present:
            shown = heated(picture, maps.attributes[attribute], grid)
            words, score = caption.words_of(attribute), note.format(maps.attribute_score[attribute])
            cells.append(Cell(shown, words, score, colour_of(attribute)))
    lines = lines_needed([cell.title for cell in cells], PICTURE, SMALL, TITLE_LINES)
    return [draw_cell(cell, PICTURE, SMALL, lines) for cell in cells]


def draw_words(caption: ShownCaption, maps: CaptionMaps, grid: Grid) -> list[Image.Image]:
    """A small overlay for every word, word pieces joined."""
    picture = read_picture(caption.image, WORD_PICTURE)
    cleaned = clean_caption(caption.text, None)
    colours = {
        character: colour_of(attribute)
        for attribute, spans in enumerate(caption.attributes)
        for start, end in spans
        for character in range(start, end)
    }
    cells = [
        Cell(heated(picture, word_map, grid), cleaned[start:end], colour=colours.get(start))
        for (start, end), word_map in join_pieces(cleaned, maps.offsets, maps.words)
    ]
    return [draw_cell(cell, WORD_PICTURE, SMALL, title_lines=1) for cell in cells]


def join_pieces(cleaned: str, offsets: Sequence[tuple[int, int]], maps: Tensor) -> list[tuple[tuple[int, int], Tensor]]:
    """The characters of each word of a cleaned caption that was read, and the mean map [L] of its pieces [T, L]."""
    words, start = [], 0
    for word in cleaned.split(" "):
        end = start + len(word)
        pieces = [row for row, (first, last) in enumerate(offsets) if start <= first < last <= end]
        if pieces:
            words.append(((start, end), maps[pieces].mean(0)))
        start = end + 1
    return words


def heated(picture: Image.Image, grid_map: Tensor, grid: Grid) -> Image.Image:
    """A map [L] over the picture that it is of."""
    return overlay(picture, upsample(grid_map[None], grid, (picture.height, picture.width))[0])
