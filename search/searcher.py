"""Two stages: the nearest embeddings of a gallery, then the best of them read together with the sentence.

Letters: K candidates, N image tokens, D width.
"""

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.decoding import Unusable
from search.encoder import Encoder, Query
from search.gallery import Gallery
from utils.errors import UserError

CANDIDATES = 128
MOST_CANDIDATES = 1000
ENCODED_AT_ONCE = 32
CACHE_BYTES = 2**30
QUOTED = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""  # text within a filter
OF_FILTERS = {"and", "or", "not", "in", "like", "is", "null", "true", "false", "exists", "path", "id"}


@dataclass(frozen=True)
class Hit:
    """An image that was found. similarity: cosine of the embeddings; match: probability of the matching head, and its
    logit `score`, by which hits are ordered; both None of an image that was not re-ranked. metadata: as indexed."""

    path: str
    similarity: float
    score: float | None
    metadata: dict[str, Any]

    @property
    def match(self) -> float | None:
        return None if self.score is None else float(1 / (1 + np.exp(-self.score)))


@dataclass(frozen=True)
class Answer:
    """Hits, best first; milliseconds by stage; missing: candidates whose files could not be read, with why."""

    query: Query
    hits: list[Hit]
    milliseconds: dict[str, float]
    missing: dict[str, str]


class TokenCache:
    """Image tokens [N, D] by digest of the file, the latest used ones, at most `room` bytes of them."""

    def __init__(self, room: int = CACHE_BYTES):
        self.room, self.held = room, 0
        self.tokens: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, digest: str) -> Tensor | None:
        if digest in self.tokens:
            self.tokens.move_to_end(digest)
        return self.tokens.get(digest)

    def put(self, digest: str, tokens: Tensor) -> None:
        if digest in self.tokens or tokens.nbytes > self.room:
            return
        self.tokens[digest] = tokens
        self.held += tokens.nbytes
        while self.held > self.room:
            self.held -= self.tokens.popitem(last=False)[1].nbytes


class Searcher:
    """Answers sentences from a gallery. Calls from several threads take turns."""

    def __init__(self, encoder: Encoder, gallery: Gallery, cache_bytes: int = CACHE_BYTES):
        self.encoder, self.gallery, self.cache = encoder, gallery, TokenCache(cache_bytes)
        self.turn = threading.RLock()

    def search(self, text: str, top: int = 10, candidates: int = CANDIDATES, where: str = "") -> Answer:
        """The `top` images for a sentence; the best `candidates` are re-ranked (0: none), all others stay behind them.

        where: a filter on metadata, such as: camera == 'c3' and time < 900.

        Raises UserError for a sentence without words, a wrong filter or wrong numbers.
        """
        if not 1 <= top <= MOST_CANDIDATES or not 0 <= candidates <= MOST_CANDIDATES:
            raise UserError(f"top must be from 1 to {MOST_CANDIDATES}, candidates from 0 to {MOST_CANDIDATES}")
        with self.turn:
            clock = Clock()
            query = self.encoder.query(text)
            clock.lap("reading")
            self.check_filter(where)
            near = self.gallery.store.search(query.embedding, max(top, candidates), where)
            clock.lap("embedding search")
            found, missing = self.candidates(path for _, path, _ in near[:candidates])
            clock.lap("image tokens")
            scores = self.match(query, found)
            clock.lap("re-ranking")
        ranked = sorted(near[:candidates], key=lambda hit: -scores.get(hit[1], -np.inf))
        kept = [hit for hit in ranked if hit[1] not in missing] + near[candidates:]
        hits = [
            Hit(path, similarity, scores.get(path), dict(self.gallery.records.by_path[path].metadata))
            for _, path, similarity in kept[:top]
        ]
        return Answer(query, hits, clock.milliseconds, missing)

    def check_filter(self, where: str) -> None:
        """Raises UserError for a name that no image has as metadata: Milvus would find nothing, without a word."""
        columns = self.gallery.columns() if where else {}
        for name in re.findall(r"(?<![\w.])[A-Za-z_]\w*(?!\w*\s*\()", re.sub(QUOTED, "''", where)):
            if name.lower() not in OF_FILTERS and name not in columns:
                raise UserError(f"the filter {where!r} is not understood: {unknown_column(name, columns)}")

    def match(self, query: Query, tokens: dict[str, Tensor]) -> dict[str, float]:
        """Match logits by path."""
        paths, scores = list(tokens), {}
        for start in range(0, len(paths), ENCODED_AT_ONCE):
            some = paths[start : start + ENCODED_AT_ONCE]
            found = self.encoder.match(query, torch.stack([tokens[path] for path in some]))
            scores |= dict(zip(some, map(float, found), strict=True))
        return scores

    def candidates(self, paths: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tokens [N, D] of images by path, kept or encoded again; and why others could not be read."""
        found: dict[str, Tensor] = {}
        waiting: dict[str, Tensor] = {}
        missing: dict[str, str] = {}
        paths = list(paths)
        for path in paths:
            kept = self.cache.get(self.gallery.records.by_path[path].digest)
            if kept is not None:
                found[path] = kept
                continue
            try:
                waiting[path] = self.encoder.read(self.gallery.content_of(path))
            except Unusable as fault:
                missing[path] = str(fault)
            if len(waiting) == ENCODED_AT_ONCE:
                found |= self.encode(waiting)
                waiting = {}
        found |= self.encode(waiting)
        return {path: found[path] for path in paths if path in found}, missing

    def encode(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """uint8 images by path -> tokens by path, which are kept."""
        if not images:
            return {}
        tokens, _ = self.encoder.encode_images(list(images.values()))
        found = {path: one.clone() for path, one in zip(images, tokens, strict=True)}
        for path, one in found.items():
            self.cache.put(self.gallery.records.by_path[path].digest, one)
        return found


def unknown_column(name: str, columns: Iterable[str]) -> str:
    """What to tell who names metadata that no image has."""
    there = ", ".join(columns)
    text = f" (text is written '{name}')" if there else ""
    return f"no metadata are called {name}{text}; there are {there or 'none: give some to index by --metadata'}"


class Clock:
    """Milliseconds between laps."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.milliseconds[name] = 1000 * (now - self.last)
        self.last = now
