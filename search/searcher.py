"""Search in two stages: the nearest embeddings of a gallery, of which the best are then re-ranked by the matching head.

The model that made the gallery does both, or another one re-ranks: nothing of that is kept with the gallery.

Letters: K candidates, N image tokens, D width.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.decoding import Unusable
from evaluation.calibration import FALSE_ALARMS, StageCalibration, require_rate
from search.encoder import EncodedQuery, Encoder
from search.filters import check_filter
from search.grouping import MOMENTS, gathered, groups_of, require_group, search_groups, thinned
from search.likelihood import Likelihood, calibration_of, likelihood_of
from search.progress import report
from search.read_gallery import ReadGallery
from utils.errors import UserError

CANDIDATES = 128
MOST_CANDIDATES = 1000
MOST_FOUND = 16_384  # of one search of Milvus
ENCODED_AT_ONCE = 32
CACHE_BYTES = 2**30
GONE = "does not exist"


@dataclass(frozen=True)
class Hit:
    """An image that was found. similarity: cosine of the embeddings; score: logit of the matching head, by which hits
    are ordered, and its probability `match`; both None for an image that was not re-ranked. metadata: as indexed.
    moments: the others of its group, best first, where hits are grouped. probability: how likely it shows the described
    person, where the model is calibrated."""

    path: str
    similarity: float
    score: float | None
    metadata: dict[str, Any]
    moments: "tuple[Hit, ...]" = ()
    probability: float | None = None

    @property
    def match(self) -> float | None:
        return None if self.score is None else float(1 / (1 + np.exp(-self.score)))


@dataclass(frozen=True)
class Answer:
    """Hits, best first; milliseconds by stage; missing: images whose files could not be read, with why.

    query: as the model of the gallery reads it; matched: as another model that re-ranked reads it. likelihood: of the
    hits that were ordered by calibrated scores; None where there are none.
    """

    query: EncodedQuery
    hits: list[Hit]
    milliseconds: dict[str, float]
    missing: dict[str, str]
    matched: EncodedQuery | None = None
    likelihood: Likelihood | None = None

    @property
    def verdict(self) -> str:
        """In plain words that probably nobody fits; empty where somebody may, or that cannot be said."""
        return self.likelihood.verdict if self.likelihood else ""

    @property
    def nobody_fits(self) -> bool | None:
        """Whether probably nobody fits; None where that cannot be said."""
        return self.likelihood.nobody_fits if self.likelihood else None

    @property
    def readings(self) -> list[EncodedQuery]:
        """The sentence as each model reads it."""
        return [self.query, *([self.matched] if self.matched else [])]

    @property
    def told(self) -> list[str]:
        """What a user is to know of how the sentence was read."""
        of_matching = self.matched.told if self.matched else []
        return [*self.query.told, *(f"in re-ranking: {line}" for line in of_matching)]

    def reading(self) -> dict[str, Any]:
        """For programs, what was read of the sentence: by the model that reads the smallest part of it, if two do.

        unknown: to any of them.
        """
        least = min(self.readings, key=lambda reading: reading.words_read / reading.words)
        return {
            "read_as": least.read_as,
            "unknown": list(dict.fromkeys(word for reading in self.readings for word in reading.unknown)),
            "words": least.words,
            "words_read": least.words_read,
        }


def unwatched(action: str, **details: Any) -> None:
    """What a searcher tells of its actions where nobody has to sign in and nothing is recorded."""


class TokenCache:
    """Image tokens [N, D] by content (`IndexedImage.content`): those used last, at most `capacity` bytes of them."""

    def __init__(self, capacity: int = CACHE_BYTES):
        self.capacity, self.held = capacity, 0
        self.tokens: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, content: str) -> Tensor | None:
        if content in self.tokens:
            self.tokens.move_to_end(content)
        return self.tokens.get(content)

    def put(self, content: str, tokens: Tensor) -> None:
        if content in self.tokens or tokens.nbytes > self.capacity:
            return
        self.tokens[content] = tokens
        self.held += tokens.nbytes
        while self.held > self.capacity:
            self.held -= self.tokens.popitem(last=False)[1].nbytes

    def drop(self, digest: str) -> None:
        """Hold nothing of a file any more."""
        tokens = self.tokens.pop(digest, None)
        self.held -= 0 if tokens is None else tokens.nbytes


class Searcher:
    """Finds the images of a gallery that fit a sentence. Calls from several threads take turns."""

    def __init__(
        self,
        encoder: Encoder,
        gallery: ReadGallery,
        cache_bytes: int = CACHE_BYTES,
        reranker: Encoder | None = None,
        false_alarms: float = FALSE_ALARMS,
        watch: Callable[..., None] = unwatched,
    ):
        """encoder: of the gallery; reranker: another model that re-ranks what it finds and explains hits.

        false_alarms: share of the searches for people who are not there that may be answered as if they were.
        watch: called with the name of an action and its details before it is answered or done; it may raise UserError.

        Raises UserError when the reranker cannot re-rank, or that share is not between 0 and 1.
        """
        require_rate(false_alarms)
        if reranker is not None:
            _ = reranker.trained.matcher  # raises it where there is none
        self.encoder, self.gallery, self.cache = encoder, gallery, TokenCache(cache_bytes)
        self.reranker, self.false_alarms = reranker or encoder, false_alarms
        self.turn = threading.RLock()
        self.watch = watch
        self.read_as: dict[str, tuple[int, ...] | None] = {}  # by path: the state of the file when it was read

    def search(
        self, text: str, top: int = 10, candidates: int = CANDIDATES, where: str = "", group: str = ""
    ) -> Answer:
        """The `top` images for a sentence. The nearest `candidates` (0: none) are re-ranked; all others rank below.

        Without a model that has a matching head none are re-ranked.

        where: a filter on metadata, such as: camera == 'c3' and time < 900. group: the name of metadata, such as track,
        or `alike`: images with the same value, or that look the same, are one hit, with the best of them as moments.

        Raises UserError for a sentence without words, a wrong filter or group, or wrong numbers.
        """
        if not 1 <= top <= MOST_CANDIDATES or not 0 <= candidates <= MOST_CANDIDATES:
            raise UserError(f"top must be from 1 to {MOST_CANDIDATES}, candidates from 0 to {MOST_CANDIDATES}")
        candidates = candidates if self.reranker.model.reranks else 0
        with self.turn:
            clock = Clock()
            query = self.encoder.query(text)
            matched = self.reranker.query(text) if candidates and self.reranker is not self.encoder else None
            clock.lap("reading")
            where = check_filter(where, self.gallery.columns() if where else {})
            require_group(group, self.gallery.columns() if group else {})
            near = self.nearest(query.embedding, max(top, candidates), where, group)
            clock.lap("embedding search")
            tokens, missing = self.image_tokens([path for _, path, _ in near[:candidates]])
            clock.lap("image tokens")
            scores = self.match(matched or query, tokens)
            clock.lap("re-ranking")
        ranked = sorted(near[:candidates], key=lambda hit: -scores.get(hit[1], -np.inf))
        missing |= dict.fromkeys(self.gone([path for _, path, _ in near[candidates:]]), GONE)
        kept = [hit for hit in [*ranked, *near[candidates:]] if hit[1] not in missing]
        hits = [
            Hit(path, similarity, scores.get(path), dict(self.gallery.records.by_path[path].metadata))
            for _, path, similarity in (kept if group else kept[:top])
        ]
        hits = self.grouped(hits, group)[:top] if group else hits
        likelihood = self.likelihood(hits, candidates > 0, where)
        known = likelihood.probabilities if likelihood else []
        hits = [*(replace(hit, probability=one) for hit, one in zip(hits, known, strict=False)), *hits[len(known) :]]
        self.watch("query", text=text, where=where, hits=len(hits))
        return Answer(query, hits, clock.milliseconds, missing, matched, likelihood)

    def gone(self, paths: Sequence[str]) -> list[str]:
        """Those images whose files are not there any more."""
        files = {path: self.gallery.file_of(path) for path in paths}
        self.gallery.images.look_at(files.values())
        return [path for path, file in files.items() if self.gallery.images.state(file) is None]

    def calibration(self, reranked: bool) -> StageCalibration | None:
        """What the scores that order hits mean; None where that is not known."""
        return calibration_of(self.reranker if reranked else self.encoder, reranked)

    def likelihood(self, hits: Sequence[Hit], reranked: bool, where: str) -> Likelihood | None:
        """How likely those hits are right that have the scores by which they are ordered; None where nothing says so.

        where: the filter that they passed.
        """
        calibration = self.calibration(reranked)
        scores = [hit.score if reranked else hit.similarity for hit in hits]
        known = [score for score in scores if score is not None]
        if calibration is None or not known:
            return None
        with self.turn:
            images = self.gallery.store.count(where) if where else len(self.gallery.records)
        return likelihood_of(known, calibration, max(images, len(hits)), self.false_alarms)

    def nearest(self, embedding: np.ndarray, count: int, where: str, group: str) -> list[tuple[str, str, float]]:
        """The nearest images, as of `Store.search`; with a group, `MOMENTS` of each at most."""
        search = self.gallery.nearest
        if not group:
            return search(embedding, count, where)
        most = min(MOST_FOUND, len(self.gallery.records))
        found, groups = search_groups(
            lambda limit: search(embedding, limit, where),
            lambda near: groups_of(self.gallery, [path for _, path, _ in near], group),
            count,
            most,
        )
        return thinned(found, groups, MOMENTS, count * MOMENTS)

    def grouped(self, hits: Sequence[Hit], group: str) -> list[Hit]:
        """The best hit of each group, with the others of it."""
        found = gathered(hits, groups_of(self.gallery, [hit.path for hit in hits], group))
        return [replace(best, moments=tuple(others)) for best, *others in found]

    def match(self, query: EncodedQuery, tokens: dict[str, Tensor]) -> dict[str, float]:
        """Match logits by path of images whose tokens [N, D] are given by path."""
        paths, scores = list(tokens), dict[str, float]()
        for start in range(0, len(paths), ENCODED_AT_ONCE):
            batch = paths[start : start + ENCODED_AT_ONCE]
            logits = self.reranker.match(query, torch.stack([tokens[path] for path in batch]))
            scores |= dict(zip(batch, map(float, logits), strict=True))
        return scores

    def image_tokens(self, paths: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tokens [N, D] of images by path, from the cache or encoded again; and why other images could not be read."""
        found: dict[str, Tensor] = {}
        waiting: dict[str, Tensor] = {}
        missing: dict[str, str] = {}
        self.gallery.images.look_at([self.gallery.file_of(path) for path in paths])
        for path in paths:
            cached = self.cache.get(self.gallery.records.by_path[path].content)
            try:
                content = self.content_unless_known(path, cached is not None)
                if cached is not None:
                    found[path] = cached
                elif content is not None:
                    waiting[path] = self.reranker.read(content)
            except Unusable as fault:
                missing[path] = str(fault)
            if len(waiting) == ENCODED_AT_ONCE:
                found |= self.encode(waiting)
                waiting = {}
                report(len(found), len(paths))
        found |= self.encode(waiting)
        return {path: found[path] for path in paths if path in found}, missing

    def content_unless_known(self, path: str, known: bool) -> bytes | None:
        """The file of an image; None when it is `known` and the file has not been touched since it was read last.

        Raises Unusable when the file is gone or another one.
        """
        state = self.gallery.images.state(self.gallery.file_of(path))
        if known and state is not None and state == self.read_as.get(path):
            return None
        content = self.gallery.content_of(path)
        self.read_as[path] = state
        return content

    def encode(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """uint8 images [3, H, W] by path -> tokens [N, D] by path, which the cache takes."""
        if not images:
            return {}
        tokens, _ = self.reranker.encode_images(list(images.values()))
        assert tokens is not None, "images are encoded again to be re-ranked"
        found = {path: one.clone() for path, one in zip(images, tokens, strict=True)}
        for path, one in found.items():
            self.cache.put(self.gallery.records.by_path[path].content, one)
        return found


class Clock:
    """Milliseconds between laps."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.milliseconds[name] = 1000 * (now - self.last)
        self.last = now
