"""What surrounds the person: backgrounds behind and things in front."""

import colorsys
import random

from PIL import Image, ImageDraw, ImageFilter

from dataset.synthetic.canvas import Canvas, box_shape, capsule, ellipse
from dataset.synthetic.colours import RGB, scaled
from dataset.synthetic.person import Thing

OCCLUDERS = ("pole", "bench", "bin", "car", "sign", "railing", "bush")


def dull(rng: random.Random, low: float = 0.3, high: float = 0.85, saturation: float = 0.22, hue: float = -1) -> RGB:
    """A muted colour, so that the scene rarely outshines the clothes."""
    turn = rng.random() if hue < 0 else hue + rng.uniform(-0.03, 0.03)
    red, green, blue = colorsys.hsv_to_rgb(turn % 1, rng.uniform(0, saturation), rng.uniform(low, high))
    return round(red * 255), round(green * 255), round(blue * 255)


def paint_background(rng: random.Random, width: int, height: int, scale: int) -> Image.Image:
    """A scene [height * scale, width * scale]; drawn small and enlarged, so it is a little out of focus."""
    image = Image.new("RGB", (width, height), dull(rng))
    draw = ImageDraw.Draw(image)
    horizon = rng.uniform(0.3, 0.8) * height
    draw_scene = rng.choice((draw_street, draw_wall, draw_park, draw_indoor, draw_plaza))
    draw_scene(draw, rng, width, height, horizon)
    for _ in range(rng.randrange(3)):
        draw_distant_person(draw, rng, width, height, horizon)
    return image.filter(ImageFilter.BoxBlur(1)).resize((width * scale, height * scale), Image.Resampling.BILINEAR)


def draw_ground(draw: ImageDraw.ImageDraw, rng: random.Random, width: int, height: int, y: float, rgb: RGB) -> None:
    """Ground that gets lighter with distance, in six bands."""
    for k in range(6):
        top = y + (height - y) * (k / 6) ** 1.5
        draw.rectangle((0, top, width, height), fill=scaled(rgb, 1.08 - 0.035 * k))


def draw_street(draw: ImageDraw.ImageDraw, rng: random.Random, width: int, height: int, y: float) -> None:
    """House fronts with windows, a pavement and a road line."""
    x = -rng.uniform(0, 0.4) * width
    while x < width:
        front = dull(rng, 0.35, 0.85)
        end = x + rng.uniform(0.4, 0.9) * width
        draw.rectangle((x, 0, end, y), fill=front)
        draw_windows(draw, rng, x, end, y, scaled(front, rng.choice((0.6, 1.25))))
        x = end
    draw_ground(draw, rng, width, height, y, dull(rng, 0.35, 0.6, 0.08))
    if rng.random() < 0.6:
        slope = rng.uniform(-0.4, 0.4) * width
        line = rng.uniform(0, width)
        draw.line((line, y, line + slope, height), fill=(214, 212, 200), width=max(1, width // 24))


def draw_windows(
    draw: ImageDraw.ImageDraw, rng: random.Random, left: float, right: float, bottom: float, rgb: RGB
) -> None:
    """A grid of windows on a house front."""
    step_x, step_y = max(6, (right - left) / rng.randint(2, 4)), max(8, bottom / rng.randint(2, 4))
    row = 0.25 * step_y
    while row < bottom - 0.5 * step_y:
        column = left + 0.25 * step_x
        while column < right - 0.5 * step_x:
            draw.rectangle((column, row, column + 0.5 * step_x, row + 0.55 * step_y), fill=rgb)
            column += step_x
        row += step_y


def draw_wall(draw: ImageDraw.ImageDraw, rng: random.Random, width: int, height: int, y: float) -> None:
    """A brick, panelled or plain wall."""
    wall = dull(rng, 0.4, 0.9, 0.35, hue=rng.choice((0.05, 0.1, 0.6)))
    draw.rectangle((0, 0, width, height), fill=wall)
    step = rng.choice((height // 28, height // 16, height // 5)) + 2
    joint = scaled(wall, rng.choice((0.86, 1.1)))
    for row, top in enumerate(range(0, height, step)):
        draw.line((0, top, width, top), fill=joint)
        for x in range((row % 2) * step, width, 2 * step):
            draw.line((x, top, x, top + step), fill=joint)
    draw_ground(draw, rng, width, height, max(y, 0.62 * height), dull(rng, 0.35, 0.65, 0.1))


def draw_park(draw: ImageDraw.ImageDraw, rng: random.Random, width: int, height: int, y: float) -> None:
    """Sky, trees, grass and maybe a path."""
    draw.rectangle((0, 0, width, y), fill=dull(rng, 0.75, 0.95, 0.25, hue=0.57))
    for _ in range(rng.randint(3, 7)):
        x, size = rng.uniform(0, width), rng.uniform(0.15, 0.4) * width
        top = y - rng.uniform(0.3, 1.0) * y * 0.8
        draw.rectangle((x - size * 0.08, top, x + size * 0.08, y), fill=dull(rng, 0.2, 0.35, 0.4, hue=0.08))
        draw.ellipse((x - size, top - size, x + size, top + size * 0.9), fill=dull(rng, 0.25, 0.5, 0.5, hue=0.3))
    draw_ground(draw, rng, width, height, y, dull(rng, 0.35, 0.58, 0.5, hue=0.27))
    if rng.random() < 0.5:
        x = rng.uniform(0.2, 0.8) * width
        path = [(x - 0.08 * width, y), (x + 0.08 * width, y), (width * 0.95, height), (width * 0.05, height)]
        draw.polygon(path, fill=dull(rng, 0.5, 0.7, 0.15))


def draw_indoor(draw: ImageDraw.ImageDraw, rng: random.Random, width: int, height: int, y: float) -> None:
    """A corridor or shop: shelves or doors, a shiny tiled floor, ceiling lights."""
    wall = dull(rng, 0.55, 0.95, 0.12)
    draw.rectangle((0, 0, width, y), fill=wall)
    for _ in range(rng.randint(1, 3)):
        x, wide = rng.uniform(-0.1, 0.9) * width, rng.uniform(0.15, 0.5) * width
        top = rng.uniform(0.05, 0.5) * y
        draw.rectangle((x, top, x + wide, y), fill=dull(rng, 0.25, 0.8, 0.3))
        for shelf in range(1, rng.randint(1, 5)):
            level = top + (y - top) * shelf / 5
            draw.line((x, level, x + wide, level), fill=scaled(wall, 0.7), width=max(1, height // 90))
    floor = dull(rng, 0.5, 0.85, 0.12)
    draw_ground(draw, rng, width, height, y, floor)
    middle = rng.uniform(0, 1) * width
    for k in range(-4, 5):
        draw.line((middle + k * width * 0.1, y, middle + k * width * 0.5, height), fill=scaled(floor, 0.85))
    for k in range(1, 5):
        level = y + (height - y) * (k / 5) ** 1.6
        draw.line((0, level, width, level), fill=scaled(floor, 0.85))


def draw_plaza(draw: ImageDraw.ImageDraw, rng: random.Random, width: int, height: int, y: float) -> None:
    """Seen from above, as by a camera on a pole: ground all over, with a kerb or a crossing."""
    ground = dull(rng, 0.35, 0.75, 0.14)
    draw.rectangle((0, 0, width, height), fill=ground)
    tilt = rng.uniform(-0.3, 0.3) * height
    if rng.random() < 0.5:
        stripe = max(3, height // 16)
        for k in range(0, 2 * height, 2 * stripe):
            band = [(0, k), (width, k + tilt), (width, k + tilt + stripe), (0, k + stripe)]
            draw.polygon(band, fill=scaled(ground, 1.25))
    else:
        draw.polygon([(0, y), (width, y + tilt), (width, height), (0, height)], fill=scaled(ground, 0.82))
        draw.line((0, y, width, y + tilt), fill=scaled(ground, 1.2), width=max(1, height // 70))


def draw_distant_person(draw: ImageDraw.ImageDraw, rng: random.Random, width: int, height: int, horizon: float) -> None:
    """A small blurred figure far behind."""
    tall = rng.uniform(0.12, 0.26) * height
    x, foot = rng.uniform(0, width), horizon + rng.uniform(0.1, 0.5) * tall
    wide = tall * 0.13
    draw.rectangle((x - wide, foot - tall * 0.85, x + wide, foot - tall * 0.45), fill=dull(rng, 0.15, 0.8, 0.5))
    draw.rectangle((x - wide * 0.8, foot - tall * 0.45, x + wide * 0.8, foot), fill=dull(rng, 0.15, 0.6, 0.3))
    draw.ellipse((x - wide * 0.5, foot - tall, x + wide * 0.5, foot - tall * 0.84), fill=(140, 104, 84))


def paint_ground_shadow(canvas: Canvas, x: float, y: float, rng: random.Random) -> None:
    """A soft patch of shade under the feet, leaning away from the light."""
    unit = canvas.unit
    lean = -canvas.light_from * rng.uniform(0.02, 0.12)
    for grow, shade in ((1.0, 116), (0.75, 100), (0.5, 86)):
        canvas.darken([ellipse(x + lean * unit * grow, y, 0.17 * unit * grow, 0.024 * unit * grow)], shade)


def paint_occluder(canvas: Canvas, rng: random.Random) -> str:
    """Something in front of the person; its pixels become label 0. Returns its name."""
    name = rng.choice(OCCLUDERS)
    width, height = canvas.size
    grey = Thing(name, "grey", dull(rng, 0.2, 0.7, 0.15))
    if name == "pole":
        x = rng.choice((rng.uniform(0.1, 0.32), rng.uniform(0.68, 0.9))) * width
        half = rng.uniform(0.025, 0.055) * width
        canvas.paint([box_shape(x - half, -9, x + half, height + 9)], grey, 0)
    elif name == "bench":
        top, thick = rng.uniform(0.76, 0.86) * height, 0.022 * height
        wood = Thing(name, "brown", dull(rng, 0.3, 0.5, 0.5, hue=0.08))
        slats = [box_shape(-9, top + k * 2 * thick, width + 9, top + (2 * k + 1) * thick) for k in range(3)]
        canvas.paint(slats, wood, 0, soft=0.006)
    elif name in ("bin", "sign"):
        x = rng.choice((rng.uniform(0, 0.25), rng.uniform(0.75, 1))) * width
        top = rng.uniform(0.62, 0.78) * height
        half = rng.uniform(0.1, 0.18) * width
        shape = box_shape(x - half, top, x + half, height + 9 if name == "bin" else top + half * 1.6, 0.2 * half)
        stand = [] if name == "bin" else [box_shape(x - 0.02 * width, top, x + 0.02 * width, height + 9)]
        canvas.paint([shape, *stand], grey, 0)
    elif name == "car":
        paint_car(canvas, rng)
    elif name == "railing":
        top = rng.uniform(0.72, 0.85) * height
        bars = [box_shape(-9, y, width + 9, y + 0.014 * height) for y in (top, top + 0.1 * height)]
        step = rng.uniform(0.14, 0.25) * width
        bars += [box_shape(k * step, top, k * step + 0.03 * width, height + 9) for k in range(int(width / step) + 1)]
        canvas.paint(bars, grey, 0, soft=0.006)
    else:
        paint_bush(canvas, rng)
    return name


def paint_car(canvas: Canvas, rng: random.Random) -> None:
    """The corner of a parked car at the lower edge."""
    width, height = canvas.size
    top = rng.uniform(0.78, 0.88) * height
    from_left = rng.random() < 0.5
    reach = rng.uniform(0.35, 0.7) * width
    x0, x1 = (-0.2 * width, reach) if from_left else (width - reach, 1.2 * width)
    body = Thing("car", "grey", dull(rng, 0.25, 0.85, 0.35))
    canvas.paint([box_shape(x0, top, x1, height + 20, 0.06 * width)], body, 0)
    canvas.plain(
        [box_shape(x0 + 0.05 * width, top + 0.05 * height, x1 - 0.05 * width, top + 0.065 * height)],
        scaled(body.rgb, 0.6),
        0,
    )


def paint_bush(canvas: Canvas, rng: random.Random) -> None:
    """Leaves that reach in from a lower corner."""
    width, height = canvas.size
    corner = rng.choice((0.0, 1.0)) * width
    leaves = Thing("bush", "green", dull(rng, 0.25, 0.45, 0.5, hue=0.3))
    shapes = []
    for _ in range(7):
        x, y = corner + rng.gauss(0, 0.13) * width, rng.uniform(0.8, 1.0) * height
        shapes.append(ellipse(x, y, rng.uniform(0.08, 0.16) * width, rng.uniform(0.04, 0.07) * height))
    stem = capsule((corner, height), (corner, 0.85 * height), 0.05 * width, 0.05 * width)
    canvas.paint([*shapes, stem], leaves, 0)
