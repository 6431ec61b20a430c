"""The report as one self-contained HTML page: it can be moved, and it needs no script."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from tqdm import tqdm

from evaluation.drawing.pictures import format_score, load_picture, placeholder
from evaluation.drawing.sheet import SheetRow
from evaluation.metrics import CEILING, STAGE_NAMES
from evaluation.tables import StageMetrics, metric_cells

THUMBNAIL = (88, 192)  # pixels, width and height of the box a person crop must fit

STYLE = """
:root { color-scheme: light dark; --ink: #202124; --soft: #5f6368; --line: #dfe1e5; --paper: #fff;
  --card: #f8f9fa; --right: #17873c; --wrong: #c82028; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a6abb2; --line: #3c4043;
  --paper: #1b1c1f; --card: #242629; --right: #4ec27a; --wrong: #ff6b70; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1, h2, h3 { line-height: 1.25; overflow-wrap: anywhere; }
h1 { margin: 0 0 4px; } h2 { margin: 44px 0 12px; border-bottom: 1px solid var(--line); padding-bottom: 6px; }
h3 { margin: 0 0 4px; font-size: 1.05rem; font-weight: 600; max-height: 10em; overflow: auto; }
p { margin: 0 0 12px; } .soft { color: var(--soft); font-size: .9rem; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { padding: 7px 18px 7px 0; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; } thead th { color: var(--soft); font-weight: 500; }
tbody .final { font-weight: 600; } tbody .ceiling > * { border-top: 2px dashed var(--line); color: var(--soft); }
figure { margin: 0; }
figure img { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 8px; }
article { background: var(--card); border: 1px solid var(--line); border-left: 5px solid var(--wrong);
  border-radius: 8px; padding: 14px 16px; margin: 0 0 18px; }
article.hit { border-left-color: var(--right); }
.strip { list-style: none; display: flex; flex-wrap: wrap; gap: 10px 8px; margin: 8px 0; padding: 0; }
.strip li { width: 96px; display: flex; flex-direction: column; justify-content: flex-end; font-size: .82rem;
  font-variant-numeric: tabular-nums; }
.strip img { border: 4px solid var(--wrong); border-radius: 3px; align-self: flex-start; }
.right img { border-color: var(--right); } .strip b { color: var(--wrong); } .right b { color: var(--right); }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
details h4 { margin: 12px 0 0; font-weight: 600; }
"""


@dataclass
class PageQuery:
    """A caption on the page: its rankings by stage, and right images it should find."""

    stages: dict[str, SheetRow]
    first_right: dict[str, int | None]  # rank of the first right image by stage, None = not among those kept
    hit: bool
    wanted: list[Path] = field(default_factory=list)


def build_page(
    title: str,
    metrics: StageMetrics,
    curves: Path | None,
    training: str,
    queries: Sequence[PageQuery],
    about_queries: str,
) -> str:
    """The whole page; a part without content is left out. `curves` is a PNG file."""
    parts = []
    if metrics:
        parts.append(f'<section><h2>Metrics</h2><div class="wide">{html_table(metrics)}</div></section>')
    if curves:
        picture = _image_tag(curves.read_bytes(), "png", "losses, learning rate and metrics by epoch")
        parts.append(f'<section><h2>Training</h2><p class="soft">{escape(training)}</p>')
        parts.append(f"<figure>{picture}</figure></section>")
    if queries:
        parts.append(f'<section><h2>Rankings</h2><p class="soft">{escape(about_queries)}</p>')
        parts += [*map(_article, tqdm(queries, desc="queries", leave=False)), "</section>"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="soft">Text-based person search: report of a run</p>\n'
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def html_table(metrics: StageMetrics) -> str:
    """A table with one row per stage, and one for the ceiling: metrics in per cent, then the counts that any has."""
    heads, *lines = metric_cells(metrics)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("per cent", *heads))
    classes = dict.fromkeys([stage for stage in metrics if stage != CEILING][-1:], ' class="final"')
    classes[CEILING] = ' class="ceiling"'
    rows = [
        f'<tr{classes.get(stage, "")}><th scope="row">{escape(STAGE_NAMES.get(stage, stage))}</th>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for stage, cells in zip(metrics, lines, strict=True)
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _article(query: PageQuery) -> str:
    """One caption with the final ranking; the earlier one and the right images unfold."""
    *earlier, (_, final) = query.stages.items()
    ranks = [f"{_rank_text(rank)} ({STAGE_NAMES[stage]})" for stage, rank in query.first_right.items()]
    about = f"identity {final.identity} · first right image: {', '.join(ranks)}"
    hidden = {f"{STAGE_NAMES[stage]} ranking": row for stage, row in earlier}
    if query.wanted:
        hidden["right images"] = SheetRow("", "", query.wanted, [True] * len(query.wanted))
    parts = [
        f'<article class="{"hit" if query.hit else "miss"}">',
        f'<h3 dir="auto">{escape(final.caption) or "(empty caption)"}</h3>',
        f'<p class="soft">{escape(about)}</p>{_strip(final)}',
    ]
    if hidden:
        strips = [f"<h4>{name.capitalize()}</h4>{_strip(row)}" for name, row in hidden.items()]
        parts.append(f"<details><summary>{' and '.join(hidden)}</summary>{''.join(strips)}</details>")
    return "".join([*parts, "</article>"])


def _rank_text(rank: int | None) -> str:
    return "not among those kept" if rank is None else f"rank {rank}"


def _strip(row: SheetRow) -> str:
    """The images of a row from left to right, each with its mark and score."""
    items = []
    for rank, (path, right, value) in enumerate(row.ranked(), start=1):
        word, mark = ("right", "✓") if right else ("wrong", "✗")
        score = "" if value is None else f" {format_score(value)}"
        picture = _thumbnail(path, f"rank {rank}, {word}")
        items.append(f'<li class="{word}">{picture}<span><b>{mark}</b>{score}</span></li>')
    return f'<ol class="strip">{"".join(items)}</ol>'


def _thumbnail(path: str | os.PathLike, text: str) -> str:
    """An image tag with a small JPEG inside; `text` is read where images are not seen."""
    path = Path(path)
    picture = load_picture(path, THUMBNAIL) or placeholder(path.name, THUMBNAIL)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=80, optimize=True)
    size = f' width="{picture.width}" height="{picture.height}" title="{escape(path.name)}"'
    return _image_tag(buffer.getvalue(), "jpeg", text, size)


def _image_tag(content: bytes, form: str, text: str, attributes: str = "") -> str:
    encoded = base64.b64encode(content).decode("ascii")
    return f'<img src="data:image/{form};base64,{encoded}" alt="{escape(text)}"{attributes}>'
