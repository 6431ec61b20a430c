"""People in frames: a gallery can hold parts of images, each named by its frame and its box.

    camera_1/000001.jpg#295,172,48,89    left, top (also below 0), width and height in pixels of that frame

Nothing of them is written as a file: a person is cut out of the frame whenever the image is needed.
"""

import io
import math
import re
from collections.abc import Sequence

from PIL import Image, ImageDraw

from dataset.annotation_entries import Box
from dataset.crops import box_fault, pixels_of
from dataset.decoding import Unusable, decode

CUT = re.compile(r"(?P<file>.+)#(?P<box>-?\d+,-?\d+,[1-9]\d*,[1-9]\d*)", re.DOTALL)
COLOUR = (230, 40, 40)

Pixels = tuple[int, int, int, int]  # left, top, width, height


def crop_name(file: str, box: Box) -> str:
    """What a person in a frame is called; the box in whole pixels, all that it touches."""
    left, top = math.floor(box[0]), math.floor(box[1])
    width, height = math.ceil(box[0] + box[2]) - left, math.ceil(box[1] + box[3]) - top
    return f"{file}#{left},{top},{max(1, width)},{max(1, height)}"


def file_and_box(name: str) -> tuple[str, Pixels | None]:
    """The file of an image of a gallery, and the box of a person that is cut out of it."""
    found = CUT.fullmatch(name)
    if found is None:
        return name, None
    left, top, width, height = map(int, found["box"].split(","))
    return found["file"], (left, top, width, height)


def lies_below(name: str, inside: str) -> bool:
    """Whether an image is the one of this name, a person in it, or lies in the folder of this name."""
    return name == inside or name.startswith(f"{inside}/") or file_and_box(name)[0] == inside


def cut(frame: Image.Image, box: Pixels) -> bytes:
    """The person in a box of a frame as a PNG file, which keeps the pixels. Raises Unusable when it lies outside."""
    if fault := box_fault(box, frame.size):
        raise Unusable(f"has no person there: the box {fault}")
    file = io.BytesIO()
    frame.crop(pixels_of(box, frame.size)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def crop_all(content: bytes, boxes: Sequence[Pixels]) -> list[bytes | Unusable]:
    """Several people of one frame, of which the file's content is given. Raises Unusable when it is no image."""
    frame, found = decode(content), list[bytes | Unusable]()
    for box in boxes:
        try:
            found.append(cut(frame, box))
        except Unusable as fault:
            found.append(fault)
    return found


def draw_box(content: bytes, box: Pixels) -> Image.Image:
    """A frame in which a person's box is drawn."""
    frame = decode(content)
    left, top, width, height = box
    draw, line = ImageDraw.Draw(frame), max(2, frame.height // 90)
    draw.rectangle((left - line, top - line, left + width + line, top + height + line), outline=COLOUR, width=line)
    return frame
