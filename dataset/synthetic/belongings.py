"""Bags and the things held in a hand."""

from itertools import pairwise

from dataset.synthetic.canvas import Canvas, Point, Shape, box_shape, capsule, ellipse
from dataset.synthetic.colours import scaled
from dataset.synthetic.person import NUMBER, Person
from dataset.synthetic.pose import Joint, Skeleton

BAG_SIDE = "left"  # the hand and hip of a handbag, shopping bag, suitcase or shoulder bag
ITEM_SIDE = "right"
ITEM_WIDTHS = {"umbrella": 0.042, "phone": 0.03, "book": 0.075, "cup": 0.03}  # in body heights


def bag_box(canvas: Canvas, person: Person, centre: Joint, half_width: float, half_height: float, unit: float) -> None:
    """The body of a bag around `centre` with a flap line and a clasp; half sizes in body heights."""
    w, h = half_width * unit, half_height * unit
    shape = box_shape(centre.x - w, centre.y - h, centre.x + w, centre.y + h, 0.018 * unit)
    canvas.paint([shape], person.worn("bag"), NUMBER["bag"], soft=0.014)
    canvas.crease([(centre.x - w * 0.9, centre.y - h * 0.1), (centre.x + w * 0.9, centre.y - h * 0.1)], 90, 0.007)


def paint_back_bag(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """A backpack: full from behind, its depth from the side, its edges from the front."""
    if person.bag is None or person.bag.kind != "backpack":
        return
    s = skeleton
    centre = s.body(0, 0.305, -0.098)
    half = s.half(0.084, 0.05) / s.unit
    if s.facing > 0.3:
        half = s.half(s.chest_half + 0.02, 0.05) / s.unit
    bag_box(canvas, person, centre, half, 0.112, s.unit)
    if s.facing < -0.3:
        pocket = box_shape(
            centre.x - 0.05 * s.unit,
            centre.y + 0.02 * s.unit,
            centre.x + 0.05 * s.unit,
            centre.y + 0.085 * s.unit,
            0.01 * s.unit,
        )
        canvas.crease([*pocket, pocket[0]], 88, 0.007)
        handle = s.body(0, 0.188, -0.07)
        loop = ellipse(handle.x, handle.y, 0.018 * s.unit, 0.01 * s.unit)
        canvas.plain([loop], scaled(person.bag.rgb, 0.7), NUMBER["bag"])


def paint_straps(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """Backpack straps over the chest, or the strap of a shoulder bag across the body."""
    bag, s, unit = person.bag, skeleton, skeleton.unit
    if bag is None:
        return
    width = 0.0125 * unit
    if bag.kind == "backpack" and s.facing > -0.3:
        shapes: list[Shape] = []
        for side in (-1, 1):
            joints = [
                s.body(side * 0.062, 0.17, 0.02),
                s.body(side * 0.07, 0.27, 0.062),
                s.body(side * 0.09, 0.37, 0.03),
            ]
            if joints[1].depth > -0.02:
                shapes += [capsule(a.at, b.at, width, width) for a, b in pairwise(joints)]
        if shapes:
            canvas.paint(shapes, bag, NUMBER["bag"], soft=0.006)
    elif bag.kind == "shoulder bag":
        depth = 0.06 if s.facing > 0 else -0.06
        start, end = s.body(-0.07, 0.168, 0.0).at, s.body(0.1 * s.girth, 0.47, depth * 0.4).at
        middle = s.body(0.01, 0.31, depth).at
        strap = [capsule(start, middle, width, width), capsule(middle, end, width, width)]
        canvas.paint(strap, bag, NUMBER["bag"], soft=0.006)


def paint_front_bag(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """The body of a shoulder bag on the hip."""
    if person.bag is None or person.bag.kind != "shoulder bag":
        return
    s = skeleton
    centre = s.body(s.hip_half + 0.03, 0.515, 0.03 if s.facing > 0 else -0.03)
    if centre.depth < -0.05:  # behind the body
        return
    bag_box(canvas, person, centre, s.half(0.05, 0.072) / s.unit, 0.062, s.unit)


def paint_hand(canvas: Canvas, person: Person, skeleton: Skeleton, side: str, tone: float) -> None:
    """A hand and what it holds."""
    s, unit = skeleton, skeleton.unit
    wrist, elbow = s.wrist[side], s.elbow[side]
    reach = 0.02 * unit / max(1e-6, ((wrist.x - elbow.x) ** 2 + (wrist.y - elbow.y) ** 2) ** 0.5)
    hand = Joint(wrist.x + (wrist.x - elbow.x) * reach, wrist.y + (wrist.y - elbow.y) * reach, wrist.depth)
    canvas.paint([ellipse(hand.x, hand.y, 0.02 * unit, 0.022 * unit)], person.skin, NUMBER["skin"], tone)
    if side == BAG_SIDE and person.bag is not None:
        paint_held_bag(canvas, person, s, hand)
    if side == ITEM_SIDE and person.item is not None:
        paint_item(canvas, person, s, hand)


def paint_held_bag(canvas: Canvas, person: Person, skeleton: Skeleton, hand: Joint) -> None:
    """Handbag, shopping bag or suitcase at `hand`."""
    kind, unit = person.worn("bag").kind, skeleton.unit
    if kind == "suitcase":
        paint_suitcase(canvas, person, skeleton, hand)
    if kind not in ("handbag", "shopping bag"):
        return
    wide, high, drop = (0.062, 0.05, 0.11) if kind == "handbag" else (0.06, 0.075, 0.125)
    centre = Joint(hand.x, hand.y + drop * unit, hand.depth)
    thin, top = 0.006 * unit, centre.y - high * unit
    handles = [capsule(hand.at, (centre.x + side * 0.04 * unit, top), thin, thin) for side in (-1, 1)]
    canvas.paint(handles, person.worn("bag"), NUMBER["bag"], tone=0.8, soft=0.004)
    bag_box(canvas, person, centre, skeleton.half(wide, wide * 0.8) / unit, high, unit)


def paint_suitcase(canvas: Canvas, person: Person, skeleton: Skeleton, hand: Joint) -> None:
    """A suitcase that rolls on the ground on a drawn-out handle."""
    s, unit = skeleton, skeleton.unit
    top, floor = s.point(0, 0.7).y, s.point(0, 0.985).y
    body = Joint(hand.x + (0.03 * s.cos - 0.05 * s.sin) * unit, (top + floor) / 2, hand.depth)
    bar = capsule(hand.at, (body.x, top), 0.006 * unit, 0.006 * unit)
    canvas.plain([bar], (70, 70, 74), NUMBER["bag"])
    bag_box(canvas, person, body, s.half(0.056, 0.085) / unit, (floor - top) / 2 / unit, unit)


def paint_item(canvas: Canvas, person: Person, skeleton: Skeleton, hand: Joint) -> None:
    """Closed umbrella, phone, book or cup in `hand`."""
    item, number = person.worn("item"), NUMBER["item"]
    unit = skeleton.unit * skeleton.enlarged(ITEM_WIDTHS[item.kind])

    def near(x: float, y: float) -> Point:
        return hand.x + x * unit, hand.y + y * unit

    if item.kind == "umbrella":
        stick = capsule(near(0, -0.02), near(0, 0.03), 0.006 * unit, 0.006 * unit)
        cloth = capsule(near(0, 0.03), near(0.05 * skeleton.sin, 0.27), 0.026 * unit, 0.007 * unit)
        canvas.paint([stick, cloth], item, number, soft=0.01)
    elif item.kind == "phone":
        canvas.paint([box_shape(*near(-0.015, -0.038), *near(0.015, 0.008))], item, number, soft=0.004)
        canvas.plain([box_shape(*near(-0.01, -0.032), *near(0.01, 0))], (150, 190, 220), number)
    elif item.kind == "book":
        canvas.paint([box_shape(*near(-0.042, -0.055), *near(0.042, 0.02))], item, number, soft=0.006)
        canvas.crease([near(0, -0.055), near(0, 0.02)], 90, 0.006)
    else:
        cup = [near(-0.017, -0.042), near(0.017, -0.042), near(0.012, 0.012), near(-0.012, 0.012)]
        canvas.paint([cup], item, number, soft=0.006)
        canvas.crease([near(-0.015, -0.03), near(0.015, -0.03)], 80, 0.008)
