"""Captions of a picture in the manner of CUHK-PEDES annotators, with the span of every named part.

While a caption is built, a named part is written as `<number|phrase>`; the marks are taken out at
the very end, so that typing quirks cannot move the spans.
"""

import random
import re
from collections.abc import Mapping
from typing import Any

from dataset.synthetic.colours import COLOUR_WORDS, HAIR_WORDS, name_colour
from dataset.synthetic.person import NUMBER, Person, Thing
from dataset.synthetic.words import (
    BUILDS,
    HAIR_SHAPES,
    HOLDS_BAG,
    HOLDS_ITEM,
    MOTIONS,
    NOUNS,
    PATTERN_AFTER,
    PATTERN_BEFORE,
    PRONOUNS,
    SUBJECTS,
    VAGUE,
)

VAGUE_SHARE = 0.07
MIN_WORDS, MAX_WORDS = 15, 45
# Annotators who are asked for everything that they see: the share that is vague all the same, how often a part
# is mentioned, and the length up to which nothing is dropped.
THOROUGH_VAGUE_SHARE, THOROUGH_MENTIONED, THOROUGH_MAX_WORDS = 0.005, 0.97, 75
# How often an annotator mentions a part that can be seen.
MENTIONED = {
    "upper": 0.96,
    "inner": 0.8,
    "lower": 0.95,
    "dress": 1.0,
    "shoes": 0.72,
    "bag": 0.88,
    "hair": 0.68,
    "headwear": 0.85,
    "glasses": 0.6,
    "scarf": 0.85,
    "item": 0.75,
}
DROP_FIRST = ("hair", "glasses", "item", "shoes", "scarf", "inner")

_MARK = re.compile(r"<(\d+)\|([^<>]*)>")
_WORD = re.compile(r"[a-z0-9']+")


class Writer:
    """Writes captions of one picture: who, which parts are visible, how they stand, whether nearly all is told."""

    def __init__(
        self,
        person: Person,
        visible: set[str],
        view: str,
        moving: bool,
        rng: random.Random,
        *,
        thorough: bool = False,
    ) -> None:
        self.person, self.visible, self.view, self.rng = person, visible, view, rng
        self.thorough = thorough
        self.vague_share = THOROUGH_VAGUE_SHARE if thorough else VAGUE_SHARE
        self.mentioned = dict.fromkeys(MENTIONED, THOROUGH_MENTIONED) if thorough else MENTIONED
        self.max_words = THOROUGH_MAX_WORDS if thorough else MAX_WORDS
        self.he, self.his = PRONOUNS[person.gender]
        self.him = "him" if person.gender == "man" else "her"
        self.motion = self.fill(rng.choice(MOTIONS[view, moving]))

    def fill(self, text: str, **words: str) -> str:
        """Put pronouns and `words` into a template."""
        return text.format(he=self.he, his=self.his, him=self.him, **words)

    def hold(self, templates: Mapping[str, tuple[str, ...]], attribute: str) -> str:
        """A verb phrase for a bag or an item, such as `is carrying a black backpack`."""
        thing = self.person.worn(attribute)
        template = self.rng.choice(templates[thing.kind]).replace("{}", "{part}")
        return self.fill(template, part=self.phrase(attribute))

    def phrase(self, attribute: str) -> str:
        """The marked noun phrase of an attribute, such as `<5|a red striped shirt>`."""
        thing = self.person.worn(attribute)
        if attribute == "hair":
            style = "tied back" if thing.kind == "ponytail" and self.view == "front" else thing.kind
            words = self.rng.choice(HAIR_SHAPES[style]).format(self.rng.choice(HAIR_WORDS[thing.colour]))
        else:
            words = self.noun_phrase(thing, attribute)
        return f"<{NUMBER[attribute]}|{words}>"

    def noun_phrase(self, thing: Thing, attribute: str) -> str:
        """Article, adjectives, noun and pattern of a garment or belonging."""
        rng = self.rng
        nouns, plural = NOUNS[thing.kind]
        colour, noun = name_colour(rng, thing.colour, thing.rgb), rng.choice(nouns)
        if attribute == "glasses" and self.thorough:
            noun = thing.kind  # not "dark", which might be taken for their colour
        elif attribute == "glasses":
            return rng.choice((noun, f"a pair of {noun}"))
        before, after = colour, ""
        if thing.second is not None and (thing.pattern != "logo" or self.view == "front"):
            second = rng.choice(COLOUR_WORDS[thing.second][0])
            if thing.pattern in PATTERN_BEFORE and rng.random() < 0.55:
                before = f"{colour} and {second} {rng.choice(PATTERN_BEFORE[thing.pattern])}"
            else:
                after = " " + rng.choice(PATTERN_AFTER[thing.pattern]).format(second)
        if attribute in ("upper", "dress"):
            before = self.sleeve_words() + before
        article = rng.choice(("", "", "a pair of ")) if plural else "a "
        return f"{article}{before} {noun}{after}"

    def sleeve_words(self) -> str:
        """Sometimes the sleeve length, sometimes that it is open."""
        person = self.person
        if person.upper_open and person.upper and self.rng.random() < 0.2 and "inner" in self.visible:
            return "open "
        kind = person.upper.kind if person.upper else "dress"
        usual = {"t-shirt": "short", "jacket": "long", "coat": "long", "hoodie": "long", "vest": "none"}.get(kind)
        if person.sleeves == usual or person.upper_open or self.rng.random() < 0.6:
            return ""
        return {"long": "long sleeved ", "short": "short sleeved ", "none": "sleeveless "}[person.sleeves]

    def choose(self) -> list[str]:
        """A random useful subset of what is visible."""
        rng = self.rng
        chosen = {part for part in MENTIONED if part in self.visible and rng.random() < self.mentioned[part]}
        main = [part for part in ("upper", "lower", "dress") if part in self.visible]
        if main and not chosen & set(main):
            chosen.add(rng.choice(main))
        if len(chosen) < 3:
            chosen |= {part for part in ("upper", "lower", "dress", "shoes", "hair") if part in self.visible}
        return [part for part in MENTIONED if part in chosen]

    def clothes(self, parts: list[str]) -> list[str]:
        """Worn things as phrases, the order lightly shuffled."""
        worn = [self.phrase(p) for p in ("lower", "shoes", "headwear", "scarf") if p in parts]
        self.rng.shuffle(worn)
        if "dress" in parts:
            worn.insert(0, self.phrase("dress"))
        if "upper" in parts:
            upper = self.phrase("upper")
            if "inner" in parts:
                upper += f" {self.rng.choice(('over', 'over', 'with'))} {self.phrase('inner')}"
                upper += " underneath" if " with <" in upper and upper.rfind(" with <") > upper.find(">") else ""
            worn.insert(0 if self.rng.random() < 0.85 else len(worn), upper)
        elif "inner" in parts:
            worn.insert(0, self.phrase("inner"))
        return worn

    def details(self, parts: list[str]) -> list[str]:
        """Verb phrases for hair, glasses, bag and item."""
        phrases = []
        if "hair" in parts:
            phrases.append("has " + self.phrase("hair"))
        if "glasses" in parts:
            phrases.append(self.rng.choice(("is wearing ", "wears ")) + self.phrase("glasses"))
        if "bag" in parts:
            phrases.append(self.hold(HOLDS_BAG, "bag"))
        if "item" in parts:
            phrases.append(self.hold(HOLDS_ITEM, "item"))
        return phrases

    def subject(self) -> str:
        """A noun for the person, sometimes without gender."""
        return self.rng.choice(SUBJECTS[self.person.gender] + (("person", "pedestrian") * (self.rng.random() < 0.15)))

    def vague(self) -> str:
        """A caption that fits many people."""
        build = self.rng.choice(BUILDS[self.person.build])
        return self.fill(self.rng.choice(VAGUE), subject=self.subject(), motion=self.motion, build=build)

    def useful(self, parts: list[str]) -> str:
        """One or two sentences that name `parts`."""
        rng = self.rng
        worn, details = join(self.clothes(parts)), self.details(parts)
        the = rng.choice(("the", "the", "a")) + " " + self.subject()
        wears = rng.choice(("is wearing", "is wearing", "wears", "is dressed in", "has on"))
        form = rng.randrange(5)
        if form == 0 and details and worn:
            first = details.pop(0)
            return sentences(f"{the} {first} and {wears} {worn}", self.he, details, rng)
        if form == 1 and worn:
            return sentences(f"{the} in {worn} is {self.motion}", self.he, details, rng)
        if form == 2 and worn:
            return sentences(f"wearing {worn}, {the} is {self.motion}", self.he, details, rng)
        if form == 3 and "hair" in parts and worn:
            return sentences(f"{the} {details[0].replace('has', 'with', 1)} {wears} {worn}", self.he, details[1:], rng)
        if not worn:
            return sentences(f"{the} is {self.motion}", self.he, details, rng)
        return sentences(f"{the} {wears} {worn}", self.he, details, rng)

    def write(self) -> tuple[str, list[dict[str, int]]]:
        """One caption and its mentions: attribute number, start and end of the phrase in characters."""
        if self.rng.random() < self.vague_share or not self.visible:
            return unmark(quirks(polish(self.vague()), self.rng))
        parts = self.choose()
        text = self.useful(parts)
        for part in DROP_FIRST:
            if count_words(text) <= self.max_words:
                break
            parts = [p for p in parts if p != part]
            text = self.useful(parts)
        if count_words(text) < MIN_WORDS and self.motion not in text:
            text += f" {self.he} is {self.motion}."
        if count_words(text) < MIN_WORDS:
            text += f" {self.he} has a {self.rng.choice(BUILDS[self.person.build])} build."
        if count_words(text) < MIN_WORDS:
            text += " The rest of the picture is hard to see."
        return unmark(quirks(polish(text), self.rng))


def join(phrases: list[str]) -> str:
    """`a, b and c`."""
    if len(phrases) < 2:
        return "".join(phrases)
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def sentences(first: str, pronoun: str, details: list[str], rng: random.Random) -> str:
    """`first`, then the details in its sentence or in one or two of their own."""
    details = list(details)
    rng.shuffle(details)
    if not details:
        return first + "."
    if len(details) == 1 and rng.random() < 0.3:
        return f"{first}, and {pronoun} {details[0]}."
    if len(details) == 3 and rng.random() < 0.5:
        return f"{first}. {pronoun} {details[0]}. {pronoun} {details[1]} and {details[2]}."
    return f"{first}. {pronoun} {join(details)}."


def polish(text: str) -> str:
    """`an` before a vowel and upper case at every sentence start, also inside a marked phrase."""
    text = re.sub(r"\b([Aa])(?= [aeiou])", r"\1n", text)
    return re.sub(r"(^|\. )((?:<\d+\|)?)([a-z])", lambda m: m[1] + m[2] + m[3].upper(), text)


def quirks(text: str, rng: random.Random) -> str:
    """Now and then: all lower case, no final full stop, a double space, a missing comma."""
    if rng.random() < 0.08:
        text = text.lower()
    if rng.random() < 0.07:
        text = text.rstrip(".")
    if rng.random() < 0.05:
        text = text.replace(". ", ".  ", 1)
    if rng.random() < 0.05:
        text = text.replace(", ", " ", 1)
    return text


def unmark(text: str) -> tuple[str, list[dict[str, int]]]:
    """The plain caption and where its marked phrases lie."""
    plain, mentions, end = "", [], 0
    for mark in _MARK.finditer(text):
        plain += text[end : mark.start()]
        mentions.append({"attribute": int(mark[1]), "start": len(plain), "end": len(plain) + len(mark[2])})
        plain += mark[2]
        end = mark.end()
    return plain + text[end:], mentions


def count_words(text: str) -> int:
    """Words of a marked or plain text."""
    return len(_MARK.sub(r"\2", text).split())


def tokens(caption: str) -> list[str]:
    """Lower-case words without punctuation, as in `processed_tokens` of CUHK-PEDES."""
    return _WORD.findall(caption.lower().replace("-", " "))


def write_captions(
    person: Person,
    visible: set[str],
    view: str,
    moving: bool,
    count: int,
    rng: random.Random,
    *,
    thorough: bool = False,
) -> list[dict[str, Any]]:
    """`count` different captions, each {"text": str, "mentions": [{"attribute", "start", "end"}]}."""
    captions: dict[str, list[dict[str, int]]] = {}
    for _ in range(20 * count):
        if len(captions) == count:
            break
        text, mentions = Writer(person, visible, view, moving, rng, thorough=thorough).write()
        captions.setdefault(text, mentions)
    return [{"text": text, "mentions": mentions} for text, mentions in captions.items()]
