"""Two sentences side by side: the hits of both, which of them are common, and how their ranks differ."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from search.gallery.grouping import ALIKE
from search.gallery.searchable_gallery import SearchableGallery
from search.page.hits import caption_as_html, picture_as_html
from search.page.messages import seconds_as_text
from search.searcher import Hit, SearchResult
from utils.text import agreeing, counted


@dataclass(frozen=True)
class Comparison:
    """The hits of two sentences in each other's ranking.

    others: for each hit of the first and of the second sentence, its rank for the other one, or None.
    """

    others: tuple[list[int | None], list[int | None]]

    @property
    def common(self) -> list[tuple[int, int]]:
        """Ranks for both sentences of all hits that both have, in the order of the first."""
        return [(rank, other) for rank, other in enumerate(self.others[0], 1) if other is not None]

    @property
    def distance(self) -> float | None:
        """By how much the ranks of common hits differ in the mean; None where there are none."""
        return sum(abs(one - other) for one, other in self.common) / len(self.common) if self.common else None


def compare(first: Sequence[Hit], second: Sequence[Hit], group: str = "") -> Comparison:
    """Compare the hits of two sentences; with a group (as of `Searcher.search`), hits of the same group are the same.

    A hit has one counterpart at most.
    """
    partner: dict[int, int] = {}
    for index, hit in enumerate(first):
        free = (other for other in range(len(second)) if other not in partner.values())
        found = next((other for other in free if same(hit, second[other], group)), None)
        if found is not None:
            partner[index] = found
    back = {other: index for index, other in partner.items()}
    return Comparison((ranks(partner, len(first)), ranks(back, len(second))))


def ranks(partner: dict[int, int], count: int) -> list[int | None]:
    return [partner[index] + 1 if index in partner else None for index in range(count)]


def same(one: Hit, other: Hit, group: str) -> bool:
    """Whether two hits are the same image, or of the same group."""
    if not group:
        return one.path == other.path
    if group != ALIKE and group in one.metadata:
        return one.metadata[group] == other.metadata.get(group)
    return bool({one.path, *(moment.path for moment in one.moments)} & {other.path, *(m.path for m in other.moments)})


# ---- on the page -----------------------------------------------------------------------


def comparison_as_html(gallery: SearchableGallery, answers: tuple[SearchResult, SearchResult], group: str) -> str:
    """Two lists of hits beside each other."""
    found = compare(answers[0].hits, answers[1].hits, group)
    lists = "".join(
        list_as_html(gallery, answer, others, name)
        for answer, others, name in zip(answers, found.others, ("first", "second"), strict=True)
    )
    return f"<div class='both'>{lists}</div>"


def list_as_html(gallery: SearchableGallery, answer: SearchResult, others: Sequence[int | None], name: str) -> str:
    items = "".join(
        f"<li{' class=common' if other else ''}>{picture_as_html(gallery, hit, rank, moved(rank, other))}"
        f"{caption_as_html(hit, rank)}<span class='moved' aria-hidden='true'>{moved(rank, other)}</span></li>"
        for rank, (hit, other) in enumerate(zip(answer.hits, others, strict=True), 1)
    )
    told = "".join(f"<p class='hint'>{html.escape(line)}</p>" for line in [answer.verdict, *answer.warnings] if line)
    heading = f"<h3>{html.escape(answer.query.text)}</h3>"
    return f"<section aria-label='Hits of the {name} sentence'>{heading}{told}<ol class='hits'>{items}</ol></section>"


def moved(rank: int, other: int | None) -> str:
    """Where a hit of a rank stands for the other sentence."""
    if other is None:
        return "only here"
    if rank == other:
        return "in both, same rank"
    return f"in both, there {other} ({abs(other - rank)} {'lower' if other > rank else 'higher'})"


def comparison_summary(answers: tuple[SearchResult, SearchResult], group: str) -> str:
    """How much both sentences have in common, and how long they took; text without anything that somebody wrote."""
    found = compare(answers[0].hits, answers[1].hits, group)
    hits = " and ".join(counted(len(answer.hits), "result") for answer in answers)
    common = len(found.common)
    differ = "" if found.distance is None else f"; their ranks differ by {found.distance:.1f} in the mean"
    return f"{hits} in {seconds_as_text(*answers)}. {common} {agreeing(common, 'is', 'are')} in both{differ}."
