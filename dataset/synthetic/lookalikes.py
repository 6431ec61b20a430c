"""People who look alike: groups that share everything large and differ in a few details.

A group is a code: a word per member, a letter per detail. Any two words differ in at least as many letters as
details are asked for, and in no more where that can be had. What a letter looks like is drawn for every group.
"""

import random
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from dataset.synthetic.colours import HAIR_COLOURS, PALETTE, jitter
from dataset.synthetic.person import Person, Thing, pick, sample_person

DETAILS = ("shoes", "bag", "headwear", "hair", "glasses", "scarf", "item")
LETTERS = 5  # looks of one detail within a group
CODES = 8  # codes that groups draw theirs from
LARGEST_GROUP = 50

# Colours that stay apart on a few pixels; those of a detail differ within a group.
DISTINCT = ("black", "white", "red", "orange", "yellow", "green", "blue", "purple", "pink")
ON_SKIN = ("black", "white", "red", "green", "blue")
KINDS: dict[str, dict[str, float]] = {
    "shoes": {"sneakers": 3, "boots": 2, "dress shoes": 1},
    "bag": {"backpack": 3, "shoulder bag": 2, "handbag": 1, "suitcase": 1, "shopping bag": 1},
    "headwear": {"cap": 2, "beanie": 1, "hat": 1},
    "glasses": {"sunglasses": 1},
    "scarf": {"scarf": 1},
    "item": {"umbrella": 2, "book": 2, "cup": 1},
}
LIKE_HAIR = {"black": ("black",), "blonde": ("yellow",), "red": ("orange",), "grey": ("white",)}
FULL_HAIR = ("medium", "long", "curly")  # shows below a hat
FALLING_HAIR = ("medium", "long")  # hides a scarf from behind
# What a detail lies on: there its colours would not be seen.
BESIDE = {
    "shoes": ("lower",),
    "bag": ("upper", "dress"),
    "scarf": ("upper", "inner", "dress"),
    "item": ("upper", "lower", "dress"),
}


@lru_cache(maxsize=64)
def code(size: int, distance: int, details: int, variant: int = 0) -> tuple[tuple[int, ...], ...]:
    """Up to `size` words of `details` letters, any two of which differ in at least `distance` letters.

    Each next word is as close to those before as `distance` allows; `variant` decides among equals. Fewer
    words than `size` mean that no further one was found.
    """
    if distance > details:
        return ((0,) * details,)
    words = np.stack(np.meshgrid(*[np.arange(LETTERS, dtype=np.int8)] * details, indexing="ij"), -1)
    words = words.reshape(-1, details)
    words = words[np.random.default_rng(variant).permutation(len(words))]
    chosen = [np.zeros(details, np.int8)]
    total = np.zeros(len(words), np.int64)
    while len(chosen) < size and len(words):
        apart = (words != chosen[-1]).sum(1)
        words, total = words[apart >= distance], (total + apart)[apart >= distance]
        if len(words):
            chosen.append(words[total.argmin()])
    return tuple(tuple(map(int, word)) for word in chosen)


def code_of_group(size: int, distance: int, details: int, rng: random.Random) -> list[tuple[int, ...]]:
    """A code with its details and letters shuffled: which details tell a group apart differs between groups."""
    words = code(size, distance, details, rng.randrange(CODES))
    if len(words) < size:
        words = code(size, distance, details)
    order = rng.sample(range(details), details)
    letters = [rng.sample(range(LETTERS), LETTERS) for _ in range(details)]
    return [tuple(letters[k][word[order[k]]] for k in range(details)) for word in words]


def looks_of(detail: str, shared: Person, differing: list[str], rng: random.Random) -> list[Thing]:
    """`LETTERS` looks of a detail for people like `shared`, each of another colour."""
    if detail == "hair":
        kind = shared.hair.kind
        colours = rng.sample(list(HAIR_COLOURS), LETTERS)
        return [Thing(kind, colour, jitter(rng, HAIR_COLOURS[colour], 0.008, 0.05)) for colour in colours]
    things = [thing for name in BESIDE.get(detail, ()) if (thing := shared.thing(name)) is not None]
    taken = {thing.colour for thing in things}
    if detail == "headwear":
        hair = HAIR_COLOURS if "hair" in differing else [shared.hair.colour]
        taken |= {colour for name in hair for colour in LIKE_HAIR.get(name, ())}
    colours = [name for name in (ON_SKIN if detail == "glasses" else DISTINCT) if name not in taken]
    return [
        Thing(pick(rng, KINDS[detail]), colour, jitter(rng, PALETTE[colour])) for colour in rng.sample(colours, LETTERS)
    ]


def make_room(shared: Person, differing: list[str], rng: random.Random) -> Person:
    """`shared` without what would hide a differing detail: hoods, hats on differing hair, hair over a scarf."""
    headwear, style = shared.headwear, shared.hair.kind
    if headwear is not None and (headwear.kind == "hood" or ("hair" in differing and "headwear" not in differing)):
        shared = replace(shared, headwear=None)
    styles = {style}
    if "hair" in differing:
        styles = styles - {"bald"} or {"short"}
        if "headwear" in differing:
            styles = styles & set(FULL_HAIR) or set(FULL_HAIR)
    if "scarf" in differing:
        styles = styles - set(FALLING_HAIR) or {"curly"}
    return replace(shared, hair=replace(shared.hair, kind=rng.choice(sorted(styles))))


def sample_group(rng: random.Random, size: int, distance: int, details: tuple[str, ...]) -> list[Person]:
    """`size` people who are alike but for `details`, any two of them in `distance` of these (large groups: or more)."""
    shared = sample_person(rng)
    words = code_of_group(size, distance, len(details), rng)
    differing = [name for k, name in enumerate(details) if len({word[k] for word in words}) > 1]
    shared = make_room(shared, differing, rng)
    looks = {name: looks_of(name, shared, differing, rng) for name in differing}
    people = []
    for word in words:
        worn: dict[str, Any] = {name: looks[name][word[k]] for k, name in enumerate(details) if name in looks}
        people.append(replace(shared, **worn))
    return people
