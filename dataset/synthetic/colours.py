"""The palette: what a colour looks like and what people call it."""

import colorsys
import random

RGB = tuple[int, int, int]

# Fourteen colours that stay apart at 96x48 pixels and under a moderate colour cast.
PALETTE: dict[str, RGB] = {
    "black": (28, 28, 32),
    "white": (240, 240, 238),
    "grey": (134, 136, 140),
    "red": (206, 28, 36),
    "orange": (244, 128, 22),
    "yellow": (244, 218, 50),
    "green": (34, 142, 62),
    "light blue": (132, 194, 240),
    "blue": (30, 84, 214),
    "navy": (30, 40, 104),
    "purple": (130, 54, 168),
    "pink": (246, 146, 186),
    "brown": (122, 72, 38),
    "beige": (218, 194, 152),
}

# The words of captions: (usual, when the shade is darker, when it is lighter than the palette's).
COLOUR_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "black": (("black",), ("jet black",), ("black",)),
    "white": (("white",), ("white", "off white"), ("bright white",)),
    "grey": (("grey", "gray"), ("dark grey", "dark gray"), ("light grey", "light gray")),
    "red": (("red",), ("dark red", "crimson"), ("bright red", "scarlet")),
    "orange": (("orange",), ("dark orange",), ("bright orange",)),
    "yellow": (("yellow",), ("mustard yellow",), ("bright yellow",)),
    "green": (("green",), ("dark green",), ("bright green",)),
    "light blue": (("light blue", "light blue", "sky blue"), ("light blue",), ("pale blue",)),
    "blue": (("blue",), ("royal blue",), ("bright blue",)),
    "navy": (("navy blue", "dark blue", "navy"), ("dark navy blue",), ("dark blue",)),
    "purple": (("purple", "purple", "violet"), ("dark purple",), ("bright purple",)),
    "pink": (("pink",), ("rose pink",), ("light pink",)),
    "brown": (("brown",), ("dark brown",), ("light brown",)),
    "beige": (("beige", "tan", "khaki"), ("tan", "khaki"), ("cream colored", "light beige")),
}

HAIR_COLOURS: dict[str, RGB] = {
    "black": (24, 21, 22),
    "brown": (84, 50, 28),
    "blonde": (222, 184, 98),
    "red": (158, 66, 26),
    "grey": (158, 158, 160),
}

HAIR_WORDS: dict[str, tuple[str, ...]] = {
    "black": ("black", "black", "dark", "jet black"),
    "brown": ("brown", "brown", "dark brown"),
    "blonde": ("blonde", "blond", "blonde"),
    "red": ("red", "ginger", "reddish"),
    "grey": ("grey", "gray", "silver"),
}

SKIN_TONES: dict[str, RGB] = {
    "fair": (242, 206, 180),
    "medium": (214, 164, 124),
    "tan": (178, 122, 82),
    "dark": (104, 66, 44),
}


def jitter(rng: random.Random, rgb: RGB, hue: float = 0.012, amount: float = 0.07) -> RGB:
    """A shade close to `rgb`: `hue` in turns, `amount` relative for saturation, absolute for value."""
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in rgb))
    h = (h + rng.uniform(-hue, hue)) % 1.0
    s = min(1.0, s * (1 + rng.uniform(-amount, amount)))
    v = min(1.0, max(0.08, v + rng.uniform(-amount, amount) * 0.7))
    red, green, blue = colorsys.hsv_to_rgb(h, s, v)
    return round(red * 255), round(green * 255), round(blue * 255)


def luminance(rgb: RGB) -> float:
    """Perceived brightness, 0 to 255 (Rec. 601)."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def scaled(rgb: RGB, factor: float) -> RGB:
    """`rgb` made darker (factor < 1) or lighter (factor > 1), clipped to 255."""
    red, green, blue = (min(255, round(c * factor)) for c in rgb)
    return red, green, blue


def name_colour(rng: random.Random, colour: str, rgb: RGB) -> str:
    """What a caption calls the palette colour `colour` when it is seen as the shade `rgb`."""
    usual, darker, lighter = COLOUR_WORDS[colour]
    if rng.random() < 0.75:
        return rng.choice(usual)
    return rng.choice(darker if luminance(rgb) < luminance(PALETTE[colour]) else lighter)


def contrasting(rng: random.Random, colour: str, gap: float = 75.0) -> str:
    """A palette name at least `gap` brighter or darker than `colour`, for stripes, dots and logos."""
    own = luminance(PALETTE[colour])
    return rng.choice([name for name, rgb in PALETTE.items() if abs(luminance(rgb) - own) >= gap])
