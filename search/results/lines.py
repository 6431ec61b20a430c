"""Results as people read them in a terminal."""

import sys

from search.gallery.searchable_gallery import SearchableGallery
from search.results.search_result import SearchResult
from utils.errors import one_line
from utils.text import counted


def print_warnings(answer: SearchResult) -> None:
    """On stderr, what is to be known of how the sentence was read."""
    for line in answer.warnings:
        print(one_line(line), file=sys.stderr)


def print_answer(answer: SearchResult, gallery: SearchableGallery) -> None:
    """A line for each hit; what was left out goes to stderr."""
    if answer.verdict:
        print(answer.verdict)
    for rank, hit in enumerate(answer.hits, 1):
        match = "" if hit.match is None else f"match {hit.match:.3f}  "
        match = match if hit.probability is None else f"probability {hit.probability:.3f}  "
        file = in_a_line(gallery.image_source.named(hit.path))
        more = f"  and {counted(len(hit.moments), 'more moment')}" if hit.moments else ""
        print(f"{rank:3}  {match}similarity {hit.similarity:.3f}  {file}{more}")
    if not answer.hits:
        print("nothing found")
    for path, fault in answer.missing.items():
        print(f"left out: {in_a_line(path)} {fault}", file=sys.stderr)


def in_a_line(name: str) -> str:
    """The name of a file; in quotes and with escapes where it would break the line."""
    return name if name.isprintable() else ascii(name)
