"""Captions that a report shows with their images: some that re-ranking changes, and some at random.

C captions.
"""

import numpy as np

from evaluation.drawing.page import PageQuery
from evaluation.drawing.sheet import SheetRow
from evaluation.reporting.scores import WAYS
from evaluation.results import RankingFile

SHOWN_IMAGES = 10
SHOWN_BESIDE = 5  # images of each stage where two stand side by side
WANTED_IMAGES = 6
CHANGES = {"gained": 1, "lost": -1}  # of the first image by re-ranking: right at last, and right before


def choose_queries(hits: np.ndarray, count: int, seed: int = 0) -> list[int]:
    """`count` captions drawn at random, hits and misses in proportion to R@1, in ascending order.

    hits [C] bool. From two captions on there is at least one hit and one miss, where there are any.
    """
    found, missed = np.flatnonzero(hits), np.flatnonzero(~hits)
    count = min(count, len(hits))
    wanted = round(count * len(found) / max(len(hits), 1))
    if count > 1 and len(found) and len(missed):
        wanted = min(max(wanted, 1), count - 1)
    rng = np.random.default_rng(seed)
    drawn = [*rng.permutation(found)[:wanted], *rng.permutation(missed)[: count - wanted]]
    return sorted(int(caption) for caption in drawn)


def changes_of(rankings: RankingFile) -> np.ndarray:
    """[C] int: 1 where re-ranking brings a right image to rank 1, -1 where it takes it from there, else 0."""
    if "reranked" not in rankings.indices:
        return np.zeros(len(rankings.captions), dtype=int)
    return rankings.hits("reranked").astype(int) - rankings.hits("stage1").astype(int)


def choose_changed(changes: np.ndarray, count: int, seed: int) -> dict[str, list[int]]:
    """Up to `count` captions that gained and as many that lost, drawn by seed, in ascending order."""
    rng = np.random.default_rng((seed, 1))
    drawn = {name: rng.permutation(np.flatnonzero(changes == change))[:count] for name, change in CHANGES.items()}
    return {name: sorted(captions.tolist()) for name, captions in drawn.items()}


# ---- the sheet -------------------------------------------------------------------------


def sheet_rows(rankings: RankingFile, count: int, seed: int) -> tuple[list[SheetRow], str]:
    """`count` rows and what they are: a quarter gained and a quarter lost, where there are as many, others at random.

    A caption that was drawn at random has the note too, where re-ranking changed it.
    """
    hits, changes = rankings.hits(), changes_of(rankings)
    picked = choose_changed(changes, count // 4, seed)
    changed = [*picked["gained"], *picked["lost"]]
    others = np.setdiff1d(np.arange(len(hits)), changed)
    random = others[choose_queries(hits[others], count - len(changed), seed)].tolist()
    counts = [f"{len(captions)} {name}" for name, captions in picked.items() if captions]
    drawn = f"{', '.join(counts)} and {len(random)} others" if counts else str(len(random))
    stage = rankings.final_stage
    rows = [row_of(rankings, one, stage, note=note_of(rankings, one, changes)) for one in [*changed, *random]]
    return rows, f"{WAYS[stage]}, {drawn} of {len(hits)} captions, R@1 {100 * hits.mean():.2f} %"


def row_of(rankings: RankingFile, caption: int, stage: str, images: int = SHOWN_IMAGES, note: str = "") -> SheetRow:
    """The first images of one caption in one stage."""
    indices = rankings.indices[stage][caption, :images]
    return SheetRow(
        caption=str(rankings.captions[caption]),
        identity=str(rankings.caption_identities[caption]),
        image_paths=[rankings.image_root / path for path in rankings.image_paths[indices]],
        right=(rankings.image_identities[indices] == rankings.caption_identities[caption]).tolist(),
        scores=rankings.scores[stage][caption, :images].tolist(),
        note=note,
    )


def note_of(rankings: RankingFile, caption: int, changes: np.ndarray) -> str:
    """What re-ranking did to the first right image of a caption, where it gained or lost; else nothing."""
    name = next((name for name, change in CHANGES.items() if changes[caption] == change), "")
    if not name:
        return ""
    ranks = [rankings.first_right(stage, caption) for stage in ("stage1", "reranked")]
    before, after = ("further behind" if rank is None else str(rank) for rank in ranks)
    return f"{name}: first right image {before} \u2192 {after}"


# ---- the page --------------------------------------------------------------------------


def changed_queries(rankings: RankingFile, count: int, seed: int) -> tuple[list[PageQuery], str]:
    """Up to `count` captions that gained and as many that lost, and a sentence on all captions; none in one stage."""
    if "reranked" not in rankings.indices:
        return [], ""
    changes, hits = changes_of(rankings), rankings.hits("stage1")
    chosen = choose_changed(changes, count, seed)
    queries = [
        query_of(rankings, caption, SHOWN_BESIDE, note_of(rankings, caption, changes))
        for captions in chosen.values()
        for caption in captions
    ]
    gained, lost = (int((changes == change).sum()) for change in CHANGES.values())
    stay = int((hits & (changes == 0)).sum())
    about = (
        f"Of {len(hits)} captions, re-ranking brings {gained} to rank 1 and takes {lost} from there; the first image is"
        f" right in both stages for {stay} and in none for {len(hits) - stay - gained - lost}."
    )
    shown = [f"{len(chosen[name])} that {name}" for name in CHANGES if chosen[name]]
    return queries, f"{about} Below are {' and '.join(shown)}, drawn at random." if shown else about


def random_queries(rankings: RankingFile, count: int, seed: int) -> tuple[list[PageQuery], str]:
    """Captions drawn at random, and a sentence on how they were chosen."""
    hits = rankings.hits()
    chosen = choose_queries(hits, count, seed)
    about = (
        f"{len(chosen)} of {len(hits)} captions, drawn at random: {int(hits[chosen].sum())} whose first "
        f"image is right and {int((~hits[chosen]).sum())} whose first image is wrong, in proportion to "
        f"R@1 ({100 * hits.mean():.2f} %)."
    )
    return [query_of(rankings, caption) for caption in chosen], about


def query_of(rankings: RankingFile, caption: int, images: int = SHOWN_IMAGES, note: str = "") -> PageQuery:
    """A caption with its first images in every stage, and right images that it should find."""
    wanted = np.flatnonzero(rankings.image_identities == rankings.caption_identities[caption])
    return PageQuery(
        stages={WAYS[stage]: row_of(rankings, caption, stage, images) for stage in rankings.indices},
        first_right={WAYS[stage]: rankings.first_right(stage, caption) for stage in rankings.indices},
        hit=bool(rankings.hits()[caption]),
        wanted=[rankings.image_root / path for path in rankings.image_paths[wanted[:WANTED_IMAGES]]],
        note=note,
    )
