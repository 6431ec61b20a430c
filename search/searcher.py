"""Search in two stages: the nearest embeddings of a gallery, of which the best are then re-ranked by the matching head.

The model that made the gallery does both, or another one re-ranks: nothing of that is kept with the gallery. Searches
that wait for the model at the same time are answered together (`search.batching.batches`), and as each would be alone.
"""

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from evaluation.calibration import FALSE_ALARMS, StageCalibration, require_rate
from search.batching.batches import MAX_BATCH_PAIRS, Batches, SearchJob
from search.batching.batching_lock import BatchingLock
from search.batching.image_tokens import CACHE_BYTES, GONE, ImageTokens
from search.encoder import Encoder
from search.files.records import IndexedImage
from search.gallery.grouping import group_items, groups_of
from search.gallery.searchable_gallery import Neighbour, SearchableGallery
from search.likelihood import HitProbabilities, hit_probabilities, stage_calibration
from search.results.search_result import Hit as Hit
from search.results.search_result import SearchResult as SearchResult
from utils.errors import UserError

CANDIDATES = 128
MAX_CANDIDATES = 1000


def allow_everything(action: str, **details: Any) -> None:
    """What a searcher tells of its actions where nobody has to sign in and nothing is recorded."""


class Searcher:
    """Finds the images of a gallery that fit a sentence. Calls from several threads are batched."""

    def __init__(
        self,
        encoder: Encoder,
        gallery: SearchableGallery,
        cache_bytes: int = CACHE_BYTES,
        reranker: Encoder | None = None,
        false_alarms: float = FALSE_ALARMS,
        authorize: Callable[..., None] = allow_everything,
        together: bool = True,
    ):
        """encoder: of the gallery; reranker: another model that re-ranks what it finds and explains hits.

        false_alarms: share of the searches for people who are not there that may be answered as if they were.
        authorize: called with the name of an action and its details before it is done; it may raise UserError.
        together: whether searches that wait are answered together; if not, one after the other.

        Raises UserError when the reranker cannot re-rank, or that share is not between 0 and 1.
        """
        require_rate(false_alarms)
        if reranker is not None:
            _ = reranker.trained.matcher  # raises it where there is none
        self.encoder, self.gallery = encoder, gallery
        self.drops: list[Callable[[str], None]] = []  # what else forgets the content of erased images
        self.reranker, self.false_alarms = reranker or encoder, false_alarms
        self.tokens = ImageTokens(gallery, self.reranker, cache_bytes)
        self.model_lock: BatchingLock[SearchJob] = BatchingLock(MAX_BATCH_PAIRS, together)
        self.batches = Batches(encoder, self.reranker, gallery, self.tokens)
        self.worker = ThreadPoolExecutor(1, "search")  # torch keeps memory and threads for each thread that computes
        self.authorize = authorize

    def search(
        self,
        text: str,
        top: int = 10,
        candidates: int = CANDIDATES,
        where: str = "",
        group: str = "",
        abandoned: Callable[[], bool] = lambda: False,
    ) -> SearchResult:
        """The `top` images for a sentence. The nearest `candidates` (0: none) are re-ranked; all others rank below.

        Without a model that has a matching head none are re-ranked.

        where: a filter on metadata, such as: camera == 'c3' and time < 900. group: the name of metadata, such as track,
        or `alike`: images with the same value, or that look the same, are one hit, with the best of them as moments.
        abandoned: whether nobody waits for the answer any more; a search that has not begun by then raises Abandoned.

        Raises UserError for a sentence without words, a wrong filter or group, or wrong numbers.
        """
        if not 1 <= top <= MAX_CANDIDATES or not 0 <= candidates <= MAX_CANDIDATES:
            raise UserError(f"top must be from 1 to {MAX_CANDIDATES}, candidates from 0 to {MAX_CANDIDATES}")
        candidates = candidates if self.reranker.model.reranks else 0
        counts_filtered = bool(where) and self.calibration(candidates > 0) is not None
        job = SearchJob(text, top, candidates, where, group, counts_filtered, abandoned)
        self.model_lock.run(job, self.run_batch)
        hits = self.hits_of(job)
        likelihood = self.likelihood(hits, candidates > 0, job.filtered_count)
        known = likelihood.probabilities if likelihood else []
        hits = [*(replace(hit, probability=one) for hit, one in zip(hits, known, strict=False)), *hits[len(known) :]]
        self.authorize("query", text=text, where=where, hits=len(hits))
        return SearchResult(job.query, hits, job.milliseconds, job.missing, job.reranker_query, likelihood)

    def run_batch(self, jobs: list[SearchJob]) -> None:
        """Answer searches together, in the one thread that computes them."""
        self.worker.submit(self.batches.run, jobs).result()

    def hits_of(self, job: SearchJob) -> list[Hit]:
        """The best of what a search has found, in their order."""
        scored = [(near, job.scores.get(near.image.content_key)) for near in job.to_rerank]
        scored.sort(key=lambda pair: -np.inf if pair[1] is None else pair[1], reverse=True)  # stable
        others = job.neighbours[job.candidates :]
        job.missing |= dict.fromkeys(self.gone([near.image for near in others]), GONE)
        kept = [pair for pair in [*scored, *((near, None) for near in others)] if pair[0].image.path not in job.missing]
        if not job.group:
            return [hit_of(near, score) for near, score in kept[: job.top]]
        hits = [hit_of(near, score) for near, score in kept]
        return grouped(hits, groups_of([near.image for near, _ in kept], job.group))[: job.top]

    def gone(self, images: Sequence[IndexedImage]) -> list[str]:
        """The paths of those whose files are not there any more."""
        self.gallery.image_source.look_at([image.file for image in images])
        return [image.path for image in images if self.gallery.image_source.state(image.file) is None]

    def calibration(self, reranked: bool) -> StageCalibration | None:
        """What the scores that order hits mean; None where that is not known."""
        return stage_calibration(self.reranker if reranked else self.encoder, reranked)

    def likelihood(self, hits: Sequence[Hit], reranked: bool, images: int | None) -> HitProbabilities | None:
        """How likely those hits are right that have the scores by which they are ordered; None where nothing says so.

        images: how many pass the filter; None = all do.
        """
        calibration = self.calibration(reranked)
        scores = [hit.score if reranked else hit.similarity for hit in hits]
        known = [score for score in scores if score is not None]
        if calibration is None or not known:
            return None
        images = len(self.gallery.records) if images is None else images
        return hit_probabilities(known, calibration, max(images, len(hits)), self.false_alarms)


def hit_of(near: Neighbour, score: float | None) -> Hit:
    image = near.image
    return Hit(image.path, near.similarity, score, dict(image.metadata), id=image.id)


def grouped(hits: Sequence[Hit], groups: Sequence[Hashable]) -> list[Hit]:
    """The best hit of each group, with the others of it."""
    return [replace(best, moments=tuple(others)) for best, *others in group_items(hits, groups)]
