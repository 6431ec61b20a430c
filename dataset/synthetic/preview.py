"""A contact sheet: pictures of a few identities with their captions and mask overlays."""

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataset.synthetic.generate import person_of, picture_of
from dataset.synthetic.options import Options
from dataset.synthetic.person import ATTRIBUTES
from utils.errors import UserError
from utils.files import atomic_write, require_writable_file
from utils.text import fill_lines

PAPER, INK = (250, 250, 248), (30, 30, 30)
TEXT_WIDTH = 190  # pixels that captions have at least, however small the pictures above them are
MARGIN, LINE = 3, 12  # pixels beside text, and from one line to the next
ENTRY = 72  # pixels of a name in the legend


def mask_colours() -> np.ndarray:
    """One bright colour per attribute [C, 3] uint8; the background is black."""
    hues = [(k * 0.381966) % 1 for k in range(len(ATTRIBUTES))]
    colours = [[round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.85, 1.0)] for hue in hues]
    return np.array([[0, 0, 0], *colours[1:]], np.uint8)


def overlay(image: Image.Image, label: np.ndarray) -> Image.Image:
    """The picture in grey with every attribute of `label` [H, W] in its colour."""
    grey = np.asarray(image.convert("L"), np.float32)[..., None]
    colour = mask_colours()[label]
    mixed = np.where(label[..., None] > 0, 0.35 * grey + 0.65 * colour, 0.6 * grey)
    return Image.fromarray(mixed.astype(np.uint8), "RGB")


def draw_identity_row(options: Options, identity: int, columns: int) -> Image.Image:
    """Pictures above their overlays, and the captions of the pictures below."""
    height, width = options.height, options.width
    person = person_of(options, identity)
    lines = []
    row = Image.new("RGB", (columns * width, 2 * height), PAPER)
    for image in range(columns):
        picture, captions = picture_of(options, identity, image, person)
        row.paste(picture.image, (image * width, 0))
        row.paste(overlay(picture.image, picture.label), (image * width, height))
        lines += [f"{image + 1}: {caption['text']}" for caption in captions[:1]]
    return with_text(row, [f"identity {identity}{look_of(options, identity)}", *lines])


def look_of(options: Options, identity: int) -> str:
    """Of someone with look-alikes: the group, and the details that differ within it."""
    if options.group_size == 1:
        return ""
    first, index = options.group_of(identity)
    members = range(first, min(first + options.group_size, options.identities + 1))
    people = [person_of(options, other) for other in members if options.group_of(other)[0] == first]
    own = people[index]
    differing = [name for name in options.details if len({person.thing(name) for person in people}) > 1]
    looks = [f"{own.worn(name).colour} {own.worn(name).kind}{' hair' * (name == 'hair')}" for name in differing]
    return f", group of identity {first}: {', '.join(looks)}"


def with_text(picture: Image.Image, lines: list[str]) -> Image.Image:
    """`picture` with wrapped `lines` below it."""
    font, width = ImageFont.load_default(10), max(picture.width, TEXT_WIDTH)
    room = width - 2 * MARGIN
    wrapped = [part for line in lines for part in fill_lines(line.split(), lambda text: font.getlength(text) <= room)]
    sheet = Image.new("RGB", (width, picture.height + LINE * len(wrapped) + 10), PAPER)
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for k, line in enumerate(wrapped):
        draw.text((MARGIN, picture.height + MARGIN + LINE * k), line, fill=INK, font=font)
    return sheet


def legend_strip(width: int) -> Image.Image:
    """The colours of the overlays with their attribute names, on as many lines as they need."""
    names, across = ATTRIBUTES[1:], max(1, width // ENTRY)
    strip = Image.new("RGB", (width, 4 + 15 * -(-len(names) // across)), PAPER)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(10)
    for number, (name, rgb) in enumerate(zip(names, mask_colours()[1:], strict=True)):
        x, y = 4 + number % across * ENTRY, 3 + number // across * 15
        draw.rectangle((x, y, x + 10, y + 10), fill=tuple(map(int, rgb)))
        draw.text((x + 13, y), name, fill=INK, font=font)
    return strip


def write_preview(path: str | Path, options: Options, identities: int = 8, across: int = 4) -> None:
    """Write the sheet of the first `identities` of the benchmark that `options` would make, as PNG.

    Raises UserError when the name does not end in .png or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"preview {path} is not a .png file; name one that ends in .png")
    require_writable_file(path, "preview")
    columns = min(options.images_per_identity, 4)
    rows = [draw_identity_row(options, k, columns) for k in range(1, min(identities, options.identities) + 1)]
    gap, wide = 8, rows[0].width
    tall = max(row.height for row in rows)
    down = -(-len(rows) // across)
    across = min(across, len(rows))
    legend = legend_strip(across * (wide + gap))
    sheet = Image.new("RGB", (legend.width, down * (tall + gap) + legend.height), PAPER)
    for k, row in enumerate(rows):
        sheet.paste(row, ((k % across) * (wide + gap), (k // across) * (tall + gap)))
    sheet.paste(legend, (0, sheet.height - legend.height))
    with atomic_write(path) as temporary:
        sheet.save(temporary, "PNG")
