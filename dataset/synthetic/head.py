"""Head, face, hair, headwear, glasses and scarf."""

import math

from dataset.synthetic.canvas import Canvas, Shape, box_shape, capsule, ellipse
from dataset.synthetic.person import NUMBER, Person
from dataset.synthetic.pose import Skeleton

HEAD_Y, HEAD_RX, HEAD_RY = 0.078, 0.051, 0.07


def paint_neck(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """The neck, and long hair that falls behind the shoulders of someone facing the camera."""
    s = skeleton
    if person.hair.kind in ("long", "medium") and s.facing > -0.3 and not hooded(person):
        length = 0.27 if person.hair.kind == "long" else 0.165
        axis = s.body(0, 0.0, -0.03)
        half = (HEAD_RX + 0.016) * s.unit
        shape = [
            (axis.x - half * 0.8, s.body(0, 0.05).y),
            (axis.x + half * 0.8, s.body(0, 0.05).y),
            (axis.x + half, s.body(0, length).y),
            (axis.x - half, s.body(0, length).y),
        ]
        canvas.paint([shape], person.hair, NUMBER["hair"], tone=0.85)
    top, base = s.body(0, 0.12, 0.004).at, s.body(0, 0.175).at
    canvas.paint([capsule(top, base, 0.03 * s.unit, 0.036 * s.unit)], person.skin, NUMBER["skin"], tone=0.85)


def hooded(person: Person) -> bool:
    """Whether a hood covers the hair."""
    return person.headwear is not None and person.headwear.kind == "hood"


def paint_head(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """Skull, face and everything on them; what the turned head hides is not drawn."""
    s, unit = skeleton, skeleton.unit
    head = s.body(0, HEAD_Y, 0.008)
    skull = ellipse(head.x, head.y, HEAD_RX * unit, HEAD_RY * unit)
    bald = person.hair.kind == "bald"
    canvas.paint([skull], person.skin, NUMBER["skin"])
    for side in (-1, 1):
        ear = s.body(side * 0.05, HEAD_Y + 0.008)
        if ear.depth > -0.03:
            canvas.paint([ellipse(ear.x, ear.y, 0.009 * unit, 0.015 * unit)], person.skin, NUMBER["skin"], 0.92)
    if s.facing > -0.45:
        paint_features(canvas, person, s)
    if bald:
        # A bald head is named for its scalp, so the part above the brow is the hair's mask.
        canvas.plain([scalp(s)], person.skin.rgb, NUMBER["hair"], shade=142)
    elif not hooded(person):
        paint_hair(canvas, person, s)
    paint_glasses(canvas, person, s)
    paint_headwear(canvas, person, s)


def brow_y(skeleton: Skeleton) -> float:
    """How far down hair reaches on the visible side of the head, in body heights."""
    return 0.052 if skeleton.facing > -0.3 else 0.125


def scalp(skeleton: Skeleton, grow: float = 0.0, brow: float | None = None) -> Shape:
    """The skull above the brow line: level at a given `brow`, else sloping down to the back of the head."""
    s, unit = skeleton, skeleton.unit
    head = s.body(0, HEAD_Y, 0.008)
    rx, ry = (HEAD_RX + grow) * unit, (HEAD_RY + grow) * unit
    slope = 0.0
    if brow is None:
        # In profile the line runs from the forehead (front) to the neck (back).
        slope = 0.052 * s.sin if s.facing > -0.3 else 0.0
        brow = brow_y(s)
    points = []
    for x, y in ellipse(head.x, head.y, rx, ry):
        limit = s.body(0, brow).y - slope * unit * (x - head.x) / rx + abs(slope) * 0.3 * unit
        if y > limit:
            # Stay inside the skull at the new height, or the brow line would stick out.
            y = limit
            inside = rx * math.sqrt(max(0.0, 1 - ((y - head.y) / ry) ** 2))
            x = min(max(x, head.x - inside), head.x + inside)
        points.append((x, y))
    return points


def paint_features(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """Eyes, brows, nose and mouth on the turned face."""
    s, unit = skeleton, skeleton.unit
    dark = (36, 28, 26)
    for side in (-1, 1):
        eye = s.body(side * 0.02, HEAD_Y - 0.002, 0.05)
        if eye.depth > 0.005:
            canvas.plain([ellipse(eye.x, eye.y, 0.0065 * unit, 0.0045 * unit)], dark)
            half, above = 0.009 * unit, eye.y - 0.011 * unit
            canvas.crease([(eye.x - half, above), (eye.x + half, above)], 70, 0.004)
    nose, mouth = s.body(0, HEAD_Y + 0.018, 0.057), s.body(0, HEAD_Y + 0.039, 0.045)
    canvas.crease([(nose.x, nose.y - 0.012 * unit), nose.at], 106, 0.005)
    half = 0.014 * unit * max(0.3, s.facing)
    canvas.plain([box_shape(mouth.x - half, mouth.y, mouth.x + half, mouth.y + 0.005 * unit)], (150, 74, 70))


def paint_hair(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """Cap of hair and what makes the style."""
    s, unit, number, hair = skeleton, skeleton.unit, NUMBER["hair"], person.hair
    away = s.facing < -0.3
    grow = 0.018 if hair.kind == "curly" else 0.006
    shapes = [scalp(s, grow + 0.058 * (s.enlarged(0.058) - 1))]
    if hair.kind == "curly":
        head = s.body(0, HEAD_Y - 0.02)
        ring = [(math.cos(a), math.sin(a)) for a in (math.pi * k / 7 for k in range(8))]
        shapes += [
            ellipse(head.x + c * 0.055 * unit, head.y - v * 0.055 * unit, 0.022 * unit, 0.022 * unit) for c, v in ring
        ]
    if hair.kind in ("long", "medium"):
        shapes += hanging_hair(s, 0.28 if hair.kind == "long" else 0.165, away)
    if hair.kind == "bun":
        knot = s.body(0, 0.0, -0.034)
        shapes.append(ellipse(knot.x, knot.y + 0.006 * unit, 0.031 * unit, 0.029 * unit))
    if hair.kind == "ponytail" and s.facing < 0.45:
        root, bend, tip = s.body(0, 0.06, -0.05).at, s.body(0, 0.13, -0.085).at, s.body(0, 0.27, -0.075).at
        shapes += [
            capsule(root, bend, 0.018 * unit, 0.026 * unit),
            capsule(bend, tip, 0.026 * unit, 0.009 * unit),
        ]
    canvas.paint(shapes, hair, number)


def hanging_hair(skeleton: Skeleton, length: float, away: bool) -> list[Shape]:
    """Locks beside the face, or a curtain of hair over the back."""
    s, unit = skeleton, skeleton.unit
    if away:
        top, end = s.body(0, 0.07), s.body(0, length)
        half = (HEAD_RX + 0.012) * unit
        return [
            [
                (top.x - half * 0.9, top.y),
                (top.x + half * 0.9, top.y),
                (end.x + half, end.y),
                (end.x, end.y + 0.012 * unit),
                (end.x - half, end.y),
            ]
        ]
    locks = []
    # On a turned head the lock of the hidden side would cross the face.
    sides = (-1, 1) if abs(s.sin) < 0.35 else (1 if s.sin < 0 else -1,)
    for side in sides:
        top, end = s.body(side * 0.05, 0.05, -0.012), s.body(side * 0.06, length - 0.02, -0.012)
        locks.append(capsule(top.at, end.at, 0.014 * unit, 0.014 * unit))
    if abs(s.sin) > 0.35:
        top, end = s.body(0, 0.07, -0.035), s.body(0, length - 0.01, -0.045)
        locks.append(capsule(top.at, end.at, 0.03 * unit, 0.024 * unit))
    return locks


def paint_glasses(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """Two lenses and a bridge; sunglasses are filled."""
    s, unit, glasses = skeleton, skeleton.unit, person.glasses
    if glasses is None or s.facing < -0.3:
        return
    shapes = []
    centres = [s.body(side * 0.021, HEAD_Y - 0.001, 0.052) for side in (-1, 1)]
    size = (0.018, 0.014) if glasses.kind == "sunglasses" else (0.0155, 0.0125)
    larger = s.enlarged(2 * size[1])
    size = (size[0] * larger, size[1] * larger)
    for lens in centres:
        if lens.depth > -0.01:
            shapes.append(ellipse(lens.x, lens.y, size[0] * unit * max(0.5, s.facing), size[1] * unit))
    temple = s.body(0.05 if s.sin < 0 else -0.05, HEAD_Y - 0.004, 0.0)
    bar = [capsule(centres[0].at, centres[1].at, 0.004 * unit, 0.004 * unit)]
    if abs(s.sin) > 0.4 and temple.depth > 0:
        bar.append(capsule(temple.at, centres[0 if s.sin > 0 else 1].at, 0.004 * unit, 0.004 * unit))
    if shapes:
        canvas.paint(shapes + bar, glasses, NUMBER["glasses"], soft=0.004)
    if glasses.kind == "glasses":
        for shape in shapes:
            x, y = sum(p[0] for p in shape) / len(shape), sum(p[1] for p in shape) / len(shape)
            inside = [(x + (px - x) * 0.6, y + (py - y) * 0.6) for px, py in shape]
            canvas.plain([inside], (206, 216, 222), NUMBER["glasses"])


def paint_headwear(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """Cap, beanie, hat or hood."""
    s, unit, wear = skeleton, skeleton.unit, person.headwear
    if wear is None:
        return
    number = NUMBER["headwear"]
    if wear.kind == "hood":
        paint_hood(canvas, person, s)
        return
    edge = s.body(0, 0.05)
    taller = 0.058 * (s.enlarged(0.058) - 1)
    canvas.paint([scalp(s, grow=0.012 + taller, brow=0.046)], wear, number)
    if wear.kind == "cap":
        front = s.body(0, 0.049, 0.05)
        tip = s.body(0, 0.056, 0.098)
        if s.facing > -0.4:
            brim = capsule(front.at, tip.at, 0.02 * unit + 0.026 * unit * abs(s.facing), 0.016 * unit)
            flat = [(x, edge.y + (y - edge.y) * 0.45) for x, y in brim]
            canvas.paint([flat], wear, number, tone=0.85, soft=0.006)
    elif wear.kind == "beanie":
        half = (HEAD_RX + 0.015) * unit
        fold = box_shape(edge.x - half, edge.y - 0.016 * unit, edge.x + half, edge.y + 0.008 * unit, 0.006 * unit)
        canvas.paint([fold], wear, number, tone=0.88, soft=0.008)
        top = s.body(0, 0.0)
        canvas.paint([ellipse(top.x, top.y - 0.01 * unit, 0.016 * unit, 0.016 * unit)], wear, number)
    else:
        canvas.paint([ellipse(edge.x, edge.y, 0.098 * unit, 0.019 * unit)], wear, number, tone=0.92, soft=0.008)
        half, above = 0.055 * unit, edge.y - 0.016 * unit
        canvas.crease([(edge.x - half, above), (edge.x + half, above)], 70, 0.012)


def paint_hood(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """A hood pulled up: a rim around the face, or the whole head from behind."""
    s, unit, wear = skeleton, skeleton.unit, person.worn("headwear")
    head = s.body(0, HEAD_Y + 0.004)
    outer = ellipse(head.x, head.y, (HEAD_RX + 0.018) * unit, (HEAD_RY + 0.018) * unit)
    if s.facing < -0.3:
        canvas.paint([outer], wear, NUMBER["headwear"])
        return
    face = s.body(0, HEAD_Y + 0.01, 0.052)
    rx, ry = 0.038 * unit * (0.45 + 0.55 * max(0.0, s.facing)), 0.054 * unit
    inner = ellipse(face.x, face.y, rx, ry)
    # A ring as one polygon: around the outside, then back around the face.
    canvas.paint([[*outer, outer[0], inner[0], *inner[::-1]]], wear, NUMBER["headwear"])


def paint_scarf(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """A loop around the neck and, from the front, a hanging end."""
    s, unit = skeleton, skeleton.unit
    if person.scarf is None:
        return
    neck = s.body(0, 0.163, 0.01)
    larger = s.enlarged(0.042)
    shapes = [ellipse(neck.x, neck.y, 0.058 * unit, 0.03 * larger * unit)]
    if s.facing > -0.2:
        start, end = s.body(0.022, 0.17, 0.06).at, s.body(0.03, 0.34, 0.065).at
        shapes.append(capsule(start, end, 0.021 * larger * unit, 0.023 * larger * unit))
    canvas.paint(shapes, person.scarf, NUMBER["scarf"])
