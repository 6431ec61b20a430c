"""The picture of the reconstruction study: images with removed patches, drawn with a right and with a wrong caption.

Letters: L patches, P patch, H and W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dataset.evaluation_split import EvaluationSplit
from evaluation.drawing.fonts import draw_text
from evaluation.drawing.panels import Cell, beside, draw_cell, stack, text_line
from evaluation.drawing.pictures import GREY, INK, PAPER, RIGHT, WRONG, clean, read_picture, wrap
from models.decoder import patchify, unpatchify
from models.person_search import PersonSearchModel

MARGIN, GAP = 16, 14
PICTURE = (140, 280)  # most width and height of a picture
CAPTIONS = 330  # width of the captions beside the pictures
TITLE, TEXT = 24, 18  # letters
HIDDEN = 0.5  # grey of a removed patch


@dataclass(frozen=True)
class Task:
    """An image of a split, and the captions that it is drawn with: all indices in the split."""

    image: int
    right: int
    wrong: int


@dataclass(frozen=True)
class Drawn:
    """What became of one image, on the CPU. image, right, wrong [3, H, W] from 0 to 1; removed [L] True = removed.

    right and wrong are predictions where patches were removed, and the image elsewhere; the errors are theirs.
    """

    image: Tensor
    right: Tensor
    wrong: Tensor
    removed: Tensor
    right_error: float
    wrong_error: float


def draw_sheet(
    split: EvaluationSplit, examples: Sequence[tuple[Task, Drawn]], model: PersonSearchModel, lines: Sequence[str]
) -> Image.Image:
    """A line for each image: its captions, and four pictures."""
    rows = [draw_example(split, task, drawn, model) for task, drawn in examples]
    width = max(row.width for row in rows)
    heading = stack([text_line(lines[0], TITLE, width), *(text_line(line, TEXT, width, GREY) for line in lines[1:])], 4)
    return stack([heading, *rows], 2 * GAP, MARGIN)


def draw_example(split: EvaluationSplit, task: Task, drawn: Drawn, model: PersonSearchModel) -> Image.Image:
    """Captions on the left; the kept patches, both drawings, and the image, in the shape of its file."""
    size = read_picture(split.image_root / split.images[task.image], PICTURE).size
    cells = [
        Cell(to_pil(hide(drawn, model), size), "kept patches"),
        Cell(to_pil(drawn.right, size), "right caption", f"error {drawn.right_error:.3f}", RIGHT),
        Cell(to_pil(drawn.wrong, size), "wrong caption", f"error {drawn.wrong_error:.3f}", WRONG),
        Cell(to_pil(drawn.image, size), "image"),
    ]
    pictures = [draw_cell(cell, PICTURE, TEXT, title_lines=1) for cell in cells]
    texts = draw_captions(split.texts[task.right], split.texts[task.wrong], max(one.height for one in pictures))
    return beside([texts, *pictures], GAP)


def fill(pixels: Tensor, image: Tensor, removed: Tensor, model: PersonSearchModel) -> Tensor:
    """The image [3, H, W] with predicted patches [L, P*P*3] where they were removed [L]: 0 to 1."""
    patches = torch.where(removed[:, None], pixels, patchify(image[None], model.patch_size)[0])
    return as_picture(unpatchify(patches[None], model.grid, model.patch_size)[0], model)


def as_picture(image: Tensor, model: PersonSearchModel) -> Tensor:
    """A normalised image [3, H, W] -> from 0 to 1, on the CPU."""
    return model.visual_encoder.statistics.restore(image).cpu()


def hide(drawn: Drawn, model: PersonSearchModel) -> Tensor:
    """The image [3, H, W] with its removed patches grey."""
    size = model.patch_size
    patches = patchify(drawn.image[None], size)[0].masked_fill(drawn.removed[:, None], HIDDEN)
    return unpatchify(patches[None], model.grid, size)[0]


def to_pil(picture: Tensor, size: tuple[int, int]) -> Image.Image:
    """[3, H, W] from 0 to 1 -> a picture of `size` (width, height)."""
    pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def draw_captions(right: str, wrong: str, height: int) -> Image.Image:
    """Both captions in the colours of their pictures' frames, cut where they do not fit."""
    sheet = Image.new("RGB", (CAPTIONS, height), PAPER)
    draw, line = ImageDraw.Draw(sheet), TEXT + 4
    most, top = (height - 3 * line) // (2 * line) - 1, line
    for name, text, colour in (("right caption", right, RIGHT), ("wrong caption", wrong, WRONG)):
        draw_text(draw, (0, top), name, colour, TEXT)
        wrapped = wrap(clean(text), TEXT, CAPTIONS, most)
        draw_text(draw, (0, top + line), wrapped, INK, TEXT, spacing=2)
        top += (most + 2) * line
    return sheet
