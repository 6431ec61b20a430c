"""Layers that a figure is painted on, and the shapes and patterns painted.

Three layers of one size: `albedo` (RGB, plain colour), `shade` (128 = neutral light) and
`label` (attribute number of the visible pixel). They are multiplied once, at the end.
All coordinates are canvas pixels; a shape is a list of polygon points.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from dataset.synthetic.colours import RGB
from dataset.synthetic.person import NUMBER, Thing

Point = tuple[float, float]
Shape = list[Point]

_ARC = [(math.cos(math.tau * k / 24), math.sin(math.tau * k / 24)) for k in range(24)]
CLOTH = tuple(NUMBER[name] for name in ("upper", "inner", "lower", "dress", "scarf"))


def ellipse(x: float, y: float, rx: float, ry: float) -> Shape:
    """A polygon close to the ellipse around (x, y)."""
    return [(x + rx * c, y + ry * s) for c, s in _ARC]


def capsule(a: Point, b: Point, ra: float, rb: float) -> Shape:
    """A limb from `a` (radius ra) to `b` (radius rb) with round ends."""
    turn = math.atan2(b[1] - a[1], b[0] - a[0])
    half = [math.tau * (k / 16 - 0.25) for k in range(9)]
    end = [(b[0] + rb * math.cos(turn + t), b[1] + rb * math.sin(turn + t)) for t in half]
    start = [(a[0] - ra * math.cos(turn + t), a[1] - ra * math.sin(turn + t)) for t in half]
    return end + start


def box_shape(x0: float, y0: float, x1: float, y1: float, corner: float = 0.0) -> Shape:
    """A rectangle with cut corners."""
    c = corner
    return [
        (x0 + c, y0),
        (x1 - c, y0),
        (x1, y0 + c),
        (x1, y1 - c),
        (x1 - c, y1),
        (x0 + c, y1),
        (x0, y1 - c),
        (x0, y0 + c),
    ]


@lru_cache(maxsize=64)
def shade_curve(tone: float) -> list[int]:
    """Look-up from the blurred part mask (edge ~128, middle 255) to light, times `tone`."""
    return [min(255, round(128 * tone * (0.68 + 0.4 * value / 255))) for value in range(256)]


@lru_cache(maxsize=128)
def pattern_tile(pattern: str, period: int) -> np.ndarray:
    """uint8 [2 period, 2 period], 255 where the second colour shows; the pattern is this tile again and again."""
    y, x = np.mgrid[0 : 2 * period, 0 : 2 * period]
    wide = x % period < period * 0.45
    tall = y % period < period * 0.45
    if pattern == "horizontal stripes":
        on = tall
    elif pattern == "vertical stripes":
        on = wide
    elif pattern == "checked":
        on = wide ^ tall
    else:
        middle = (period - 1) / 2
        row_shift = (y // period % 2) * (period // 2)
        on = ((x + row_shift) % period - middle) ** 2 + (y % period - middle) ** 2 < (period * 0.32) ** 2
    return np.where(on, 255, 0).astype(np.uint8)


@lru_cache(maxsize=1)
def fold_texture() -> np.ndarray:
    """Light of cloth folds [1024, 1024] float32 around 1: soft streaks, longer than wide."""
    generator = np.random.default_rng(7)
    light = np.zeros((1024, 1024), np.float32)
    for columns, rows, strength in ((70, 36, 0.06), (150, 60, 0.04)):
        coarse = generator.normal(0, 1, (rows, columns)).astype(np.float32)
        light += strength * np.asarray(Image.fromarray(coarse).resize((1024, 1024), Image.Resampling.BICUBIC))
    return np.clip(1 + light, 0.7, 1.25)


class Canvas:
    """The three layers; `background` [RGB image] becomes the first albedo."""

    def __init__(self, background: Image.Image, unit: float, light_from: int) -> None:
        """unit: pixels per body height. light_from: -1 light comes from the left, 1 from the right."""
        self.albedo = background
        self.size = background.size
        self.shade = Image.new("L", self.size, 128)
        self.label = Image.new("L", self.size, 0)
        self.unit = unit
        self.light_from = light_from
        self._lines = ImageDraw.Draw(self.shade)

    def paint(self, shapes: Sequence[Shape], thing: Thing, number: int, tone: float = 1.0, soft: float = 0.018) -> None:
        """Paint the union of `shapes` as `thing`: colour, pattern, rounded shading, label `number`."""
        placed = self._mask(shapes, margin=round(soft * self.unit) + 2)
        if placed is None:
            return
        mask, box = placed
        self.albedo.paste(thing.rgb, box, mask)
        if thing.second_rgb is not None and thing.pattern != "logo":
            self.albedo.paste(thing.second_rgb, box, self._patterned(mask, box, thing.pattern))
        self.label.paste(number, box, mask)
        radius = max(1, round(soft * self.unit))
        round_light = mask.filter(ImageFilter.BoxBlur(radius))
        round_light = ImageChops.offset(round_light, round(-0.6 * self.light_from * radius), 0)
        self.shade.paste(round_light.point(shade_curve(round(tone, 2))), box, mask)

    def plain(self, shapes: Sequence[Shape], rgb: RGB, number: int | None = None, shade: int = 128) -> None:
        """Paint without rounding; the label is kept where `number` is None."""
        placed = self._mask(shapes, margin=0)
        if placed is None:
            return
        mask, box = placed
        self.albedo.paste(rgb, box, mask)
        self.shade.paste(shade, box, mask)
        if number is not None:
            self.label.paste(number, box, mask)

    def crease(self, points: Sequence[Point], shade: int = 92, width: float = 0.006) -> None:
        """A seam, zip or fold: a line in the light only."""
        self._lines.line(list(points), fill=shade, width=max(1, round(width * self.unit)))

    def darken(self, shapes: Sequence[Shape], shade: int = 90) -> None:
        """A flat shadow or a darker area in the light only."""
        for shape in shapes:
            self._lines.polygon(shape, fill=shade)

    def render(self, fold_at: tuple[int, int]) -> Image.Image:
        """Albedo times light, with folds on cloth; `fold_at` (row, column) below 512 picks the folds."""
        light = np.asarray(self.shade, np.float32)
        width, height = self.size
        rows = (np.arange(height) + fold_at[0]) % 1024
        columns = (np.arange(width) + fold_at[1]) % 1024
        cloth = _cloth_table()[np.asarray(self.label)]
        light = np.where(cloth, light * fold_texture()[rows[:, None], columns], light)
        colour = np.asarray(self.albedo, np.float32) * (light / 128)[..., None]
        return Image.fromarray(np.minimum(colour, 255).astype(np.uint8), "RGB")

    def _mask(self, shapes: Sequence[Shape], margin: int) -> tuple[Image.Image, tuple[int, int, int, int]] | None:
        """Union of polygons as an L mask cropped to its box; None when it lies outside the canvas."""
        xs = [x for shape in shapes for x, _ in shape]
        ys = [y for shape in shapes for _, y in shape]
        x0, y0 = max(0, int(min(xs)) - margin), max(0, int(min(ys)) - margin)
        x1 = min(self.size[0], int(max(xs)) + margin + 2)
        y1 = min(self.size[1], int(max(ys)) + margin + 2)
        if x1 <= x0 or y1 <= y0:
            return None
        mask = Image.new("L", (x1 - x0, y1 - y0), 0)
        draw = ImageDraw.Draw(mask)
        for shape in shapes:
            draw.polygon([(x - x0, y - y0) for x, y in shape], fill=255)
        return mask, (x0, y0, x1, y1)

    def _patterned(self, mask: Image.Image, box: tuple[int, int, int, int], pattern: str) -> Image.Image:
        """The part of `mask` where the second colour of a pattern shows."""
        tile = pattern_tile(pattern, max(4, round(0.05 * self.unit)))
        left, top, right, bottom = box
        rows, columns = np.arange(top, bottom) % len(tile), np.arange(left, right) % len(tile)
        return ImageChops.darker(mask, Image.fromarray(tile[rows[:, None], columns], "L"))


@lru_cache(maxsize=1)
def _cloth_table() -> np.ndarray:
    """Boolean table [256]: which labels are cloth and get folds."""
    table = np.zeros(256, bool)
    table[list(CLOTH)] = True
    return table
