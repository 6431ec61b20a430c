"""Types of index from 10,000 to a million images: recall, latency, time to build, memory and disk.

    python -m benchmarks.index_scale [--images 100000] [--dimensions 32 256] [--types FLAT HNSW ...]

Embeddings are drawn: as many people as images, divided by eight; each has a direction of its own, near that of one of a
thousand kinds of clothing, and its images lie around it. Queries lie around the directions of people too, further away,
as sentences do. Each index is built by the embedded Milvus in a process of its own and searched in another.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import at_least, describe_machine, make_parser
from search.milvus.index_measure import Embeddings, as_table, build_and_measure
from search.milvus.index_types import INDEX_TYPES
from utils.errors import UserError, run_command_line

EACH = 8  # images of a person
KINDS = 1000  # of clothing
OF_PERSON, OF_IMAGE, OF_QUERY = 0.7, 0.4, 0.7  # lengths of what is added to a kind, to a person, and for a query
K = 128


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def noise(draw: np.random.Generator, count: int, dimensions: int, length: float) -> np.ndarray:
    """Vectors [count, E] in all directions, about as long as said."""
    return draw.standard_normal((count, dimensions), np.float32) * np.float32(length / np.sqrt(dimensions))


def draw_embeddings(images: int, queries: int, dimensions: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of images [R, E] and of queries [Q, E], of length 1."""
    draw = np.random.default_rng(seed)
    kinds = unit(draw.standard_normal((KINDS, dimensions), np.float32))
    people = -(-images // EACH)
    centres = unit(kinds[draw.integers(0, KINDS, people)] + noise(draw, people, dimensions, OF_PERSON))
    found = np.empty((images, dimensions), np.float32)
    for start in range(0, images, 100_000):
        rows = np.arange(start, min(images, start + 100_000))
        found[rows] = unit(centres[rows // EACH] + noise(draw, len(rows), dimensions, OF_IMAGE))
    asked = centres[draw.integers(0, people, queries)]
    return found, unit(asked + noise(draw, queries, dimensions, OF_QUERY))


def run(options: argparse.Namespace) -> None:
    print(describe_machine())
    usual = (10_000, 20) if options.quick else (100_000, 100)
    count, queries = options.images or usual[0], options.queries or usual[1]
    for dimensions in options.dimensions:
        print(f"{count:,} images, embeddings of {dimensions} numbers, {queries} queries, recall of {K}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            embeddings = Embeddings.write(Path(folder), *draw_embeddings(count, queries, dimensions))
            shown = 0  # lines of a table that its next row has no need of
            for name in options.types:
                try:
                    row = build_and_measure(f"{folder}/index.db", "scale", name, embeddings, K)
                except UserError as error:
                    print(f"{name}: {error}", flush=True)
                    continue
                print("\n".join(as_table([row]).splitlines()[shown:]), flush=True)
                shown = 1


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=at_least(1), help="how many (100,000; quick: 10,000)")
    parser.add_argument("--queries", type=at_least(1), help="how many (100; quick: 20)")
    sizes = "of embeddings: those of the demo's model have 32, those of MARS 256"
    parser.add_argument("--dimensions", type=at_least(1), nargs="+", default=[32, 256], help=sizes)
    types = [name for name in INDEX_TYPES if name != "DISKANN"]  # which the embedded Milvus does not have
    parser.add_argument("--types", nargs="+", choices=list(INDEX_TYPES), default=types, help="of index")
    run(parser.parse_args(arguments))


if __name__ == "__main__":
    run_command_line(main)
