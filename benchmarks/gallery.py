"""A gallery of 100,000 images: how many exact neighbours the index finds, and how long a query takes, by stage.

Random embeddings around those of real images stand in for the gallery; queries are the sentences of a test split. The
exact answer is a product with all embeddings. Latency end to end is that of `search.Searcher` on the real images.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.measure import at_least, describe_machine, make_parser, peak_memory_of, seconds_of
from search.encoder import Encoder
from search.files.records import IndexedImage
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from search.milvus.store import Store
from search.searcher import CANDIDATES, Searcher
from utils.errors import run_command_line

COUNT, QUICK_COUNT = 100_000, 20_000
NOISE = 0.3  # of the random embeddings around real ones
COLUMNS = 10  # of metadata: so many cameras


def spread_out(real: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` embeddings [count, E] of length 1, each near a real one [R, E]."""
    noise = rng.standard_normal((count, real.shape[1])).astype(np.float32) / np.sqrt(real.shape[1])
    found = real[rng.integers(0, len(real), count)] + NOISE * noise
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def records_of(real: np.ndarray, count: int, seed: int) -> list[IndexedImage]:
    """Real embeddings, then random ones, `count` in all."""
    rng = np.random.default_rng(seed)
    everything = np.concatenate([real[:count], spread_out(real, max(0, count - len(real)), rng)])
    return [
        IndexedImage(f"{n:06d}.jpg", str(n), one, {"camera": f"c{n % COLUMNS}"}) for n, one in enumerate(everything)
    ]


def fill(store: Store, records: list[IndexedImage]) -> None:
    """Write an index to its end."""
    store.upsert(records)
    store.finish()


def search_into(answer: list[tuple[str, str, float]], store: Store, query: np.ndarray) -> None:
    """Add what a search finds to a list."""
    answer += store.search(query, CANDIDATES)


def measure_store(real: np.ndarray, queries: np.ndarray, count: int, seed: int) -> dict[str, float]:
    """Fill an index, then compare its answers with the exact ones."""
    records = records_of(real, count, seed)
    everything = np.stack([record.embedding for record in records])
    with tempfile.TemporaryDirectory() as folder:
        store = Store(str(Path(folder) / "index.db"), "gallery", real.shape[1])
        filling = seconds_of(partial(fill, store, records))
        recalls, times, filtered = [], [], []
        for query in tqdm(queries, desc="queries"):
            exact = np.argsort(-(everything @ query), kind="stable")[:CANDIDATES]
            answer: list[tuple[str, str, float]] = []
            times.append(seconds_of(partial(search_into, answer, store, query)))
            recalls.append(len({path for _, path, _ in answer} & {records[n].path for n in exact}) / len(exact))
            filtered.append(seconds_of(partial(store.search, query, CANDIDATES, "camera == 'c3'")))
        store.close()
    return {
        "filling": filling,
        "recall": float(np.mean(recalls)),
        "median": float(np.median(times)),
        "p99": float(np.quantile(times, 0.99)),
        "filtered": float(np.median(filtered)),
    }


def measure_queries(encoder: Encoder, photos: Path, texts: Sequence[str]) -> tuple[np.ndarray, dict[str, list[float]]]:
    """Embeddings of real images, and milliseconds of each stage of queries on them: cold (first) and warm."""
    folder = Path(tempfile.mkdtemp())
    try:
        with open_gallery(str(folder / "gallery"), encoder, photos) as gallery:
            index(gallery, encoder)
            searcher, laps = Searcher(encoder, gallery), []
            for text in tqdm(texts, desc="queries"):
                laps.append(searcher.search(text).milliseconds)
            real = np.stack([record.embedding for record in gallery.records])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return real, {name: [lap[name] for lap in laps] for name in laps[0]}


def run(options: argparse.Namespace) -> None:
    encoder = Encoder.open(options.checkpoint)
    split = encoder.trained.open_split("test")
    texts = split.texts[:: max(1, len(split.texts) // options.queries)][: options.queries]
    real, stages = measure_queries(encoder, Path(split.image_root), texts)
    vectors = np.stack([encoder.encode_query(text).embedding for text in texts])
    count = QUICK_COUNT if options.quick else COUNT
    print(describe_machine())
    print(f"a query of {len(real)} images, k {CANDIDATES}: first {sum(v[0] for v in stages.values()):.0f} ms, then")
    for name, values in stages.items():
        print(f"  {name:18} median {np.median(values[1:]):7.1f} ms, 99 % below {np.quantile(values[1:], 0.99):7.1f} ms")
    found, memory = peak_memory_of(measure_store, real, vectors, count, 0)
    print(f"index of {count:,} images, filled in {found['filling']:.1f} s, {memory:.0f} MiB at most, all included")
    print(f"  recall of the {CANDIDATES} exact neighbours: {found['recall']:.4f}")
    print(
        f"  search: median {1000 * found['median']:.1f} ms, 99 % below {1000 * found['p99']:.1f} ms; "
        f"with a filter {1000 * found['filtered']:.1f} ms"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    model = "a trained model, such as output/demo/checkpoint_best.pth"
    parser.add_argument("--checkpoint", type=Path, required=True, help=model)
    sentences = "sentences of its test split, the first to warm up (%(default)s)"
    parser.add_argument("--queries", type=at_least(2), default=100, help=sentences)
    run(parser.parse_args(arguments))


if __name__ == "__main__":
    run_command_line(main)
