"""The types of index that a gallery may have, by Milvus' own names, and how each is built and searched.

Letters: R images, E embedding.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from utils.errors import UserError, did_you_mean

EXACT, GRAPH = "FLAT", "HNSW"
AUTO = "auto"
EXACT_BELOW = 100_000  # images; from there on a graph, where nothing is asked for
LISTS_PER_ROOT, MIN_LISTS, MAX_LISTS = 4, 16, 65_536  # lists of an index of R images: 4 times the root of R
CANDIDATES_IN_GRAPH = 512, 4  # at least so many are kept while a graph is searched, and so many for each hit
PROBED = 8  # one of so many lists is searched,
PROBED_PER_HIT = 16  # and so many that they hold this many images for each hit


@dataclass(frozen=True)
class IndexType:
    """How one index type of Milvus is built and searched.

    about: for users. build: its parameters for so many images. search: those of a search for so many of them, when it
    was built with these.
    """

    about: str
    build: Callable[[int], Mapping[str, Any]]
    search: Callable[[int, Mapping[str, Any]], Mapping[str, Any]]


def no_parameters(*_: object) -> Mapping[str, Any]:
    return {}


def graph_parameters(images: int) -> Mapping[str, Any]:
    return {"M": 32, "efConstruction": 256}


def rounded_graph_parameters(images: int) -> Mapping[str, Any]:
    return {**graph_parameters(images), "sq_type": "SQ8"}


def list_parameters(images: int) -> Mapping[str, Any]:
    return {"nlist": min(MAX_LISTS, max(MIN_LISTS, LISTS_PER_ROOT * math.isqrt(images)))}


def search_graph(count: int, built_with: Mapping[str, Any]) -> Mapping[str, Any]:
    least, per_hit = CANDIDATES_IN_GRAPH
    return {"ef": max(least, per_hit * count)}


def search_lists(count: int, built_with: Mapping[str, Any]) -> Mapping[str, Any]:
    lists = int(built_with.get("nlist") or MIN_LISTS)
    images_of_list = max(1, lists // LISTS_PER_ROOT**2)  # the root of R, by LISTS_PER_ROOT
    return {"nprobe": min(lists, max(lists // PROBED, PROBED_PER_HIT * count // images_of_list))}


def search_disk(count: int, built_with: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"search_list": max(CANDIDATES_IN_GRAPH[0], count)}


INDEX_TYPES: Mapping[str, IndexType] = {
    EXACT: IndexType("all images compared", no_parameters, no_parameters),
    GRAPH: IndexType("a graph of near neighbours (Malkov and Yashunin, 2020)", graph_parameters, search_graph),
    "HNSW_SQ": IndexType("such a graph, of numbers rounded to 8 bits", rounded_graph_parameters, search_graph),
    "IVF_FLAT": IndexType("lists of near images, of which the nearest are searched", list_parameters, search_lists),
    "IVF_SQ8": IndexType("such lists, of numbers rounded to 8 bits", list_parameters, search_lists),
    "DISKANN": IndexType("a graph on disks, which servers have alone", no_parameters, search_disk),
}
CHOICES = (AUTO, *INDEX_TYPES)


def require_index_type(name: object) -> str:
    """A name of CHOICES. Raises UserError for others."""
    if name not in CHOICES:
        raise UserError(
            f"there is no index type {name!r}{did_you_mean(str(name), CHOICES)}; known are {', '.join(CHOICES)}"
        )
    return str(name)


def chosen_type(name: str, images: int) -> str:
    """The type of an index of so many images, where `name` of CHOICES is asked for."""
    if name != AUTO:
        return name
    return EXACT if images < EXACT_BELOW else GRAPH
