"""How well a split can be searched at all: the expected metrics of a reader who knows every named attribute.

The reader compares what a caption names with what each image shows. Images that contradict it least come first, of
these the ones that show most of what it names; images alike in both come in random order. What an image does not show
(too few pixels for an annotator to notice, at the size of the benchmark) contradicts nothing. How somebody stands and
moves, and what a phrase leaves open, the reader does not use.

C captions, G images. Rows are captions.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from dataset.synthetic.captions import MENTIONED
from dataset.synthetic.claims import CLAIMED, WHO, Claim, claim_of, claim_of_who, fact_of, true_of
from dataset.synthetic.lookalikes import DETAILS
from dataset.synthetic.marker import METRICS, SEARCHED, digest_of_split
from dataset.synthetic.person import ATTRIBUTES
from dataset.synthetic.render import is_noticed
from dataset.synthetic.ties import expected_metrics

LARGE = tuple(name for name in CLAIMED if name not in DETAILS)
AGAINST = 64  # contradictions outweigh all that an image shows
SCORES_AT_ONCE = 2**22
# From where a thing could not be seen: that nothing shows there does not say that there is none.
UNSEEN = {"glasses": ("back",), "item": ("back",), "inner": ("back", "side")}
HIDDEN = "hidden"

Drawn = tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]  # entries of an identity, and its record
T = TypeVar("T", bound=Hashable)


def ceilings_of(people: Iterable[Drawn], pixels: int) -> dict[str, Any]:
    """The ceilings of val and test, where these have captions, with all attributes that count and without details.

    people: raw entries and attribute record of each identity of these splits.
    """
    splits: dict[str, list[Drawn]] = {}
    for entries, record in people:
        splits.setdefault(record["split"], []).append((entries, record))
    found, large = (
        {name: ceiling for name in SEARCHED if (ceiling := ceiling_of(splits.get(name, []), pixels, attributes))}
        for attributes in (CLAIMED, LARGE)
    )
    without = {name: {metric: ceiling[metric] for metric in METRICS} for name, ceiling in large.items()}
    return {"attributes": ["gender", "build", *MENTIONED], **found, "without_details": without}


def ceiling_of(split: Sequence[Drawn], pixels: int, attributes: Sequence[str] = CLAIMED) -> dict[str, Any]:
    """Expected R@1, R@5, R@10, mAP and mINP in per cent, numbers of captions and images, and the digest of a split.

    split: raw entries and attribute record of each identity; pixels: of an image; attributes: that the reader knows.
    Empty without a caption.
    """
    entries = [entry for own, _ in split for entry in own]
    pairs = [(number, entry) for number, entry in enumerate(entries) if entry["captions"]]
    if not pairs:
        return {}
    owners = np.array([entry["id"] for entry in entries])
    of_caption = np.array([entry["id"] for _, entry in pairs for _ in entry["captions"]])
    by_attribute = tables(split, pixels, attributes)
    found = []
    rows = max(1, SCORES_AT_ONCE // len(owners))
    for start in tqdm(range(0, len(of_caption), rows), desc="ceiling", leave=False, delay=2):
        here = slice(start, start + rows)
        scores = np.zeros((len(of_caption[here]), len(owners)), np.int16)
        for table, claims, states in by_attribute:
            scores += table[claims[here, None], states]
        found.append(expected_metrics(scores, of_caption[here, None] == owners))
    values = {name: 100 * float(np.concatenate([part[name] for part in found]).mean()) for name in found[0]}
    digest = digest_of_split((entry["file_path"], entry["id"], entry["captions"]) for entry in entries)
    return {**values, "captions": len(of_caption), "images": len(owners), "digest": digest}


def tables(
    split: Sequence[Drawn], pixels: int, attributes: Sequence[str]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each attribute: points [K, S] of a claim for a state of an image, claim of each caption [C], states [G]."""
    claims = [claims_of(text, record) for own, person in split for text, record in captions_of(own, person)]
    states = [states_of(person["attributes"], image, pixels) for _, person in split for image in person["images"]]
    found = []
    for attribute in attributes:
        said, said_at = numbered([claim.get(attribute) for claim in claims])
        shown, shown_at = numbered([state[attribute] for state in states])
        points = np.zeros((len(said), len(shown)), np.int16)
        rows = [number for number, claim in enumerate(said) if claim is not None]
        facts = [number for number, state in enumerate(shown) if state is not None and state != HIDDEN]
        true = true_of([claim for claim in said if claim is not None], [shown[fact] for fact in facts])
        points[np.ix_(rows, facts)] = np.where(true, 1, -AGAINST)
        points[np.ix_(rows, [number for number, state in enumerate(shown) if state is None])] = -AGAINST
        found.append((points, said_at, shown_at))
    return found


def numbered(values: Sequence[T]) -> tuple[list[T], np.ndarray]:
    """The different values in order of appearance, and the index of each value among them."""
    numbers: dict[T, int] = {}
    indices = np.array([numbers.setdefault(value, len(numbers)) for value in values])
    return list(numbers), indices


def captions_of(entries: Sequence[Mapping[str, Any]], person: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Text and record of each caption of an identity."""
    for entry, image in zip(entries, person["images"], strict=True):
        yield from zip(entry["captions"], image["captions"], strict=True)


def claims_of(text: str, record: Mapping[str, Any]) -> dict[str, Claim]:
    """What a caption claims, by attribute."""
    found = {WHO: claim_of_who(text)}
    for mention in record["mentions"]:
        name = ATTRIBUTES[mention["attribute"]]
        found[name] = claim_of(name, text[mention["start"] : mention["end"]])
    return found


def states_of(person: Mapping[str, Any], image: Mapping[str, Any], pixels: int) -> dict[str, Any]:
    """What an image shows of each attribute: a fact, `HIDDEN`, or None where nothing of the sort is worn."""
    found: dict[str, Any] = {}
    for name in CLAIMED:
        fact = fact_of(name, person, image["view"] == "front")
        shows = name == WHO or is_noticed(name, image["visible_pixels"].get(name, 0), pixels)
        unseen = image["view"] in UNSEEN.get(name, ()) if fact is None else not shows
        found[name] = HIDDEN if unseen else fact
    return found
