"""Sentences to measure a search with where nobody has written any down: descriptions of clothed people, drawn."""

import random

PEOPLE = ("a man", "a woman", "a boy", "a girl", "a person with long hair", "a man with short black hair")
COLOURS = ("red", "blue", "green", "white", "black", "grey", "yellow", "brown", "pink", "orange", "purple")
ABOVE = ("coat", "shirt", "jacket", "sweater", "t-shirt", "hoodie")
BELOW = ("jeans", "trousers", "shorts", "skirt", "leggings")
CARRIED, PAIRS = ("backpack", "hat", "scarf", "handbag", "umbrella"), ("shoes", "sneakers", "gloves")


def sample_sentences(count: int, seed: int = 0) -> list[str]:
    """`count` different sentences, the same for the same seed; some millions are possible."""
    draw, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        colours = [draw.choice(COLOURS) for _ in range(4)]
        more = draw.sample((*CARRIED, *PAIRS), draw.randint(0, 2))
        ends = [
            f"{colour if thing in PAIRS else with_article(colour)} {thing}"
            for thing, colour in zip(more, colours[2:], strict=False)
        ]
        below = draw.choice(BELOW)
        colour = with_article(colours[1]) if below == "skirt" else colours[1]
        clothes = f"{with_article(colours[0])} {draw.choice(ABOVE)} and {colour} {below}"
        with_more = f" with {' and '.join(ends)}" if ends else ""
        found[f"{draw.choice(PEOPLE)} in {clothes}{with_more}"] = None
    return list(found)


def with_article(colour: str) -> str:
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour}"
