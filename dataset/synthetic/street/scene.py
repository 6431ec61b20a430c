"""A drawn street: cameras that people walk past, with the box and the track of each of them in each frame.

Everything is drawn from (seed, camera) or (seed, camera, frame), so that frames do not depend on who draws them.
Letters: H height and W width of a frame in pixels.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dataset.synthetic.camera import Camera, expose, sample_camera
from dataset.synthetic.canvas import Canvas
from dataset.synthetic.figure import paint_person
from dataset.synthetic.options import require_within
from dataset.synthetic.person import ATTRIBUTES, Person, sample_person
from dataset.synthetic.pose import Pose, Skeleton
from dataset.synthetic.scene import draw_ground, draw_windows, dull, paint_ground_shadow

SCALE = 2  # people are drawn twice as large, then reduced
HORIZON = 0.3  # of a frame's height
TALL = 0.62  # height of a person on the lower edge, of the pixels below the horizon
NEAR, FAR = 1.0, 0.5  # where people walk, of the way from the horizon to the lower edge
FRONT = 0.6  # cosine of the turn up to which someone is seen from the front, or from the back
MIN_PIXELS = 40  # of someone who counts as seen
LIMITS: Mapping[str, tuple[float, float]] = {
    "people": (1, 10_000),
    "cameras": (1, 99),
    "frames": (1, 100_000),
    "height": (96, 2160),
    "width": (96, 3840),
    "seconds": (0.01, 3600),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class StreetOptions:
    """What is drawn. height, width: of a frame in pixels; seconds: from one frame to the next.

    Raises UserError for values that make no sense.
    """

    people: int = 24
    cameras: int = 2
    frames: int = 60
    height: int = 360
    width: int = 640
    seconds: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            require_within(name, getattr(self, name), low, high)


@dataclass(frozen=True)
class Walk:
    """Someone's way past a camera: track is its number, unique in the street.

    begin, end: where the feet are at the first and the last moment: x as a share of the frame's width, and depth from 0
    at the horizon to 1 at the lower edge. first, moments: the frame in which it begins, which may lie before the first
    one, and how many frames it takes.
    """

    identity: int
    track: int
    begin: tuple[float, float]
    end: tuple[float, float]
    first: int
    moments: int
    phase: float

    @property
    def yaw(self) -> float:
        """Where the walker faces: 0 the camera, pi/2 the right edge."""
        across, nearer = self.end[0] - self.begin[0], self.end[1] - self.begin[1]
        return math.atan2(across, 1.6 * nearer)  # depth is seen shortened

    @property
    def view(self) -> str:
        facing = math.cos(self.yaw)
        return "front" if facing > FRONT else "back" if facing < -FRONT else "side"

    def feet(self, frame: int) -> tuple[float, float] | None:
        """Where the feet are in a frame, as `begin`; None when the walker is not there."""
        done = (frame - self.first) / self.moments
        if not 0 <= done <= 1:
            return None
        x, depth = (start + done * (stop - start) for start, stop in zip(self.begin, self.end, strict=True))
        return x, depth

    def pose(self, frame: int, person: Person) -> Pose:
        holds = person.item is not None and person.item.kind in ("phone", "book", "cup")
        step = self.phase + 1.3 * (frame - self.first)
        bend = 1.8 if holds else 0.2
        return Pose(
            self.view, self.yaw, stride=0.4, phase=step, arm_swing=0.35, arm_out=0.16, right_bend=bend, left_bend=0.2
        )


@dataclass(frozen=True)
class Seen:
    """Someone in a frame. box: left, top, right, bottom in pixels, of all that lies within the frame, hidden or not.

    visible: share of these pixels that nobody hides; pixels: how many are visible, by attribute.
    """

    walk: Walk
    box: tuple[int, int, int, int]
    visible: float
    pixels: Mapping[str, int]


@dataclass(frozen=True)
class Frame:
    """A finished frame. image [H, W] RGB; seen: far ones first; quality: of its JPEG file."""

    camera: int
    number: int
    image: Image.Image
    seen: list[Seen]
    quality: int


def person_of(options: StreetOptions, identity: int) -> Person:
    """The person with this number, from 1."""
    return sample_person(random.Random(f"street person/{options.seed}/{identity}"))


def walks_of(options: StreetOptions, camera: int) -> list[Walk]:
    """Everybody passes every camera once; cameras and people are counted from 1."""
    rng = random.Random(f"street walks/{options.seed}/{camera}")
    return [
        sample_walk(rng, options, identity, (camera - 1) * options.people + identity)
        for identity in range(1, options.people + 1)
    ]


def sample_walk(rng: random.Random, options: StreetOptions, identity: int, track: int) -> Walk:
    """From one side to the other, or, at times, towards the camera or away from it."""
    moments = max(2, round(rng.uniform(9, 16) / options.seconds))
    first = rng.randrange(-moments // 2, max(1, options.frames - moments // 2))
    if rng.random() < 0.35:
        x = rng.uniform(0.1, 0.9)
        ends = [(x, FAR), (min(0.95, max(0.05, x + rng.gauss(0, 0.15))), NEAR)]
    else:
        depth = rng.uniform(FAR, NEAR)
        ends = [(-0.08, depth), (1.08, min(NEAR, max(FAR, depth + rng.gauss(0, 0.08))))]
    if rng.random() < 0.5:
        ends.reverse()
    return Walk(identity, track, ends[0], ends[1], first, moments, rng.uniform(0, math.tau))


def draw_frame(options: StreetOptions, camera: int, number: int, walks: list[Walk]) -> Frame:
    """Frame `number` (from 1) of a camera. walks: those past this camera."""
    there = [(walk, feet) for walk in walks if (feet := walk.feet(number - 1))]
    there.sort(key=lambda one: one[1][1])
    background, light_from, recording = scene_of(options, camera)
    canvas = Canvas(background.copy(), 1, light_from)
    rng = random.Random(f"street frame/{options.seed}/{camera}/{number}")
    covered = [paint_walker(canvas, options, walk, feet, number - 1, rng) for walk, feet in there]
    seen = [
        one
        for index, (walk, _) in enumerate(there)
        if (one := see(walk, covered[index], covered[index + 1 :], canvas.label))
    ]
    image = canvas.render((0, 0)).reduce(SCALE)
    return Frame(camera, number, expose(image, recording, rng), seen, recording.quality)


def scene_of(options: StreetOptions, camera: int) -> tuple[Image.Image, int, Camera]:
    """What stands behind the people of a camera, the side of the light, and how the camera records."""
    rng = random.Random(f"street camera/{options.seed}/{camera}")
    width, height = options.width * SCALE, options.height * SCALE
    return draw_background(rng, width, height), rng.choice((-1, 1)), sample_camera(rng, 0.6)


def draw_background(rng: random.Random, width: int, height: int) -> Image.Image:
    """House fronts above, a pavement and a road below."""
    image = Image.new("RGB", (width, height), dull(rng))
    draw, y, x = ImageDraw.Draw(image), HORIZON * height, -rng.uniform(0, 0.1) * width
    while x < width:
        front, end = dull(rng, 0.4, 0.85), x + rng.uniform(0.12, 0.3) * width
        draw.rectangle((x, 0, end, y), fill=front)
        draw_windows(draw, rng, x, end, y, dull(rng, 0.2, 0.95))
        x = end
    draw_ground(draw, rng, width, height, y, dull(rng, 0.4, 0.65, 0.08))
    kerb = y + rng.uniform(0.15, 0.35) * (height - y)
    draw.line((0, kerb, width, kerb), fill=dull(rng, 0.6, 0.9, 0.05), width=max(2, height // 120))
    return image.filter(ImageFilter.BoxBlur(SCALE))


def paint_walker(
    canvas: Canvas,
    options: StreetOptions,
    walk: Walk,
    feet: tuple[float, float],
    moment: int,
    rng: random.Random,
) -> np.ndarray:
    """Paint someone over what is there; returns where: bool [H, W] of the canvas."""
    person = person_of(options, walk.identity)
    width, height = canvas.size
    ground = (1 - HORIZON) * height * feet[1]
    unit = TALL * person.stature * ground
    x, foot = feet[0] * width, HORIZON * height + ground
    canvas.unit, before = unit, canvas.label.copy()
    paint_ground_shadow(canvas, x, foot, rng)
    canvas.label.paste(0, (0, 0, width, height))
    paint_person(canvas, person, Skeleton(person, walk.pose(moment, person), x, foot - 0.985 * unit, unit))
    own = canvas.label.point(lambda value: 255 if value else 0)
    before.paste(canvas.label, (0, 0), own)
    canvas.label.paste(before)
    return np.asarray(own) > 0


def see(walk: Walk, own: np.ndarray, in_front: list[np.ndarray], label: Image.Image) -> Seen | None:
    """What is seen of someone whose pixels are `own`; None where that is next to nothing."""
    rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
    if not len(rows):
        return None
    shown = own.copy()
    for other in in_front:
        shown &= ~other
    counts = np.bincount(np.asarray(label)[shown], minlength=len(ATTRIBUTES)) // SCALE**2
    if counts.sum() < MIN_PIXELS:
        return None
    box = (columns[0] // SCALE, rows[0] // SCALE, columns[-1] // SCALE + 1, rows[-1] // SCALE + 1)
    pixels = {name: int(count) for name, count in zip(ATTRIBUTES[1:], counts[1:], strict=False) if count}
    left, top, right, bottom = map(int, box)
    return Seen(walk, (left, top, right, bottom), float(shown.sum() / own.sum()), pixels)


def row_of(seen: Seen) -> dict[str, Any]:
    """Left, top, width and height in pixels, track and visible share, as files have them."""
    left, top, right, bottom = seen.box
    return {
        "left": left,
        "top": top,
        "width": right - left,
        "height": bottom - top,
        "track": seen.walk.track,
        "visible": round(seen.visible, 3),
    }
