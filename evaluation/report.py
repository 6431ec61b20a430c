"""What a finished run reaches and finds, on a page to browse in OUTPUT/report.

    python -m evaluation report OUTPUT [--start FOLDER] [--image_root FOLDER] [--queries 6] [--output FOLDER]

Reads log.txt, metrics.json and rankings.npz of the output folder and uses those that are there; FOLDER holds an
evaluation of the weights that the run started from.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evaluation.drawing.page import (
    MARKS,
    articles,
    build_page,
    command_block,
    diagram,
    links,
    paragraph,
    picture_sheet,
    section,
)
from evaluation.drawing.scores_chart import draw_scores
from evaluation.drawing.sheet import ranking_sheet
from evaluation.metrics import CEILING
from evaluation.reporting.examples import SHOWN_IMAGES, changed_queries, random_queries, sheet_rows
from evaluation.reporting.scores import Evaluated, Scores, difference_lines, read_start, scores_of
from evaluation.reporting.steps import next_steps
from evaluation.reporting.studies import study_pictures
from evaluation.reporting.tables import difference_table, score_table
from evaluation.results import RankingFile, read_log, read_metrics, read_rankings
from evaluation.studies.curves import draw_curves, has_curves
from evaluation.tables import metrics_table
from utils.errors import CommandParser, UserError
from utils.files import atomic_write, require_writable_file, require_writable_folder
from utils.paths import printable
from utils.text import counted

logger = logging.getLogger(__name__)

SHEET_QUERIES = 8
PAGE_QUERIES = 6
MAX_PAGE_QUERIES = 300  # some 100 KB of thumbnails each
CHANGED_QUERIES = 3  # that gained, and as many that lost
FILES = ("index.html", "metrics.png", "curves.png", "rankings.png")

ABOUT_METRICS = (
    "A caption describes one person, and all images of the gallery are ranked by it. By embeddings: image and caption"
    " are encoded apart and compared. Re-ranked: the first of these images are read together with the caption and put"
    " into a new order. R@K: for how many captions a right image is among the first K. mAP, mINP: how far ahead all"
    " right images are."
)
ABOUT_CEILING = " Ceiling: what a reader who recognises all that the captions name can expect."


@dataclass(frozen=True)
class Results:
    """What a report rests on; `log` is empty where there is none. seed: of the captions drawn and of resamples."""

    log: list[dict]
    run: Evaluated
    scores: Scores
    seed: int

    @property
    def rankings(self) -> RankingFile | None:
        """The rankings of the run, where there is a caption in them."""
        return self.run.rankings if self.run.rankings is not None and len(self.run.rankings.captions) else None


def write_report(
    output_dir: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    queries: int = PAGE_QUERIES,
    seed: int = 0,
    folder: str | os.PathLike | None = None,
    start: str | os.PathLike | None = None,
) -> Path:
    """Write a report of what OUTPUT holds to `folder` (OUTPUT/report by default), and return that.

    `image_root` replaces the folder of the images that the rankings name; `queries` is the number of random captions on
    the page; the same seed shows the same captions; `start` is the output folder of an evaluation of the weights that
    the run started from. Everything is read and checked before anything is written. Raises UserError when there is
    nothing to report, a file is damaged, the start was evaluated on other data, or `folder` cannot be written.
    """
    return write_results(read_results(output_dir, start, seed), image_root, queries, folder)


def read_results(output_dir: str | os.PathLike, start: str | os.PathLike | None = None, seed: int = 0) -> Results:
    """Log, metrics and rankings of a run, and its scores beside those of its start; see `write_report`."""
    if seed < 0:
        raise UserError(f"the seed must be 0 or more, not {seed}")
    output_dir = Path(output_dir)
    paths = [output_dir / name for name in ("log.txt", "metrics.json", "rankings.npz")]
    if not any(path.exists() for path in paths):
        raise UserError(
            f"{output_dir} holds none of log.txt, metrics.json and rankings.npz: "
            "give the output folder of a run that was trained or evaluated"
        )
    log, metrics, rankings = paths
    epochs = read_log(log) if log.exists() else []
    run = Evaluated(
        output_dir,
        read_metrics(metrics) if metrics.exists() else {},
        read_rankings(rankings) if rankings.exists() else None,
    )
    return Results(epochs, run, scores_of(run, None if start is None else read_start(Path(start), run), seed), seed)


def write_results(
    results: Results,
    image_root: str | os.PathLike | None = None,
    queries: int = PAGE_QUERIES,
    folder: str | os.PathLike | None = None,
) -> Path:
    """Write the report of what was read; see `write_report`."""
    if not 1 <= queries <= MAX_PAGE_QUERIES:
        raise UserError(f"the number of queries must be between 1 and {MAX_PAGE_QUERIES}, not {queries}")
    output_dir, rankings = results.run.folder, results.rankings
    title = printable(output_dir.resolve().name) or "run"
    folder = Path(folder or output_dir / "report")
    require_writable_folder(folder, "the folder of the report", " by --output")
    for name in FILES:
        require_writable_file(folder / name, "result")
    if rankings is not None:
        rankings.image_root = Path(image_root or rankings.image_root)
        _warn_of_missing_images(rankings)
        rows, about = sheet_rows(rankings, SHEET_QUERIES, results.seed)
        ranking_sheet(rows, folder / "rankings.png", SHOWN_IMAGES, f"{title}: {about}")
    page = build_page(title, _sections(results, folder, title, queries))
    with atomic_write(folder / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return folder


def _sections(results: Results, folder: Path, title: str, queries: int) -> Iterator[str]:
    """The sections of the page, from top to bottom; diagrams are written to `folder` on the way."""
    run, rankings = results.run, results.rankings
    if run.metrics:
        yield _metrics_section(results, folder / "metrics.png")
    if any(map(has_curves, results.log)):
        curves = folder / "curves.png"
        draw_curves(results.log, curves, title)
        picture = diagram(curves, "losses, learning rate and metrics by epoch")
        yield section("Training", paragraph(_training_line(results.log)), picture)
    if rankings is not None:
        changed, about = changed_queries(rankings, CHANGED_QUERIES, results.seed)
        if about:
            yield section("What re-ranking changes", paragraph(f"{about} {MARKS}"), articles(changed, beside=True))
        shown, about = random_queries(rankings, queries, results.seed)
        yield section("Rankings", paragraph(f"{about} {MARKS}"), articles(shown))
    studies = "".join(picture_sheet(one.path, one.about) for one in study_pictures(run.folder))
    if studies:
        yield section("Inside the model", studies)
    yield _steps_section(run.folder, folder, results.log)


def _metrics_section(results: Results, chart: Path) -> str:
    """The chart, where intervals are known, the table, and the differences."""
    scores, ceiling = results.scores, results.run.metrics.get(CEILING) or {}
    with_interval = {row.name: row.estimates for row in scores.rows if row.estimates}
    parts = [paragraph(ABOUT_METRICS + (ABOUT_CEILING if ceiling else ""))]
    if with_interval:
        draw_scores(with_interval, ceiling, chart)
        parts.append(diagram(chart, "R@1 and mAP with their intervals", small=True))
    parts.append(score_table(scores.rows))
    if scores.differences:
        parts.append(difference_table(scores.differences))
    if scores.people:
        people = counted(scores.people, "person", "people")
        test = "; p-values: paired permutation tests by person" if scores.differences else ""
        parts.append(paragraph(f"95 % intervals: bootstrap over the {people} of the captions{test}."))
    return section("Metrics", *parts)


def _steps_section(output_dir: Path, folder: Path, log: list[dict]) -> str:
    """What can be done next with the run."""
    steps = next_steps(output_dir, folder, log)
    parts = []
    for step in steps:
        parts.append(f"<p>{step.about}</p>")
        parts.append(command_block(step.commands) if step.commands else "")
        parts.append(links(step.pages) if step.pages else "")
    where = "Commands are for the folder of the repository; those of python for its environment." if parts else ""
    has_commands = any(step.commands for step in steps)
    return section("Go on", paragraph(where if has_commands else ""), *parts) if parts else ""


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


def printed(results: Results, with_start: bool) -> str:
    """The table for a terminal; with a start, its lines too, and the differences."""
    if not with_start:
        return metrics_table(results.run.metrics) if results.run.metrics else ""
    table = metrics_table({row.name: row.metrics for row in results.scores.rows})
    return "\n".join([table, *difference_lines(results.scores.differences)])


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = CommandParser(prog="python -m evaluation report", description=__doc__.splitlines()[0])
    parser.add_argument("output_dir", type=Path, help="output folder of a run: log.txt, metrics.json, rankings.npz")
    evaluated = "output folder of an evaluation of the weights that the run started from, to compare with"
    parser.add_argument("--start", type=Path, metavar="FOLDER", help=evaluated)
    parser.add_argument("--image_root", type=Path, help="folder of the images, if it has moved since")
    parser.add_argument("--queries", type=int, default=PAGE_QUERIES, help="random captions shown (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws other captions (%(default)s)")
    parser.add_argument("--output", metavar="FOLDER", help="where to write (default: OUTPUT_DIR/report)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    results = read_results(options.output_dir, options.start, options.seed)
    folder = write_results(results, options.image_root, options.queries, options.output)
    table = printed(results, options.start is not None)
    if table:
        print(table)
    print(f"report written to {folder / 'index.html'}")
