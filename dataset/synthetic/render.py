"""One image of one identity: pose, place in the frame, scene, occlusion, camera, visible parts."""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dataset.synthetic.camera import Camera, expose, sample_camera
from dataset.synthetic.canvas import Canvas
from dataset.synthetic.figure import paint_person
from dataset.synthetic.person import ATTRIBUTES, Person, sample_person
from dataset.synthetic.pose import Skeleton, sample_pose
from dataset.synthetic.scene import paint_background, paint_ground_shadow, paint_occluder

# Share of the image's pixels from which a part is worth a phrase in a caption.
NOTICED = {
    "hair": 0.004,
    "headwear": 0.003,
    "glasses": 0.0006,
    "scarf": 0.003,
    "upper": 0.015,
    "inner": 0.005,
    "lower": 0.015,
    "dress": 0.03,
    "shoes": 0.002,
    "bag": 0.004,
    "item": 0.0012,
    "skin": 0.004,
}


@dataclass(frozen=True)
class Picture:
    """A finished picture. image [H, W] RGB; label [H, W] uint8, attribute number of each visible pixel."""

    image: Image.Image
    label: np.ndarray
    view: str
    moving: bool
    occlusion: str
    camera: Camera

    def visible_pixels(self) -> dict[str, int]:
        """Pixels of every attribute that shows at all."""
        counts = np.bincount(self.label.ravel(), minlength=len(ATTRIBUTES))
        return {name: int(n) for name, n in zip(ATTRIBUTES[1:], counts[1:], strict=False) if n}

    def noticed(self) -> set[str]:
        """Attributes large enough to be talked about."""
        return {name for name, count in self.visible_pixels().items() if is_noticed(name, count, self.label.size)}


def is_noticed(attribute: str, count: int, pixels: int) -> bool:
    """Whether `count` pixels of an attribute, in an image of `pixels`, are enough to be talked about."""
    return count >= max(2, NOTICED[attribute] * pixels)


def draw_picture(
    person: Person,
    rng: random.Random,
    size: tuple[int, int],
    nuisance: float,
    occlusion: float,
    smallest_detail: float = 0,
) -> Picture:
    """Draw `person` once.

    size: (height, width); occlusion: probability that something is in front; smallest_detail: pixels of the
    image that shoes, headwear, hair, glasses, a scarf and what is held measure across at least.
    """
    height, width = size
    scale = max(2, -(-256 // height))
    pose = sample_pose(rng, person)
    unit = rng.uniform(0.86, 0.95) * person.stature * height * scale
    if rng.random() < 0.1 * nuisance:
        unit *= rng.uniform(1.08, 1.25)  # a tight crop that cuts the feet
    canvas = Canvas(paint_background(rng, width, height, scale), unit, rng.choice((-1, 1)))
    centre = (0.5 + rng.gauss(0, 0.035) * nuisance) * width * scale
    spare = height * scale - unit
    top = rng.uniform(0.35, 0.75) * spare if spare > 0 else rng.uniform(0.01, 0.03) * height * scale
    hidden = paint_crowd(canvas, rng, centre, top, unit) if rng.random() < occlusion * 0.5 else "none"
    skeleton = Skeleton(person, pose, centre, top, unit, smallest=smallest_detail * scale / unit)
    paint_ground_shadow(canvas, centre, top + 0.985 * unit, rng)
    paint_person(canvas, person, skeleton)
    if rng.random() < occlusion:
        hidden = paint_passer(canvas, rng, unit) if rng.random() < 0.25 else paint_occluder(canvas, rng)
    fold_at = (rng.randrange(512), rng.randrange(512))
    image = canvas.render(fold_at).reduce(scale)
    camera = sample_camera(rng, nuisance)
    image = expose(image, camera, rng)
    return Picture(image, shrink_label(canvas.label, scale), pose.view, pose.stride > 0.1, hidden, camera)


def shrink_label(label: Image.Image, scale: int) -> np.ndarray:
    """Every scale x scale block becomes the label of the pixel at its middle."""
    return np.ascontiguousarray(np.asarray(label)[scale // 2 :: scale, scale // 2 :: scale])


def paint_crowd(canvas: Canvas, rng: random.Random, centre: float, top: float, unit: float) -> str:
    """Another pedestrian behind, partly outside the frame."""
    side = rng.choice((-1, 1))
    paint_stranger(canvas, rng, centre + side * rng.uniform(0.26, 0.4) * unit, top + 0.02 * unit, unit * 0.9)
    return "pedestrian behind"


def paint_passer(canvas: Canvas, rng: random.Random, unit: float) -> str:
    """Another pedestrian in front at the edge of the frame."""
    side = rng.choice((0, 1))
    offset = rng.uniform(-0.06, 0.1) * canvas.size[0]
    paint_stranger(
        canvas,
        rng,
        side * canvas.size[0] + (offset if side == 0 else -offset),
        canvas.size[1] * rng.uniform(0.05, 0.2),
        unit,
    )
    return "pedestrian in front"


def paint_stranger(canvas: Canvas, rng: random.Random, x: float, top: float, unit: float) -> None:
    """A random other person whose pixels carry no label."""
    before = canvas.label.copy()
    blank = Image.new("L", canvas.size, 0)
    stranger = sample_person(rng)
    canvas.label.paste(blank)
    paint_person(canvas, stranger, Skeleton(stranger, sample_pose(rng, stranger), x, top, unit))
    covered = canvas.label.point(lambda value: 255 if value else 0)
    before.paste(0, None, covered)
    canvas.label.paste(before)
