"""Who is drawn: the attributes of one identity and how they are sampled."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dataset.synthetic.colours import HAIR_COLOURS, PALETTE, RGB, SKIN_TONES, contrasting, jitter

# Mask values: the index in this tuple is the pixel value; 0 is background and everything else.
ATTRIBUTES = (
    "background",
    "hair",
    "headwear",
    "glasses",
    "scarf",
    "upper",
    "inner",
    "lower",
    "dress",
    "shoes",
    "bag",
    "item",
    "skin",
)
NUMBER = {name: number for number, name in enumerate(ATTRIBUTES)}

PATTERNS = ("horizontal stripes", "vertical stripes", "checked", "dotted")

COLOUR_WEIGHTS = {
    "black": 9,
    "white": 8,
    "grey": 7,
    "red": 8,
    "orange": 5,
    "yellow": 5,
    "green": 6,
    "light blue": 6,
    "blue": 7,
    "navy": 6,
    "purple": 5,
    "pink": 6,
    "brown": 5,
    "beige": 5,
}
JEANS = ("blue", "light blue", "navy", "black", "grey", "white")
OPENABLE = ("jacket", "coat", "hoodie", "shirt")


@dataclass(frozen=True)
class Thing:
    """One garment, accessory or belonging: what it is and how it looks."""

    kind: str
    colour: str
    rgb: RGB
    pattern: str = "plain"
    second: str | None = None
    second_rgb: RGB | None = None

    def describe(self) -> dict[str, Any]:
        """The fields that say something, for attributes.json."""
        facts = {"kind": self.kind, "colour": self.colour, "rgb": list(self.rgb), "pattern": self.pattern}
        if self.second is not None:
            facts |= {"second_colour": self.second, "second_rgb": list(self.second_rgb or ())}
        return facts


@dataclass(frozen=True)
class Person:
    """One identity. `upper` is None under a plain dress, `lower` is None with a dress.

    `inner` shows where `upper` is open, or at the arms of a vest.
    """

    gender: str
    build: str
    stature: float
    skin: Thing
    hair: Thing
    shoes: Thing
    upper: Thing | None = None
    upper_open: bool = False
    sleeves: str = "long"
    inner: Thing | None = None
    lower: Thing | None = None
    dress: Thing | None = None
    headwear: Thing | None = None
    glasses: Thing | None = None
    scarf: Thing | None = None
    bag: Thing | None = None
    item: Thing | None = None

    def thing(self, attribute: str) -> Thing | None:
        """What this person has for an attribute name of `ATTRIBUTES`."""
        return getattr(self, attribute)

    def worn(self, attribute: str) -> Thing:
        """What this person has for an attribute that it is known to have. Raises KeyError when it has none."""
        thing = self.thing(attribute)
        if thing is None:
            raise KeyError(attribute)
        return thing

    def describe(self) -> dict[str, Any]:
        """Structured description for attributes.json; absent things are left out."""
        facts: dict[str, Any] = {
            "gender": self.gender,
            "build": self.build,
            "stature": round(self.stature, 3),
        }
        facts |= {"sleeves": self.sleeves, "upper_open": self.upper_open}
        for name in ATTRIBUTES[1:]:
            thing = self.thing(name)
            if thing is not None:
                facts[name] = thing.describe()
        return facts


def pick(rng: random.Random, weights: Mapping[str, float]) -> str:
    """One key, with probability proportional to its value."""
    return rng.choices(list(weights), weights=list(weights.values()))[0]


def pick_colour(rng: random.Random, avoid: Iterable[str | None] = ()) -> str:
    """A palette name that is not in `avoid`."""
    avoid = set(avoid)
    return pick(rng, {name: weight for name, weight in COLOUR_WEIGHTS.items() if name not in avoid})


def make_thing(rng: random.Random, kind: str, colour: str, patterned: float = 0.0) -> Thing:
    """A thing in a jittered palette colour, with probability `patterned` in two colours."""
    rgb = jitter(rng, PALETTE[colour])
    if rng.random() >= patterned:
        return Thing(kind, colour, rgb)
    second = contrasting(rng, colour)
    return Thing(kind, colour, rgb, rng.choice(PATTERNS), second, jitter(rng, PALETTE[second]))


def sample_person(rng: random.Random) -> Person:
    """One identity; all of its randomness comes from `rng`."""
    gender = rng.choice(("man", "woman"))
    stature = rng.uniform(0.95, 1.0) if gender == "man" else rng.uniform(0.9, 0.97)
    tone = pick(rng, {"fair": 4, "medium": 4, "tan": 2, "dark": 3})
    clothes = sample_clothes(rng, gender)
    worn = [thing.colour for thing in clothes.values() if isinstance(thing, Thing)]
    return Person(
        gender=gender,
        build=pick(rng, {"slim": 3, "average": 5, "heavy": 2}),
        stature=stature,
        skin=Thing(tone, tone, jitter(rng, SKIN_TONES[tone], 0.005, 0.03)),
        hair=sample_hair(rng, gender),
        shoes=sample_shoes(rng, gender, clothes),
        **clothes,
        **sample_extras(rng, gender, clothes, worn),
    )


def sample_hair(rng: random.Random, gender: str) -> Thing:
    """Hair style and colour."""
    if gender == "man":
        style = pick(rng, {"short": 9, "bald": 2, "curly": 2, "medium": 2, "long": 0.7})
    else:
        style = pick(rng, {"long": 5, "ponytail": 4, "bun": 3, "medium": 4, "short": 2, "curly": 2})
    colour = pick(rng, {"black": 6, "brown": 4, "blonde": 3, "red": 1.5, "grey": 1.5})
    return Thing(style, colour, jitter(rng, HAIR_COLOURS[colour], 0.008, 0.05))


def sample_clothes(rng: random.Random, gender: str) -> dict[str, Any]:
    """Keywords of `Person` for upper, sleeves, inner, lower and dress."""
    if gender == "woman" and rng.random() < 0.18:
        return sample_dress(rng)
    upper = sample_upper(rng, gender)
    lower_kinds = {"jeans": 6, "trousers": 6, "shorts": 3}
    if gender == "woman":
        lower_kinds = {"jeans": 5, "trousers": 3, "shorts": 2, "skirt": 3, "long skirt": 2, "leggings": 3}
    kind = pick(rng, lower_kinds)
    avoid = [upper["upper"].colour] if rng.random() < 0.9 else []
    colour = pick_colour(rng, avoid)
    if kind == "jeans":
        colour = rng.choice([name for name in JEANS if name not in avoid])
    patterned = {"jeans": 0.0, "trousers": 0.06, "leggings": 0.1}.get(kind, 0.2)
    return {**upper, "lower": make_thing(rng, kind, colour, patterned)}


def sample_dress(rng: random.Random) -> dict[str, Any]:
    """A dress, sometimes under an open jacket."""
    dress = make_thing(rng, "dress", pick_colour(rng), 0.35)
    if rng.random() < 0.3:
        jacket = make_thing(rng, "jacket", pick_colour(rng, [dress.colour]))
        return {"dress": dress, "upper": jacket, "upper_open": True, "sleeves": "long"}
    return {"dress": dress, "sleeves": pick(rng, {"none": 1, "short": 2, "long": 1})}


def sample_upper(rng: random.Random, gender: str) -> dict[str, Any]:
    """Keywords of `Person` for upper, its opening, its sleeves and inner."""
    kinds = {"t-shirt": 6, "shirt": 4, "jacket": 5, "coat": 4, "hoodie": 4, "sweater": 4, "vest": 2}
    if gender == "woman":
        kinds |= {"blouse": 3, "shirt": 2}
    kind = pick(rng, kinds)
    patterned = {"t-shirt": 0.35, "shirt": 0.45, "sweater": 0.4, "blouse": 0.35}.get(kind, 0.1)
    upper = make_thing(rng, kind, pick_colour(rng), patterned)
    if kind in ("t-shirt", "hoodie", "sweater") and upper.pattern == "plain" and rng.random() < 0.3:
        second = contrasting(rng, upper.colour)
        logo = (second, jitter(rng, PALETTE[second]))
        upper = Thing(kind, upper.colour, upper.rgb, "logo", *logo)
    opened = kind in OPENABLE and rng.random() < (0.2 if kind == "shirt" else 0.5) and upper.pattern != "logo"
    inner = None
    if opened or (kind == "vest" and rng.random() < 0.65):
        inner = make_thing(rng, rng.choice(("t-shirt", "shirt")), pick_colour(rng, [upper.colour, upper.second]))
    sleeves = {"t-shirt": "short", "vest": "none"}.get(kind, "long")
    if kind in ("shirt", "blouse") and rng.random() < 0.35 and not opened:
        sleeves = "short"
    return {"upper": upper, "upper_open": opened, "sleeves": sleeves, "inner": inner}


def sample_shoes(rng: random.Random, gender: str, clothes: dict[str, Any]) -> Thing:
    """Shoes that differ in colour from the trousers."""
    lower = clothes.get("lower")
    kinds = {"sneakers": 7, "boots": 3, "sandals": 1.5, "dress shoes": 3}
    kind = pick(rng, kinds)
    avoid = [lower.colour] if lower else []
    if kind == "dress shoes" and gender == "man":
        return make_thing(rng, kind, rng.choice([c for c in ("black", "brown") if c not in avoid]))
    weights = {
        "black": 6,
        "white": 7,
        "grey": 3,
        "red": 4,
        "brown": 4,
        "blue": 3,
        "pink": 2,
        "beige": 2,
        "yellow": 2,
        "green": 2,
        "orange": 2,
    }
    return make_thing(rng, kind, pick(rng, {k: v for k, v in weights.items() if k not in avoid}))


def sample_extras(rng: random.Random, gender: str, clothes: dict[str, Any], worn: list[str]) -> dict[str, Any]:
    """Keywords of `Person` for headwear, glasses, scarf, bag and the item in the hand."""
    bags = {"none": 6, "backpack": 5, "shoulder bag": 4, "suitcase": 1.5, "shopping bag": 1.5}
    bags["handbag"] = 4 if gender == "woman" else 0.5
    bag = pick(rng, bags)
    item = pick(rng, {"none": 12, "umbrella": 2, "phone": 2, "book": 2, "cup": 1})
    scarf = rng.random() < (0.15 if clothes.get("sleeves") == "long" else 0.03)
    glasses = pick(rng, {"none": 7, "glasses": 2, "sunglasses": 1.5})
    return {
        "headwear": sample_headwear(rng, gender, clothes),
        "glasses": None if glasses == "none" else make_thing(rng, glasses, "black"),
        "scarf": make_thing(rng, "scarf", pick_colour(rng, worn)) if scarf else None,
        "bag": None if bag == "none" else make_thing(rng, bag, pick_colour(rng, worn)),
        "item": None if item == "none" else sample_item(rng, item, worn),
    }


def sample_headwear(rng: random.Random, gender: str, clothes: dict[str, Any]) -> Thing | None:
    """A cap, beanie or hat of its own colour, or the hood of the upper garment."""
    upper = clothes.get("upper")
    weights = {
        "none": 14,
        "cap": 4 if gender == "man" else 2,
        "beanie": 2,
        "hat": 1 if gender == "man" else 2,
    }
    if upper and upper.kind in ("hoodie", "coat"):
        weights["hood"] = 4
    kind = pick(rng, weights)
    if kind == "none":
        return None
    if kind == "hood" and upper:
        return Thing("hood", upper.colour, upper.rgb)
    return make_thing(rng, kind, pick_colour(rng))


def sample_item(rng: random.Random, kind: str, worn: list[str]) -> Thing:
    """What is held in the hand; phones are black and cups white."""
    fixed = {"phone": "black", "cup": "white"}
    return make_thing(rng, kind, fixed.get(kind) or pick_colour(rng, worn))
