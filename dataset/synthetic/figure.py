"""Draws one person: legs, clothes, arms, then head and belongings, from far to near."""

from dataset.synthetic.belongings import paint_back_bag, paint_front_bag, paint_hand, paint_straps
from dataset.synthetic.canvas import Canvas, Point, Shape, box_shape, capsule, ellipse
from dataset.synthetic.colours import scaled
from dataset.synthetic.head import paint_head, paint_neck, paint_scarf
from dataset.synthetic.person import NUMBER, Person, Thing
from dataset.synthetic.pose import Skeleton

FAR = 0.85  # light on the limb away from the camera

# Leg widths as radii at hip, knee and ankle, in body heights.
LEG_WIDTHS = {
    "jeans": (0.051, 0.038, 0.03),
    "trousers": (0.053, 0.044, 0.038),
    "shorts": (0.055, 0.05, 0.0),
    "leggings": (0.047, 0.031, 0.021),
}
BARE_LEG = (0.044, 0.03, 0.02)
HEM = {
    "t-shirt": 0.52,
    "shirt": 0.54,
    "jacket": 0.53,
    "coat": 0.7,
    "hoodie": 0.535,
    "sweater": 0.525,
    "vest": 0.51,
    "blouse": 0.52,
}
SLACK = {"jacket": 0.012, "coat": 0.016, "hoodie": 0.013, "sweater": 0.008, "vest": 0.009, "blouse": 0.006}


def paint_person(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """Paint `person` on all layers of `canvas`, parts away from the camera first."""
    shows_back = skeleton.facing < -0.3
    far, near = skeleton.far_first()
    if not shows_back:
        paint_back_bag(canvas, person, skeleton)
    paint_arm(canvas, person, skeleton, far, behind=True)
    paint_arm(canvas, person, skeleton, near, behind=True)
    for side, tone in ((far, FAR), (near, 1.0)):
        paint_leg(canvas, person, skeleton, side, tone)
    paint_neck(canvas, person, skeleton)
    paint_lower_body(canvas, person, skeleton)
    paint_torso(canvas, person, skeleton)
    paint_straps(canvas, person, skeleton)
    if shows_back:
        paint_back_bag(canvas, person, skeleton)
    paint_scarf(canvas, person, skeleton)
    paint_head(canvas, person, skeleton)
    paint_front_bag(canvas, person, skeleton)
    for side in (far, near):
        paint_arm(canvas, person, skeleton, side, behind=False)


def paint_leg(canvas: Canvas, person: Person, skeleton: Skeleton, side: str, tone: float) -> None:
    """One leg with its shoe; the skin shows where the lower garment ends."""
    unit = skeleton.unit
    hip, knee, ankle = skeleton.hip[side].at, skeleton.knee[side].at, skeleton.ankle[side].at
    lower = person.lower
    kind = lower.kind if lower else "dress"
    widths = LEG_WIDTHS.get(kind)
    if widths is None or widths[2] == 0:
        thigh, calf, thin = (w * unit * skeleton.girth for w in BARE_LEG)
        shapes = [capsule(hip, knee, thigh, calf), capsule(knee, ankle, calf * 1.1, thin)]
        canvas.paint(shapes, person.skin, NUMBER["skin"], tone)
    paint_shoe(canvas, person, skeleton, side, tone)
    if widths is None:
        return
    thigh, calf, thin = (w * unit * (0.5 + 0.5 * skeleton.girth) for w in widths)
    shapes = [capsule(hip, knee, thigh, calf)]
    if thin:
        shapes.append(capsule(knee, ankle, calf, thin))
    canvas.paint(shapes, person.worn("lower"), NUMBER["lower"], tone)
    if kind == "jeans":
        canvas.crease([hip, knee, ankle], 108, 0.004)


def paint_shoe(canvas: Canvas, person: Person, skeleton: Skeleton, side: str, tone: float) -> None:
    """Sneakers have a pale sole, boots a shaft, sandals straps over the bare foot."""
    unit, shoes, number = skeleton.unit * skeleton.enlarged(0.054), person.shoes, NUMBER["shoes"]
    heel, toe, ankle = skeleton.heel[side].at, skeleton.toe[side].at, skeleton.ankle[side].at
    foot = [capsule(heel, toe, 0.032 * unit, 0.027 * unit)]
    sole_y = 0.02 * unit
    sole = capsule((heel[0], heel[1] + sole_y), (toe[0], toe[1] + sole_y * 0.8), 0.01 * unit, 0.01 * unit)
    if shoes.kind == "sandals":
        canvas.paint(foot, person.skin, NUMBER["skin"], tone)
        middle = ((heel[0] + toe[0]) / 2, (heel[1] + toe[1]) / 2)
        straps = [
            capsule((p[0] - 0.02 * unit, p[1]), (p[0] + 0.02 * unit, p[1]), 0.009 * unit, 0.009 * unit)
            for p in (middle, (ankle[0], ankle[1] + 0.004 * unit))
        ]
        canvas.paint([*straps, sole], shoes, number, tone, soft=0.006)
        return
    if shoes.kind == "boots":
        knee = skeleton.knee[side].at
        shaft = (ankle[0] + (knee[0] - ankle[0]) * 0.42, ankle[1] + (knee[1] - ankle[1]) * 0.42)
        foot.append(capsule(shaft, ankle, 0.036 * unit, 0.032 * unit))
    canvas.paint(foot, shoes, number, tone, soft=0.01)
    if shoes.kind == "sneakers":
        canvas.crease([(heel[0], heel[1] + sole_y), (toe[0], toe[1] + sole_y)], 168, 0.008)
    elif shoes.kind == "dress shoes":
        canvas.crease([(heel[0], heel[1] - 0.01 * unit), (toe[0], toe[1] - 0.006 * unit)], 170, 0.005)


def outline(skeleton: Skeleton, rows: list[tuple[float, float, float]]) -> Shape:
    """A shape symmetric to the body axis from (height, half width, half depth) rows, top to bottom."""
    left, right = [], []
    for y, wide, deep in rows:
        axis = skeleton.body(0, y)
        half = skeleton.half(wide, deep)
        left.append((axis.x - half, axis.y))
        right.append((axis.x + half, axis.y))
    return left + right[::-1]


def torso_rows(skeleton: Skeleton, hem: float, slack: float, flare: float = 0.0) -> list[tuple[float, float, float]]:
    """Rows of a garment from the neck to `hem`."""
    s = skeleton
    deep = 0.066 * s.girth + slack
    rows = [
        (0.152, 0.036, 0.036),
        (0.172, s.shoulder_half * 0.8, 0.05),
        (0.195, s.shoulder_half + slack * 0.5, 0.058 + slack),
        (0.27, s.chest_half + slack, deep + 0.006),
        (0.41, s.waist_half + slack, deep * 0.92),
        (min(hem, 0.5), s.hip_half + slack + flare * 0.5, deep + 0.004),
    ]
    if hem > 0.5:
        rows.append((hem, s.hip_half + slack + flare, deep + 0.004 + flare))
    return rows


def paint_lower_body(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """What hangs from the waist: seat of trousers, skirt or the lower half of a dress."""
    if person.dress is not None:
        return
    lower, s = person.worn("lower"), skeleton
    spread = 0.5 * abs(s.knee["left"].x - s.knee["right"].x) / s.unit
    deep = 0.068 * s.girth
    rows = [(0.42, s.waist_half, deep * 0.95), (0.5, s.hip_half, deep)]
    if lower.kind in ("skirt", "long skirt"):
        hem, flare = (0.69, 0.028) if lower.kind == "skirt" else (0.9, 0.045)
        if lower.kind == "long skirt":
            spread = 0.4 * abs(s.ankle["left"].x - s.ankle["right"].x) / s.unit
        reach = max(s.hip_half + flare, spread + 0.04)
        rows.append((hem, reach, max(deep + flare, spread + 0.04)))
    else:
        rows.append((0.535, s.hip_half * 0.92, deep * 0.9))
    canvas.paint([outline(s, rows)], lower, NUMBER["lower"])


def paint_torso(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """Dress, inner shirt and upper garment with what tells its kind."""
    if person.dress is not None:
        paint_dress(canvas, person, skeleton)
    upper = person.upper
    if upper is None:
        return
    slack = SLACK.get(upper.kind, 0.003)
    flare = {"coat": 0.022, "blouse": 0.016}.get(upper.kind, 0.0)
    rows = torso_rows(skeleton, HEM[upper.kind], slack, flare)
    canvas.paint([outline(skeleton, rows)], upper, NUMBER["upper"], soft=0.026)
    front = skeleton.facing > 0.25
    if person.upper_open and front:
        paint_opening(canvas, person, skeleton)
    elif front:
        paint_front(canvas, person, skeleton)
    if upper.kind in ("sweater", "hoodie", "jacket"):
        hem = outline(skeleton, [(HEM[upper.kind] - 0.014, rows[-1][1], rows[-1][2])])
        canvas.crease([hem[0], hem[1]], 100)
    if upper.kind in ("hoodie", "coat") and not front:
        paint_hood_on_back(canvas, person, skeleton)
    if upper.kind == "vest":
        for y in (0.27, 0.34, 0.41):
            row = outline(skeleton, [(y, skeleton.waist_half * 0.95, 0.05)])
            canvas.crease([row[0], row[1]], 100, 0.005)


def paint_dress(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """A fitted top and a flared skirt in one."""
    s = skeleton
    spread = 0.5 * abs(s.knee["left"].x - s.knee["right"].x) / s.unit
    reach = max(s.hip_half + 0.045, spread + 0.045)
    rows = [*torso_rows(s, 0.5, 0.003), (0.73, reach, max(0.1, spread + 0.045))]
    canvas.paint([outline(s, rows)], person.worn("dress"), NUMBER["dress"], soft=0.026)
    waist = outline(s, [(0.42, s.waist_half, 0.058)])
    canvas.crease([waist[0], waist[1]], 92, 0.008)


def paint_opening(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """The inner shirt (or the dress) seen between the two halves of an open garment."""
    inner, number = person.inner, NUMBER["inner"]
    hem = 0.515
    if inner is None:
        inner, number, hem = person.worn("dress"), NUMBER["dress"], HEM["jacket"]
    y0, deep = 0.16, 0.055
    left = [(-0.024, y0), (-0.042, 0.24), (-0.046, hem)]
    corners = left + [(-x, y) for x, y in left[::-1]]
    strip = [skeleton.body(x, y, deep).at for x, y in corners]
    canvas.paint([strip], inner, number)
    canvas.crease(strip[:3], 84, 0.007)
    canvas.crease(strip[3:], 84, 0.007)


def paint_front(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """Neck line, buttons, zip, pocket, collar and logo of a closed upper garment."""
    upper, s = person.worn("upper"), skeleton

    def at(x: float, y: float) -> Point:
        return s.body(x, y, 0.06).at

    if upper.kind in ("t-shirt", "sweater", "blouse"):
        deep = 0.2 if upper.kind == "blouse" else 0.182
        neck = [at(-0.032, 0.15), at(0, deep), at(0.032, 0.15)]
        canvas.paint([neck], person.skin, NUMBER["skin"], soft=0.008)
    if upper.kind in ("shirt", "jacket", "coat", "vest"):
        canvas.crease([at(0, 0.18), at(0, HEM[upper.kind] - 0.01)], 84, 0.007)
    if upper.kind in ("shirt", "coat"):
        rgb = scaled(upper.rgb, 1.12)
        for sign in (-1, 1):
            collar = [at(0, 0.182), at(sign * 0.035, 0.15), at(sign * 0.05, 0.195)]
            canvas.plain([collar], rgb, NUMBER["upper"], shade=116)
    if upper.kind in ("jacket", "coat"):
        for sign in (-1, 1):
            canvas.crease([at(sign * 0.05, 0.43), at(sign * 0.065, 0.48)], 84, 0.007)
    if upper.kind == "hoodie":
        pocket = [at(-0.05, 0.41), at(0.05, 0.41), at(0.068, 0.49), at(-0.068, 0.49), at(-0.05, 0.41)]
        canvas.crease(pocket, 92, 0.007)
        for sign in (-1, 1):
            canvas.crease([at(sign * 0.014, 0.18), at(sign * 0.018, 0.25)], 175, 0.006)
    if upper.pattern == "logo":
        paint_logo(canvas, upper, skeleton)


def paint_logo(canvas: Canvas, upper: Thing, skeleton: Skeleton) -> None:
    """A round or square print on the chest in the second colour; it belongs to the garment's mask."""
    unit, centre = skeleton.unit, skeleton.body(0, 0.285, 0.06)
    x, y, half = centre.x, centre.y, skeleton.half(0.046, 0.01)
    if upper.kind == "t-shirt":
        shape = ellipse(x, y, half, 0.04 * unit)
    else:
        shape = box_shape(x - half, y - 0.03 * unit, x + half, y + 0.03 * unit)
    canvas.paint(
        [shape], Thing("logo", upper.second or upper.colour, upper.second_rgb or upper.rgb), NUMBER["upper"], soft=0.008
    )


def paint_hood_on_back(canvas: Canvas, person: Person, skeleton: Skeleton) -> None:
    """A hood hanging down, seen from behind or from the side."""
    if person.headwear is not None and person.headwear.kind == "hood":
        return
    axis = skeleton.body(0, 0.185, -0.05)
    hood = ellipse(axis.x, axis.y, 0.06 * skeleton.unit, 0.034 * skeleton.unit)
    canvas.paint([hood], person.worn("upper"), NUMBER["upper"], tone=0.88)


def sleeve_of(person: Person) -> tuple[Thing | None, str]:
    """The garment that covers the arms and its attribute name; None for bare arms."""
    upper = person.upper
    if upper is not None and upper.kind == "vest" and person.inner is not None:
        return person.inner, "inner"
    if person.sleeves == "none":
        return None, "skin"
    return (person.dress, "dress") if upper is None else (upper, "upper")


def paint_arm(canvas: Canvas, person: Person, skeleton: Skeleton, side: str, behind: bool) -> None:
    """One arm with hand and what it holds, if it lies `behind` (or before) the torso."""
    lies_behind = skeleton.elbow[side].depth < -0.02
    if lies_behind != behind:
        return
    tone, details = FAR if behind else 1.0, skeleton.smallest > 0
    if not details:
        paint_hand(canvas, person, skeleton, side, tone)
    paint_sleeve(canvas, person, skeleton, side, tone)
    if details:  # a bent arm must not hide what it holds
        paint_hand(canvas, person, skeleton, side, tone)


def paint_sleeve(canvas: Canvas, person: Person, skeleton: Skeleton, side: str, tone: float) -> None:
    """One arm without its hand, and the sleeve over it."""
    unit = skeleton.unit
    shoulder, elbow, wrist = (j[side].at for j in (skeleton.shoulder, skeleton.elbow, skeleton.wrist))
    arm = [
        capsule(shoulder, elbow, 0.026 * unit, 0.021 * unit),
        capsule(elbow, wrist, 0.02 * unit, 0.015 * unit),
    ]
    garment, attribute = sleeve_of(person)
    inner_short = attribute == "inner" and garment is not None and garment.kind == "t-shirt"
    short = inner_short or (garment is not None and person.sleeves == "short")
    if garment is None or short:
        canvas.paint(arm, person.skin, NUMBER["skin"], tone)
    if garment is None:
        return
    thick = (0.036 + 0.5 * SLACK.get(garment.kind, 0.0)) * unit
    if short:
        end = (shoulder[0] + (elbow[0] - shoulder[0]) * 0.8, shoulder[1] + (elbow[1] - shoulder[1]) * 0.8)
        sleeve = [capsule(shoulder, end, thick, thick * 0.92)]
    else:
        sleeve = [
            capsule(shoulder, elbow, thick, thick * 0.85),
            capsule(elbow, wrist, thick * 0.85, thick * 0.66),
        ]
    canvas.paint(sleeve, garment, NUMBER[attribute], tone)
