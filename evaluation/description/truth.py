"""What drawn people truly have, in the words of the table of phrases.

Letters: G images.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Config
from dataset.evaluation_split import EvaluationSplit
from dataset.synthetic.known import Person, read_people
from evaluation.description.phrases import Category, PhraseTable

NOTHING = ""  # a person has nothing of a category
STRIPES = {"horizontal stripes": "striped", "vertical stripes": "striped"}
UNKNOWN, OTHER, DOES_NOT_APPLY = -1, -2, -3  # in place of the index of an option


def of_thing(key: str, *names: str) -> Callable[[Person], str]:
    """A fact of the first of these things that a person has."""

    def read(person: Person) -> str:
        thing: Mapping[str, Any] | None = next((person[name] for name in names if name in person), None)
        return NOTHING if thing is None else thing[key]

    return read


def pattern_of(person: Person) -> str:
    pattern = of_thing("pattern", "upper", "dress")(person)
    return STRIPES.get(pattern, pattern)


def hair_of(person: Person) -> str:
    kind = person["hair"]["kind"]
    return NOTHING if kind == "bald" else kind


# by category of phrases.yaml; a dress is both what the upper and what the lower body wears
FACTS: Mapping[str, Callable[[Person], str]] = {
    "person": lambda person: person["gender"],
    "upper body": of_thing("kind", "upper", "dress"),
    "upper colour": of_thing("colour", "upper", "dress"),
    "pattern": pattern_of,
    "sleeves": lambda person: person["sleeves"],
    "lower body": of_thing("kind", "lower", "dress"),
    "lower colour": of_thing("colour", "lower", "dress"),
    "shoes": of_thing("kind", "shoes"),
    "shoe colour": of_thing("colour", "shoes"),
    "bag": of_thing("kind", "bag"),
    "bag colour": of_thing("colour", "bag"),
    "headwear": of_thing("kind", "headwear"),
    "headwear colour": of_thing("colour", "headwear"),
    "hair": hair_of,
    "hair colour": of_thing("colour", "hair"),
    "glasses": of_thing("kind", "glasses"),
    "scarf": of_thing("kind", "scarf"),
    "scarf colour": of_thing("colour", "scarf"),
    "in the hand": of_thing("kind", "item"),
    "colour of what is held": of_thing("colour", "item"),
}


def read_truth(table: PhraseTable, split: EvaluationSplit, config: Config, name: str) -> dict[str, np.ndarray]:
    """The true option of each image [G] of the split `name`, by category: its index, or, below 0, why there is none.

    What a person has counts, whether or not it shows. UNKNOWN: nothing is known of this category; OTHER: of none of its
    options; DOES_NOT_APPLY: of what is not there, such as the colour of a bag of people without one.

    Raises NotKnown when the split is not of a drawn benchmark.
    """
    file, root = Path(getattr(config, f"{name}_file")).absolute(), Path(split.image_root).absolute()
    people = read_people(split.images, (root.parent, file.parent, file.parent.parent))
    return truth_of(table, people)


def truth_of(table: PhraseTable, people: Sequence[Person]) -> dict[str, np.ndarray]:
    """As `read_truth`, of these people [G]."""
    return {
        name: np.array([option_of(category, table, person) for person in people], dtype=np.int64)
        for name, category in table.items()
    }


def option_of(category: Category, table: PhraseTable, person: Person) -> int:
    """The index of the option of a category that is true of a person, or why there is none."""
    fact = FACTS.get(category.name)
    if fact is None:
        return UNKNOWN
    if category.parent is not None and category.parent in FACTS and FACTS[category.parent](person) == NOTHING:
        return DOES_NOT_APPLY
    found = fact(person)
    if found == NOTHING:
        return UNKNOWN if category.none_option is None else category.names.index(category.none_option)
    return category.names.index(found) if found in category.questions else OTHER
