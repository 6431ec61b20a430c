"""The report as one self-contained HTML page: it can be moved, and it needs no script."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from evaluation.drawing.page_style import STYLE
from evaluation.drawing.pictures import Picture, format_score, load_picture, name_of, placeholder
from evaluation.drawing.sheet import SheetRow

THUMBNAIL = (88, 192)  # pixels, width and height of the box a person crop must fit
SHEET = (1400, 4000)  # of a picture of a study
COLOURS = 128  # of a diagram: lines and letters look the same, in a third of the bytes
MARKS = "Below an image: ✓ right identity, ✗ wrong identity, and the score."


@dataclass
class PageQuery:
    """A caption on the page: its rankings by the name of their stage, and right images it should find."""

    stages: dict[str, SheetRow]
    first_right: dict[str, int | None]  # rank of the first right image by stage, None = not among those kept
    hit: bool
    wanted: list[Path] = field(default_factory=list)
    note: str = ""


def build_page(title: str, sections: Iterable[str]) -> str:
    """The whole page, of sections as the functions below make them; an empty one is left out."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="soft">Text-based person search: report of a run</p>\n'
        + "\n".join(filter(None, sections))
        + "\n</main>\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """A part of the page under a heading."""
    return f"<section><h2>{escape(heading)}</h2>{''.join(parts)}</section>"


def paragraph(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>' if text else ""


def diagram(path: Path, text: str, small: bool = False) -> str:
    """A diagram of ours, a PNG file, with fewer colours; `text` is read where images are not seen.

    small: it can be read on a narrow page as a whole.
    """
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLOURS).save(buffer, format="PNG", optimize=True)
    return _figure(buffer.getvalue(), "png", text, "small" if small else "wide")


def _figure(content: bytes, form: str, text: str, style: str = "wide") -> str:
    """A picture; a wide one is scrolled sideways in itself where the page is too narrow to read it."""
    return f'<figure class="{style}">{_image_tag(content, form, text)}</figure>'


def picture_sheet(path: Path, text: str) -> str:
    """A large picture below `text`; nothing where it cannot be read."""
    picture = load_picture(path, SHEET, enlarge=False)
    if picture is None:
        return ""
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=82)  # letters stay sharp in half the bytes of a JPEG
    return paragraph(text) + _figure(buffer.getvalue(), "webp", text)


def command_block(commands: Sequence[str]) -> str:
    """Commands to copy, each selected by one click."""
    lines = "\n".join(f"<code>{escape(line)}</code>" for line in commands)
    return f"<pre>{lines}</pre>"


def links(pages: Mapping[str, str]) -> str:
    """A list of links, name -> address."""
    items = [f'<li><a href="{escape(address)}">{escape(name)}</a></li>' for name, address in pages.items()]
    return f"<ul>{''.join(items)}</ul>"


# ---- captions with their images ---------------------------------------------------------


def articles(queries: Sequence[PageQuery], beside: bool = False) -> str:
    """A card for each caption; beside: all its stages side by side, else the last one, and the others unfold."""
    card = _pair if beside else _article
    return "".join(map(card, tqdm(queries, desc="queries", leave=False)))


def _article(query: PageQuery) -> str:
    """One caption with the final ranking; the earlier one and the right images unfold."""
    *earlier, (_, final) = query.stages.items()
    hidden = {f"ranking {stage}": row for stage, row in earlier}
    if query.wanted:
        hidden["right images"] = SheetRow("", "", query.wanted, [True] * len(query.wanted))
    unfold = ""
    if hidden:
        strips = "".join(f"<h4>{name.capitalize()}</h4>{_strip(row)}" for name, row in hidden.items())
        unfold = f"<details><summary>{' and '.join(hidden)}</summary>{strips}</details>"
    return f"{_card_head(query, final)}{_strip(final)}{unfold}</article>"


def _pair(query: PageQuery) -> str:
    """One caption with the rankings of all stages side by side."""
    columns = "".join(f"<div><h4>{stage.capitalize()}</h4>{_strip(row)}</div>" for stage, row in query.stages.items())
    *_, final = query.stages.values()
    return f'{_card_head(query, final)}<div class="pair">{columns}</div></article>'


def _card_head(query: PageQuery, final: SheetRow) -> str:
    """The caption, who is meant, and a note, or at which rank each stage has the first right image."""
    ranks = [f"{_rank_text(rank)} ({stage})" for stage, rank in query.first_right.items()]
    note = f'<p class="note">{escape(query.note)}</p>' if query.note else ""
    about = f"identity {final.identity}" + ("" if note else f" · first right image: {', '.join(ranks)}")
    return (
        f'<article class="{"hit" if query.hit else "miss"}">{note}'
        f'<h3 dir="auto">{escape(final.caption) or "(empty caption)"}</h3>{paragraph(about)}'
    )


def _rank_text(rank: int | None) -> str:
    return "not among those kept" if rank is None else f"rank {rank}"


def _strip(row: SheetRow) -> str:
    """The images of a row from left to right, each with its mark and score."""
    items = []
    for rank, (image, right, value) in enumerate(row.ranked(), start=1):
        word, mark = ("right", "✓") if right else ("wrong", "✗")
        score = "" if value is None else f" {format_score(value)}"
        picture = _thumbnail(image, f"rank {rank}, {word}")
        items.append(f'<li class="{word}">{picture}<span><b>{mark}</b>{score}</span></li>')
    return f'<ol class="strip">{"".join(items)}</ol>'


def _thumbnail(image: Picture, text: str) -> str:
    """An image tag with a small JPEG inside; `text` is read where images are not seen."""
    picture = load_picture(image, THUMBNAIL) or placeholder(name_of(image), THUMBNAIL)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=75, optimize=True)
    size = f' width="{picture.width}" height="{picture.height}" title="{escape(name_of(image))}"'
    return _image_tag(buffer.getvalue(), "jpeg", text, size)


def _image_tag(content: bytes, form: str, text: str, attributes: str = "") -> str:
    encoded = base64.b64encode(content).decode("ascii")
    return f'<img src="data:image/{form};base64,{encoded}" alt="{escape(text)}"{attributes}>'
