"""Hits that belong together are one result: those of a track, of any other metadata, or that look the same.

Letters: E embedding.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from search.files.records import IndexedImage
from utils.errors import UserError, did_you_mean

ALIKE = "alike"
MAX_PER_GROUP = 4  # images of one group that are re-ranked and shown
SAME = 0.97  # cosine of two images from which they count as alike

T = TypeVar("T")


def require_group(group: str, columns: Collection[str]) -> None:
    """Raises UserError unless there is something to group by: the name of metadata, or `alike`."""
    if group not in ("", ALIKE, *columns):
        there = f"there are {', '.join(columns)}, and " if columns else "there are none; "
        raise UserError(
            f"group: no metadata are called {group}{did_you_mean(group, (*columns, ALIKE))};"
            f" {there}{ALIKE} groups images that look the same"
        )


def groups_of(images: Sequence[IndexedImage], group: str) -> list[Hashable]:
    """To which group each image belongs; the first of those that are alike stands for them. Images without a value of
    the metadata are groups of their own."""
    if group == ALIKE:
        return list(representatives(images))
    values = [image.metadata.get(group) for image in images]
    return [(image.path,) if value is None else value for image, value in zip(images, values, strict=True)]


def representatives(images: Iterable[IndexedImage]) -> Iterable[str]:
    """The first image that each looks the same as, out of those before it that look like none before them."""
    firsts: list[str] = []
    embeddings = np.zeros((0, 0), np.float32)  # [at least firsts, E]
    for image in images:
        path, own = image.path, image.embedding
        alike = np.flatnonzero(embeddings[: len(firsts)] @ own >= SAME) if firsts else np.zeros(0, int)
        if not len(alike):
            if len(firsts) == len(embeddings):  # twice the room
                embeddings = np.resize(embeddings, (max(64, 2 * len(firsts)), len(own)))
            embeddings[len(firsts)] = own
            firsts.append(path)
        yield path if not len(alike) else firsts[int(alike[0])]


def limit_per_group(items: Sequence[T], groups: Sequence[Hashable], most: int, count: int) -> list[T]:
    """The first `count` items, of which no more than `most` are of one group."""
    kept: list[T] = []
    seen: dict[Hashable, int] = {}
    for item, group in zip(items, groups, strict=True):
        if len(kept) < count and seen.get(group, 0) < most:
            seen[group] = seen.get(group, 0) + 1
            kept.append(item)
    return kept


def group_items(items: Sequence[T], groups: Sequence[Hashable]) -> list[list[T]]:
    """The items of each group, groups in the order of their first ones."""
    found: dict[Hashable, list[T]] = {}
    for item, group in zip(items, groups, strict=True):
        found.setdefault(group, []).append(item)
    return list(found.values())


def search_groups(
    search: Callable[[int], list[T]], groups: Callable[[list[T]], Sequence[Hashable]], wanted: int, most: int
) -> tuple[list[T], Sequence[Hashable]]:
    """The nearest items, so many that they are of `wanted` groups where there are as many.

    search: the nearest so many; most: how many it can find at all.
    """
    limit = min(most, wanted * MAX_PER_GROUP)
    while True:
        found = search(limit)
        own = groups(found)
        if len(set(own)) >= wanted or len(found) < limit or limit == most:
            return found, own
        limit = min(most, 4 * limit)
