"""Finding attributes: how many of the garments that a file of captions describes are found, by each rule.

A description is one adjective or more of the list below straight before a garment of the list ("dark blue t shirt");
garments that follow each other are one where the first says of what sort the second is ("dress shirt"). It is found
when all its words lie in an attribute that holds no other garment. An attribute holds two garments when there are two
in it that are not one in this sense. The lists are no part of the product, which has others, but who improves the
product on a file sees what is missed there: figures to quote come from captions that were not looked at.

FILE: annotations of a data set, or any JSON of lists and objects with captions under `captions`, `caption` or
`description`. --part odd|even takes half of the distinct captions.
"""

import argparse
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from benchmarks.measure import describe_machine, make_parser
from dataset.attributes import Attribute, AttributeRule, parse_attributes
from dataset.captions import clean_caption
from utils.errors import UserError, run_command_line
from utils.files import read_json

KEYS = ("captions", "caption", "description")
QUICK = 500  # captions
SHOWN = 20


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


ADJECTIVES = words_of(
    "beige black blond blonde blue bright brown burgundy checkered collared colored coloured cream curly dark"
    " denim floral gold golden gray green grey heeled hooded khaki large leather light long loose maroon navy"
    " olive orange patterned pink plaid printed purple red short silver skinny sleeved sleeveless small straight"
    " striped tan teal tight turquoise white yellow"
)
GARMENTS = words_of(
    "backpack bag bags belt blazer blouse boots cap capris cardigan coat dress eyeglasses gloves gown hair"
    " handbag hat heels hoodie jacket jeans leggings necklace pants polo purse sandals scarf shirt shirts shoes"
    " shorts skirt slacks sneakers socks suit suitcase sunglasses sweater sweatshirt t tee tie tights top trousers"
    " tshirt umbrella uniform vest watch"
)
SORTS = words_of("dress hair jeans polo suit sweater t tee")  # garments that say of what sort the next one is


@dataclass
class Count:
    """Descriptions found and all; attributes of two garments and all; captions without attributes; what was missed."""

    found: int = 0
    described: int = 0
    attributes: int = 0
    of_two: int = 0
    without: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    doubled: Counter[str] = field(default_factory=Counter)

    def add(self, caption: str, attributes: Sequence[Attribute]) -> None:
        """Count a cleaned caption and its attributes."""
        spans = [match.span() for match in re.finditer(r"\S+", caption)]
        words = [caption[start:end] for start, end in spans]
        held = [indices_of(attribute, spans) for attribute in attributes]
        alone = [indices for indices in held if len(garments_among(words, indices)) < 2]
        for description in descriptions_in(words):
            self.described += 1
            if any(indices.issuperset(description) for indices in alone):
                self.found += 1
            else:
                self.missed[" ".join(words[description.start : description.stop])] += 1
        self.attributes += len(attributes)
        self.of_two += len(held) - len(alone)
        self.without += not attributes
        self.doubled.update(" ".join(words[i] for i in sorted(indices)) for indices in held if indices not in alone)


def indices_of(attribute: Attribute, spans: Sequence[tuple[int, int]]) -> set[int]:
    """Which words, by their spans, an attribute holds or touches."""
    return {i for i, (start, end) in enumerate(spans) for first, last in attribute if first < end and start < last}


def garments_among(words: Sequence[str], indices: set[int]) -> list[int]:
    """Where the garments are among the words of these indices, those that say of what sort the next one is aside."""
    chosen = sorted(indices)
    return [
        index
        for index, following in zip(chosen, [*chosen[1:], None], strict=True)
        if words[index] in GARMENTS
        and not (words[index] in SORTS and following is not None and words[following] in GARMENTS)
    ]


def descriptions_in(words: Sequence[str]) -> Iterator[range]:
    """The indices of each garment with the adjectives before it."""
    for end in garments_among(words, set(range(len(words)))):
        first = end
        while first and words[first - 1] in SORTS:
            first -= 1
        noun = first
        while first and words[first - 1] in ADJECTIVES:
            first -= 1
        if first < noun:
            yield range(first, end + 1)


def count(captions: Sequence[str], rule: AttributeRule) -> tuple[Count, float]:
    """What a rule finds in captions, and the seconds it takes after the model is loaded."""
    parse_attributes(captions[:1], None, rule=rule)
    start = time.perf_counter()
    found = parse_attributes(captions, None, rule=rule)
    seconds = time.perf_counter() - start
    result = Count()
    for caption, attributes in zip(captions, found, strict=True):
        result.add(clean_caption(caption, None), attributes)
    return result, seconds


# ---- the command ----


def captions_in(content: Any) -> Iterator[str]:
    """Every caption below a value of a JSON file."""
    if isinstance(content, list):
        for part in content:
            yield from captions_in(part)
    if isinstance(content, dict):
        for key, value in content.items():
            texts = value if isinstance(value, list) else [value]
            yield from (text for text in texts if key in KEYS and isinstance(text, str))
            yield from captions_in(value)


def read_captions(path: Path, part: str) -> list[str]:
    """The distinct captions of a file, or every second one. Raises UserError when there is none."""
    captions = list(dict.fromkeys(text for text in captions_in(read_json(path, "captions")) if text.strip()))
    captions = captions if part == "all" else captions[part == "odd" :: 2]
    if not captions:
        of_part = "" if part == "all" else f" of the {part} part"
        raise UserError(f"{path} holds no captions{of_part}; they stand under {', '.join(KEYS)}")
    return captions


def show(rule: str, result: Count, seconds: float, captions: int) -> None:
    """Print what a rule finds, and what it misses most often."""
    print(f"\n{rule}: {captions / seconds:.0f} captions per second")
    share = 100 * result.found / max(1, result.described)
    print(f"  descriptions within an attribute of their own: {result.found} of {result.described} ({share:.2f} %)")
    share = 100 * result.of_two / max(1, result.attributes)
    print(f"  attributes of two garments: {result.of_two} of {result.attributes} ({share:.2f} %)")
    print(f"  captions without attributes: {result.without} of {captions}")
    for name, counter in (("missed most often", result.missed), ("two garments most often", result.doubled)):
        if counter:
            print(f"  {name}: " + ", ".join(f"{text} ({times})" for text, times in counter.most_common(SHOWN)))


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="JSON file of captions")
    parser.add_argument("--rule", choices=get_args(AttributeRule), help="one rule alone (default: each)")
    parser.add_argument("--part", choices=("all", "even", "odd"), default="all", help="which captions (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = parse_arguments(arguments)
    captions = read_captions(options.file, options.part)
    captions = captions[:QUICK] if options.quick else captions
    print(describe_machine())
    for rule in [options.rule] if options.rule else get_args(AttributeRule):
        show(rule, *count(captions, rule), len(captions))


if __name__ == "__main__":
    run_command_line(main)
