"""How well a split can be searched at all: the expected metrics of a reader who knows every named attribute.

The reader compares what a caption names with what each image shows. Images that contradict it least come first, of
these the ones that show most of what it names; images alike in both come in random order. What an image does not show
(too few pixels for an annotator to notice, at the size of the benchmark) contradicts nothing. How somebody stands and
moves, and what a phrase leaves open, the reader does not use.

C captions, G images, P right images of the caption that has most. Rows are captions.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dataset.synthetic.captions import MENTIONED
from dataset.synthetic.claims import CLAIMED, WHO, Claim, claim_of, claim_of_who, fact_of, true_of
from dataset.synthetic.person import ATTRIBUTES
from dataset.synthetic.render import is_noticed
from utils.errors import UserError
from utils.files import read_json

MARKER, MADE_BY = "synthetic.json", "dataset.synthetic"
SEARCHED = ("val", "test")  # splits that have a ceiling

CUTOFFS = (1, 5, 10)
NAMES = (*(f"r{k}" for k in CUTOFFS), "mAP", "mINP")
AGAINST = 64  # contradictions outweigh all that an image shows
SCORES_AT_ONCE = 2**22
# From where a thing could not be seen: that nothing shows there does not say that there is none.
UNSEEN = {"glasses": ("back",), "item": ("back",), "inner": ("back", "side")}
HIDDEN = "hidden"

Drawn = tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]  # entries of an identity, and its record
T = TypeVar("T", bound=Hashable)


def digest_of_split(images: Iterable[tuple[str, int | str, Sequence[str]]]) -> str:
    """What identifies a split: its images in their order, each with its identity and captions."""
    found = hashlib.blake2b(digest_size=16)
    for name, identity, captions in images:
        found.update(json.dumps([name, identity, list(captions)]).encode())
    return found.hexdigest()


def ceiling_of(split: Sequence[Drawn], pixels: int) -> dict[str, Any]:
    """Expected R@1, R@5, R@10, mAP and mINP in per cent, numbers of captions and images, and the digest of a split.

    split: raw entries and attribute record of each identity; pixels: of an image. Empty without a caption.
    """
    entries = [entry for own, _ in split for entry in own]
    pairs = [(number, entry) for number, entry in enumerate(entries) if entry["captions"]]
    if not pairs:
        return {}
    owners = np.array([entry["id"] for entry in entries])
    of_caption = np.array([entry["id"] for _, entry in pairs for _ in entry["captions"]])
    by_attribute = tables(split, pixels)
    found = []
    rows = max(1, SCORES_AT_ONCE // len(owners))
    for start in range(0, len(of_caption), rows):
        here = slice(start, start + rows)
        scores = np.zeros((len(of_caption[here]), len(owners)), np.int16)
        for table, claims, states in by_attribute:
            scores += table[claims[here, None], states]
        found.append(expected_metrics(scores, of_caption[here, None] == owners))
    values = {name: 100 * float(np.concatenate([part[name] for part in found]).mean()) for name in found[0]}
    digest = digest_of_split((entry["file_path"], entry["id"], entry["captions"]) for entry in entries)
    return {**values, "captions": len(of_caption), "images": len(owners), "digest": digest}


def tables(split: Sequence[Drawn], pixels: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each attribute: points [K, S] of a claim for a state of an image, claim of each caption [C], states [G]."""
    claims = [claims_of(text, record) for own, person in split for text, record in captions_of(own, person)]
    states = [states_of(person["attributes"], image, pixels) for _, person in split for image in person["images"]]
    found = []
    for attribute in CLAIMED:
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


# ---- the ceiling in synthetic.json -----------------------------------------------------


def ceilings_of(people: Iterable[Drawn], pixels: int) -> dict[str, Any]:
    """The ceilings of val and test, where these have captions, and the attributes that count.

    people: raw entries and attribute record of each identity of these splits.
    """
    splits: dict[str, list[Drawn]] = {}
    for entries, record in people:
        splits.setdefault(record["split"], []).append((entries, record))
    found = {name: ceiling for name in SEARCHED if (ceiling := ceiling_of(splits.get(name, []), pixels))}
    return {"attributes": ["gender", "build", *MENTIONED], **found}


def read_ceiling(
    images: Iterable[tuple[str, int | str, Sequence[str]]], folders: Iterable[Path]
) -> dict[str, float | int]:
    """The ceiling that a marker file in one of `folders` has for the split of these images; empty when none has.

    images: name, identity and captions as written, in the order of the annotation file.
    """
    markers = [path for folder in dict.fromkeys(folders) if (path := folder / MARKER).is_file()]
    if not markers:
        return {}
    digest = digest_of_split(images)
    for path in markers:
        with contextlib.suppress(UserError):  # of another program, or damaged
            found = read_json(path, "marker file")
            ceilings = found.get("ceiling") if isinstance(found, dict) and found.get("made_by") == MADE_BY else None
            for ceiling in ceilings.values() if isinstance(ceilings, dict) else ():
                known = isinstance(ceiling, dict) and ceiling.get("digest") == digest
                if known and (numbers := numbers_of(ceiling)):
                    return numbers
    return {}


def numbers_of(ceiling: Mapping[str, Any]) -> dict[str, float | int]:
    """The metrics and counts of a ceiling; empty where one of them is no number."""
    values: dict[str, Any] = {name: ceiling.get(name) for name in (*NAMES, "captions", "images")}
    sound = all(type(value) in (int, float) and 0 <= value < math.inf for value in values.values())
    return values if sound else {}


# ---- metrics of rankings with ties -----------------------------------------------------


def expected_metrics(scores: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    """Expected R@k, average precision and inverse negative penalty [C], 0 to 1, where equal scores are shuffled.

    scores [C, G], higher is better; right [C, G] True = shows the caption's identity. Exact, in closed form: McSherry
    and Najork, Computing information retrieval performance measures efficiently in the presence of tied scores, 2008.
    A caption without a right image counts 0.
    """
    total = right.sum(1)
    index = np.argsort(~right, axis=1, kind="stable")[:, : max(1, int(total.max(initial=0)))]  # [C, P]
    valid, own = np.take_along_axis(right, index, 1), np.take_along_axis(scores, index, 1)
    above, tied = np.zeros(own.shape, np.int64), np.ones(own.shape, np.int64)
    for column in range(own.shape[1]):
        above[:, column] = (scores > own[:, column, None]).sum(1)
        tied[:, column] = (scores == own[:, column, None]).sum(1)
    right_above = ((own[:, None] > own[:, :, None]) & valid[:, None]).sum(2)
    right_tied = ((own[:, None] == own[:, :, None]) & valid[:, None]).sum(2)

    def at(column: np.ndarray) -> list[np.ndarray]:
        return [np.take_along_axis(counts, column[:, None], 1)[:, 0] for counts in (above, tied, right_tied)]

    best = at(np.where(valid, above, scores.shape[1]).argmin(1))
    worst = at(np.where(valid, above, -1).argmax(1))
    precision = np.where(valid, expected_precision(above, tied, right_above, right_tied), 0).sum(1)
    return {
        **{f"r{k}": np.where(total, expected_recall(k, *best), 0) for k in CUTOFFS},
        "mAP": precision / np.maximum(total, 1),
        "mINP": total * expected_inverse_rank_of_last(*worst),
    }


def expected_recall(k: int, above: np.ndarray, tied: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Probability that one of the first k images is right.

    above: wrong images that come first for sure; tied: images of the next score; right: right ones among these.
    """
    missed = np.ones(len(above))
    for drawn in range(k):
        taken = np.clip(drawn - above, 0, tied - 1)  # images of this score that were taken before
        miss = np.maximum(tied - right - taken, 0) / (tied - taken)
        missed *= np.where(drawn >= above, miss, 1.0)
    return 1 - missed


def expected_precision(above: np.ndarray, tied: np.ndarray, right_above: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Expected precision at the rank of an image among `tied` ones of its score, of which `right` are right.

    Rank j of the tied: (right_above + 1 + (j - 1)(right - 1) / (tied - 1)) / (above + j), averaged over j.
    """
    most = int((above + tied).max(initial=0))
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, most + 1))])
    inverse = harmonic[above + tied] - harmonic[above]  # sum over j of 1 / (above + j)
    others = (right - 1) / np.maximum(tied - 1, 1)
    return ((right_above + 1) * inverse + others * (tied - (above + 1) * inverse)) / tied


def expected_inverse_rank_of_last(above: np.ndarray, tied: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Expected inverse of the rank of the last of `right` images among `tied` ones of one score."""
    chance, found = right / tied, np.zeros(len(above))  # chance: that it comes at the last index of all
    for behind in range(int(tied.max(initial=0))):
        index = tied - behind
        found += np.where(index >= 1, chance / np.maximum(above + index, 1), 0)
        chance = np.where(index > 1, chance * np.maximum(index - right, 0) / np.maximum(index - 1, 1), 0)
    return found
