"""Several searches at once: their sentences are read together, each image is read once, and pairs are scored together.

What a search finds does not depend on those that it is answered with; a fault of one is the fault of that one alone.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby

import numpy as np

from dataset.image_folders import composed
from search.batching.batching_lock import BatchJob
from search.batching.image_tokens import ImageTokens
from search.batching.matching import PairScorer, chunks, images_at_once
from search.batching.progress import progress_callback
from search.encoder import EncodedQuery, Encoder, TokenizedQuery
from search.gallery.filters import check_filter
from search.gallery.grouping import MAX_PER_GROUP, groups_of, limit_per_group, require_group, search_groups
from search.gallery.searchable_gallery import Neighbour, SearchableGallery
from utils.errors import UserError

MAX_BATCH_PAIRS = 8192  # pairs of a sentence and an image that are scored while others wait
MIN_JOB_SIZE = 16  # of a search, in such pairs, also of one that re-ranks nothing
MAX_RESULTS = 16_384  # of one search of Milvus


class SearchJob(BatchJob):
    """One search on its way through the stages: its request, then what each stage has added.

    query, reranker_query: the sentence as encoded by the model of the gallery, and by another one that re-ranks.
    neighbours: what the index has found, of which the first `candidates` are re-ranked; scores: match logits by content
    key of the image. filtered_count: how many images pass the filter, where this is asked for (`counts_filtered`).
    """

    query: EncodedQuery

    def __init__(
        self,
        text: str,
        top: int,
        candidates: int,
        where: str,
        group: str,
        counts_filtered: bool,
        abandoned: Callable[[], bool] = lambda: False,
    ):
        super().__init__(max(candidates, MIN_JOB_SIZE), abandoned)
        self.text, self.top, self.candidates = text, top, candidates
        self.group = composed(group)  # as metadata are named
        self.where, self.counts_filtered = where, counts_filtered
        self.reranker_query: EncodedQuery | None = None
        self.neighbours: list[Neighbour] = []
        self.scores: dict[str, float] = {}
        self.missing: dict[str, str] = {}
        self.filtered_count: int | None = None
        self.milliseconds: dict[str, float] = {}
        self.on_progress = progress_callback()

    @property
    def index_limit(self) -> int:
        """How many images the index is asked for."""
        return max(self.top, self.candidates)

    @property
    def rerank_query(self) -> EncodedQuery:
        """The sentence as the model that re-ranks reads it."""
        return self.reranker_query or self.query

    @property
    def to_rerank(self) -> list[Neighbour]:
        return self.neighbours[: self.candidates]


class Batches:
    """Answers several searches of a gallery, stage by stage."""

    def __init__(self, encoder: Encoder, reranker: Encoder, gallery: SearchableGallery, tokens: ImageTokens):
        self.encoder, self.reranker, self.gallery, self.tokens = encoder, reranker, gallery, tokens

    def run(self, jobs: Sequence[SearchJob]) -> None:
        """Answer searches together, stage by stage; what goes wrong with one of them is kept as its `error`."""
        clock = StageTimer()
        self.read(jobs)
        clock.lap("reading")
        self.find(without_errors(jobs))
        clock.lap("embedding search")
        self.rerank(without_errors(jobs), clock)
        for job in jobs:
            job.milliseconds = clock.milliseconds

    # ---- stages ------------------------------------------------------------------------

    def read(self, jobs: Sequence[SearchJob]) -> None:
        """Encode the sentences, also for another model that re-ranks, and check filters and groups."""
        split: list[tuple[SearchJob, TokenizedQuery]] = []
        matched: list[tuple[SearchJob, TokenizedQuery]] = []
        for job in jobs:
            with keep_error(job):
                one = self.encoder.tokenize(job.text)
                if job.candidates and self.reranker is not self.encoder:
                    matched.append((job, self.reranker.tokenize(job.text)))
                job.where = check_filter(job.where, self.gallery.columns() if job.where else {})
                require_group(job.group, self.gallery.columns() if job.group else {})
                split.append((job, one))
        for (job, _), read in zip(split, self.encoder.embed([one for _, one in split]), strict=True):
            job.query = read
        for (job, _), read in zip(matched, self.reranker.embed([one for _, one in matched]), strict=True):
            job.reranker_query = read

    def find(self, jobs: Sequence[SearchJob]) -> None:
        """The nearest images: those of searches that ask alike by one search of the index."""
        plain = sorted((job for job in jobs if not job.group), key=index_request)
        for (where, count), some in groupby(plain, key=index_request):
            together = list(some)
            try:
                self.find_together(together, where, count)
            except UserError as error:  # of the filter, or of the index
                for job in together:
                    job.error = error
        for job in without_errors(jobs):
            with keep_error(job):
                if job.group:
                    job.neighbours = self.find_groups(job)
                if job.counts_filtered:
                    job.filtered_count = self.gallery.store.count(job.where)

    def find_together(self, jobs: Sequence[SearchJob], where: str, count: int) -> None:
        found = self.gallery.nearest(np.stack([job.query.embedding for job in jobs]), count, where)
        for job, near in zip(jobs, found, strict=True):
            job.neighbours = near

    def find_groups(self, job: SearchJob) -> list[Neighbour]:
        """The nearest images, `MAX_PER_GROUP` of each group at most; none of an empty gallery."""
        images = len(self.gallery.records)
        if not images:  # Milvus refuses to look for no image
            return []
        found, groups = search_groups(
            lambda limit: self.gallery.nearest(job.query.embedding[None], limit, job.where)[0],
            lambda near: groups_of([one.image for one in near], job.group),
            job.index_limit,
            min(MAX_RESULTS, images),
        )
        return limit_per_group(found, groups, MAX_PER_GROUP, job.index_limit * MAX_PER_GROUP)

    def rerank(self, jobs: Sequence[SearchJob], clock: "StageTimer") -> None:
        """Score the candidates of all searches, some images at a time, each of which is read once."""
        images = {near.image.path: near.image for job in jobs for near in job.to_rerank}
        if images:
            texts = {job.rerank_query.token_ids: job.rerank_query for job in jobs}
            wanted: dict[tuple[int, ...], dict[str, None]] = {pieces: {} for pieces in texts}
            for job in jobs:
                wanted[job.rerank_query.token_ids] |= {near.image.content_key: None for near in job.to_rerank}
            matching = PairScorer(self.reranker, list(texts.values()))
            clock.lap("re-ranking")
            before = 0
            for part in chunks(list(images.values()), images_at_once(self.reranker)):
                tokens, missing = self.tokens.of(part, partial(report_read, jobs, before, len(images)))
                before += len(part)
                clock.lap("image tokens")
                found = matching.score([list(names) for names in wanted.values()], tokens)
                scores = dict(zip(texts, found, strict=True))
                for job in jobs:
                    job.scores |= scores[job.rerank_query.token_ids]
                    paths = [near.image.path for near in job.to_rerank]
                    job.missing |= {path: missing[path] for path in paths if path in missing}
                clock.lap("re-ranking")


def report_read(jobs: Sequence[SearchJob], before: int, of: int, done: int) -> None:
    """Report to those who wait that `before` + `done` of all images are read by now."""
    for job in jobs:
        job.on_progress(before + done, of)


def index_request(job: SearchJob) -> tuple[str, int]:
    """What searches that ask the index alike have in common."""
    return job.where, job.index_limit


def without_errors(jobs: Sequence[SearchJob]) -> list[SearchJob]:
    """Those with which nothing is wrong."""
    return [job for job in jobs if job.error is None]


@contextmanager
def keep_error(job: SearchJob) -> Iterator[None]:
    """Keep what goes wrong with one search for that one."""
    try:
        yield
    except Exception as error:
        job.error = error


STAGES = ("reading", "embedding search", "image tokens", "re-ranking")


class StageTimer:
    """Milliseconds of each stage."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.milliseconds[name] += 1000 * (now - self.last)
        self.last = now
