"""Measures an index: how many of the exact neighbours it finds, how long that takes, and what memory and disk it needs.

Each index is measured in a process of its own, so that the memory of one is not that of another.

Letters: R images, Q queries, E embedding, k images that are asked for.
"""

import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from search.files.records import IndexedImage
from search.milvus.client import is_server
from search.milvus.collection_names import own_name
from search.milvus.store import IndexHit, Store
from utils.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

MIB = 2**20
CLOSE = 1e-6  # of two cosines: copies of an image are as right as each other
AT_ONCE = 100_000  # images that are compared, or added, at once
WARM_UP = 5  # queries, which are not timed


@dataclass(frozen=True)
class Measured:
    """An index of so many images that k are asked of. recall: share of the exact neighbours that it finds; median, p99:
    milliseconds of a query; memory: MiB that a process holds more when it has opened and searched it; disk: MiB; build:
    seconds. None = not known here, as on a server."""

    index_type: str
    images: int
    dimensions: int
    k: int
    recall: float
    median: float
    p99: float
    memory: float | None
    disk: float | None
    build: float | None = None


@dataclass(frozen=True)
class Embeddings:
    """What is measured, in a folder of its own: embeddings [R, E] of images by path, and queries [Q, E]."""

    folder: Path

    @classmethod
    def write(cls, folder: Path, images: np.ndarray, queries: np.ndarray, paths: Sequence[str] = ()) -> "Embeddings":
        """paths [R]: of the images; none = their numbers."""
        np.save(folder / "images.npy", images)
        np.save(folder / "queries.npy", queries)
        np.save(folder / "paths.npy", np.array(paths if len(paths) else [str(n) for n in range(len(images))]))
        return cls(folder)

    def images(self) -> np.ndarray:
        """[R, E], read from the disk as it is needed."""
        return np.load(self.folder / "images.npy", mmap_mode="r")

    def queries(self) -> np.ndarray:
        return np.load(self.folder / "queries.npy")

    def paths(self) -> list[str]:
        return list(map(str, np.load(self.folder / "paths.npy")))

    def records(self) -> Iterator[list[IndexedImage]]:
        """All images, some at a time."""
        images, paths = self.images(), self.paths()
        for start in range(0, len(images), AT_ONCE):
            some = np.array(images[start : start + AT_ONCE])
            yield [
                IndexedImage(path, path, one) for path, one in zip(paths[start : start + AT_ONCE], some, strict=True)
            ]


def worst_right(images: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The cosine [Q] of the last of the k exact neighbours of each query."""
    best = np.full((len(queries), 0), -np.inf, np.float32)
    for start in range(0, len(images), AT_ONCE):
        some = queries @ np.array(images[start : start + AT_ONCE]).T
        best = np.concatenate([best, some], axis=1)
        best = np.sort(best, axis=1)[:, -k:]
    return best[:, 0]


def recall_of(answers: Sequence[Sequence[IndexHit]], embeddings: Embeddings, k: int) -> float:
    """Share of the k exact neighbours that answers hold, in the mean over queries."""
    images, queries = embeddings.images(), embeddings.queries()
    number = {path: n for n, path in enumerate(embeddings.paths())}
    least, wanted = worst_right(images, queries, k), min(k, len(images))
    shares = []
    for query, found, last in zip(queries, answers, least, strict=True):
        rows = sorted({number[path] for _, path, _ in found[:wanted]})
        shares.append(float((images[rows] @ query >= last - CLOSE).sum()) / wanted if rows else 0.0)
    return float(np.mean(shares))


def search_all(store: Store, queries: np.ndarray, k: int) -> tuple[list[list[IndexHit]], list[float]]:
    """What is found for each query, one after the other, and its milliseconds."""
    for query in queries[:WARM_UP]:
        store.search(query, k)
    answers, times = [], []
    for query in queries:
        began = time.perf_counter()
        answers.append(store.search(query, k))
        times.append(1000 * (time.perf_counter() - began))
    return answers, times


# ---- each in a process of its own -------------------------------------------------------


def in_its_own_process(function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """What a function of a module returns, computed in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **named).result()


def build(uri: str, collection: str, index_type: str, embeddings: Embeddings) -> float:
    """Seconds to build an index from records."""
    store = Store(uri, collection, embeddings.images().shape[1], requested_type=index_type)
    try:
        began = time.perf_counter()
        for some in embeddings.records():
            store.upsert(some)
        store.finish()
        return time.perf_counter() - began
    finally:
        store.close()


def discard(uri: str, collection: str, dimensions: int) -> None:
    """Remove an index from a server."""
    store = Store(uri, collection, dimensions)
    try:
        store.discard()
    finally:
        store.close()


def measure(uri: str, collection: str, embeddings: Embeddings, k: int, seconds: float | None = None) -> Measured:
    """Open an index and search it; seconds: that building it took."""
    images, dimensions = embeddings.images().shape
    preload_libraries()
    before = memory()
    store = Store(uri, collection, dimensions, create_missing=False)
    try:
        answers, times = search_all(store, embeddings.queries(), k)
        after = memory()
        return Measured(
            index_type=store.index_type,
            images=images,
            dimensions=dimensions,
            k=k,
            recall=recall_of(answers, embeddings, k),
            median=float(np.median(times)),
            p99=float(np.quantile(times, 0.99)),
            memory=None if is_server(uri) else after - before,
            disk=None if is_server(uri) else size_of(Path(uri)),
            build=seconds,
        )
    finally:
        store.close()


def preload_libraries() -> None:
    """Open and close an empty index, so that what is measured afterwards is that of an index, not of libraries."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(str(Path(folder) / "empty.db"), "empty", 1)
        store.close()


def memory() -> float:
    """MiB that this process holds (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / MIB


def size_of(path: Path) -> float:
    """MiB of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / MIB


def measure_in_use(uri: str, collection: str, embeddings: Embeddings, k: int) -> Measured:
    """Measure an index that is there: a copy of its file, as the file itself is open."""
    if not is_server(uri):
        copy = embeddings.folder / "in_use.db"
        shutil.copytree(uri, copy) if Path(uri).is_dir() else shutil.copy(uri, copy)
        uri = str(copy)
    return in_its_own_process(measure, uri, collection, embeddings, k)


def build_and_measure(uri: str, collection: str, index_type: str, embeddings: Embeddings, k: int) -> Measured:
    """Build an index of a type, measure it, and remove it. Raises UserError when this Milvus has none of that type."""
    own = own_name(collection, "measured")
    uri = uri if is_server(uri) else str(embeddings.folder / f"{index_type}.db")
    try:
        seconds = in_its_own_process(build, uri, own, index_type, embeddings)
        return in_its_own_process(measure, uri, own, embeddings, k, seconds)
    finally:
        if is_server(uri):
            in_its_own_process(discard, uri, own, embeddings.images().shape[1])
        else:
            shutil.rmtree(uri, ignore_errors=True)


# ---- as a table -------------------------------------------------------------------------


def as_table(rows: Sequence[Measured]) -> str:
    """A line for each index."""
    head = f"{'type':9} {'recall':>7} {'median':>9} {'99 %':>9} {'memory':>11} {'disk':>11} {'build':>8}"
    lines = [
        f"{row.index_type:9} {row.recall:7.4f} {row.median:6.1f} ms {row.p99:6.1f} ms"
        f" {known(row.memory, 'MiB'):>11} {known(row.disk, 'MiB'):>11} {known(row.build, 's'):>8}"
        for row in rows
    ]
    return "\n".join([head, *lines])


def known(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.0f} {unit}"


def require_measurable(images: int, k: int) -> None:
    """Raises UserError when there is nothing to measure."""
    if not images:
        raise UserError("the gallery holds no image, so there is nothing to measure")
    if not 1 <= k <= 16_384:
        raise UserError(f"--candidates must be from 1 to 16384, not {k}")
