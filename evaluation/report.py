"""Curves, rankings and a page to browse of a finished run, in OUTPUT/report.

    python -m evaluation report OUTPUT [--image_root FOLDER] [--queries 30] [--output FOLDER]

Reads log.txt, metrics.json and rankings.npz of the output folder and uses those that are there.
"""

import logging
import os
from pathlib import Path

import numpy as np

from evaluation.drawing.page import PageQuery, build_page
from evaluation.drawing.sheet import SheetRow, ranking_sheet
from evaluation.metrics import STAGE_NAMES
from evaluation.results import RankingFile, read_log, read_metrics, read_rankings
from evaluation.studies.curves import draw_curves, has_curves
from evaluation.tables import metrics_table
from utils.errors import CommandParser, UserError
from utils.files import atomic_write, require_file, require_folder
from utils.text import counted

logger = logging.getLogger(__name__)

SHEET_QUERIES = 8
PAGE_QUERIES = 30
MAX_PAGE_QUERIES = 300  # some 80 KB of thumbnails each
SHOWN_IMAGES = 10
WANTED_IMAGES = 6


def write_report(
    output_dir: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    queries: int = PAGE_QUERIES,
    seed: int = 0,
    folder: str | os.PathLike | None = None,
) -> Path:
    """Write a report of what OUTPUT holds to `folder` (OUTPUT/report by default), and return that.

    `image_root` replaces the folder of the images that the rankings name; `queries` is the number
    of captions on the page; the same seed shows the same captions. Everything is read and checked
    before anything is written. Raises UserError when there is nothing to report, a file is damaged, or `folder` cannot
    be written.
    """
    output_dir = Path(output_dir)
    log, metrics, rankings = _read_results(output_dir)
    if not 1 <= queries <= MAX_PAGE_QUERIES:
        raise UserError(f"the number of queries must be between 1 and {MAX_PAGE_QUERIES}, not {queries}")
    if seed < 0:
        raise UserError(f"the seed must be 0 or more, not {seed}")
    title = output_dir.resolve().name or "run"
    folder = Path(folder or output_dir / "report")
    require_folder(folder, "the folder of the report", " by --output")
    for name in ("index.html", "curves.png", "rankings.png"):
        require_file(folder / name, "result")
    curves = folder / "curves.png" if any(map(has_curves, log)) else None
    if curves:
        draw_curves(log, curves, title)
    shown: list[PageQuery] = []
    about = ""
    if rankings is not None and len(rankings.captions):
        rankings.image_root = Path(image_root or rankings.image_root)
        _warn_of_missing_images(rankings)
        _write_sheet(rankings, folder / "rankings.png", title, seed)
        shown, about = _page_queries(rankings, queries, seed)
    page = build_page(title, metrics, curves, _training_line(log), shown, about)
    with atomic_write(folder / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return folder


def _read_results(output_dir: Path) -> tuple[list[dict], dict[str, dict], RankingFile | None]:
    """The log, the metrics and the rankings of a run; empty or None where a file is not there."""
    paths = [output_dir / name for name in ("log.txt", "metrics.json", "rankings.npz")]
    if not any(path.exists() for path in paths):
        raise UserError(
            f"{output_dir} holds none of log.txt, metrics.json and rankings.npz: "
            "give the output folder of a run that was trained or evaluated"
        )
    log, metrics, rankings = paths
    return (
        read_log(log) if log.exists() else [],
        read_metrics(metrics) if metrics.exists() else {},
        read_rankings(rankings) if rankings.exists() else None,
    )


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


def _write_sheet(rankings: RankingFile, path: Path, title: str, seed: int) -> None:
    """The picture of a few queries, for a paper or a message."""
    stage, hits = rankings.final_stage, rankings.hits()
    rows = [_row(rankings, caption, stage) for caption in choose_queries(hits, SHEET_QUERIES, seed)]
    ranked = f"{STAGE_NAMES[stage]}, {len(rows)} of {len(hits)} captions, R@1 {100 * hits.mean():.2f} %"
    ranking_sheet(rows, path, SHOWN_IMAGES, f"{title}: {ranked}")


def _row(rankings: RankingFile, caption: int, stage: str) -> SheetRow:
    """The first images of one caption in one stage."""
    indices = rankings.indices[stage][caption, :SHOWN_IMAGES]
    return SheetRow(
        caption=str(rankings.captions[caption]),
        identity=str(rankings.caption_identities[caption]),
        image_paths=[rankings.image_root / path for path in rankings.image_paths[indices]],
        right=(rankings.image_identities[indices] == rankings.caption_identities[caption]).tolist(),
        scores=rankings.scores[stage][caption, :SHOWN_IMAGES].tolist(),
    )


def _page_queries(rankings: RankingFile, count: int, seed: int) -> tuple[list[PageQuery], str]:
    """The queries of the page, and a sentence on how they were chosen."""
    hits = rankings.hits()
    chosen = choose_queries(hits, count, seed)
    queries = [_query(rankings, caption, bool(hits[caption])) for caption in chosen]
    about = (
        f"{len(chosen)} of {len(hits)} captions, drawn at random: {int(hits[chosen].sum())} whose first "
        f"image is right and {int((~hits[chosen]).sum())} whose first image is wrong, in proportion to "
        f"R@1 ({100 * hits.mean():.2f} %). Below an image: ✓ right identity, ✗ wrong identity, and the score."
    )
    return queries, about


def _query(rankings: RankingFile, caption: int, hit: bool) -> PageQuery:
    first_right = {}
    for stage, indices in rankings.indices.items():
        same = rankings.image_identities[indices[caption]] == rankings.caption_identities[caption]
        first_right[stage] = int(same.argmax()) + 1 if same.any() else None
    wanted = np.flatnonzero(rankings.image_identities == rankings.caption_identities[caption])
    return PageQuery(
        stages={stage: _row(rankings, caption, stage) for stage in rankings.indices},
        first_right=first_right,
        hit=hit,
        wanted=[rankings.image_root / path for path in rankings.image_paths[wanted[:WANTED_IMAGES]]],
    )


def _warn_of_missing_images(rankings: RankingFile) -> None:
    """A moved data set shows as grey fields; say once why."""
    if len(rankings.image_paths) and not (rankings.image_root / rankings.image_paths[0]).exists():
        logger.warning(
            "no image %s under %s: missing images show as grey fields; name their folder with --image_root",
            rankings.image_paths[0],
            rankings.image_root,
        )


def _training_line(log: list[dict]) -> str:
    """How long was trained, in words."""
    minutes = round(sum(epoch.get("seconds") or 0 for epoch in log) / 60)
    epochs = counted(len(log), "epoch")
    return f"{epochs}, {minutes // 60} h {minutes % 60:02d} min" if minutes else epochs


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = CommandParser(prog="python -m evaluation report", description=__doc__.splitlines()[0])
    parser.add_argument("output_dir", type=Path, help="output folder of a run: log.txt, metrics.json, rankings.npz")
    parser.add_argument("--image_root", type=Path, help="folder of the images, if it has moved since")
    parser.add_argument("--queries", type=int, default=PAGE_QUERIES, help="captions shown (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws other captions (%(default)s)")
    parser.add_argument("--output", metavar="FOLDER", help="where to write (default: OUTPUT_DIR/report)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    folder = write_report(options.output_dir, options.image_root, options.queries, options.seed, options.output)
    metrics = Path(options.output_dir) / "metrics.json"
    if metrics.exists():
        print(metrics_table(read_metrics(metrics)))
    print(f"report written to {folder / 'index.html'}")
