"""Annotations of one's own as CSV: a header, then one row per caption.

Columns `image`, `identity`, `caption` and `split`, in any order; others are ignored. The
rows of one image are merged in file order. Rows are numbered as in a spreadsheet: the
header is row 1. Identities are strings.
"""

import contextlib
import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import BaseModel, ValidationError

from dataset.annotation_entries import (
    Caption,
    Identity,
    ImagePath,
    Problem,
    RawEntry,
    Split,
    faults_of,
    quote,
    read_text,
)
from utils.errors import UserError, nearest

REQUIRED = ("image", "identity", "caption")
COLUMNS = (*REQUIRED, "split")
DELIMITERS = (",", ";", "\t")
NAMES = {"image": "the image path {}", "identity": "the identity", "caption": "the caption", "split": "split {}"}
"""A cell in a sentence, which may show its content."""


class Row(BaseModel, strict=True):
    """One caption of an image."""

    image: ImagePath
    identity: Identity
    split: Split | None = None
    caption: Caption


@dataclass
class _Image:
    """The rows of one image so far."""

    where: str
    identity: str | None
    split: str | None
    captions: list[str] = field(default_factory=list)

    def conflicts(self, identity: str | None, split: str | None) -> Iterator[str]:
        """What a further row of the image gives otherwise; what the rows before it lack is filled in."""
        for name, new in (("identity", identity), ("split", split)):
            old = getattr(self, name)
            if old is None:
                setattr(self, name, new)
            elif new is not None and new != old:
                yield f"gives {name} '{new}', {self.where} gives '{old}'"


def read_csv_entries(path: str | os.PathLike, split_required: bool = False) -> tuple[list[RawEntry], list[Problem]]:
    """Entries and problems of a CSV file; `split` of an entry is None when there is no such column.

    Raises UserError when the file is missing, not UTF-8, empty, lacks a column, or its
    quotes do not match up.
    """
    required = COLUMNS if split_required else REQUIRED
    rows = _rows(path)
    header_number, header = next(rows, (0, []))
    if not header:
        raise UserError(f"annotation file {path} is empty; its first row must be {','.join(COLUMNS)}")
    columns = _columns(path, header_number, header, required)
    images: dict[str, _Image] = {}
    problems: list[Problem] = []
    for number, cells in rows:
        where = f"row {number}"
        if len(cells) == len(header):
            problems += _add_row(where, {name: cells[index] for name, index in columns.items()}, images)
        else:
            problems.append(Problem("wrong number of cells", where, _explain_width(len(cells), len(header))))
    entries = [RawEntry(it.where, it.split, image, it.identity, tuple(it.captions)) for image, it in images.items()]
    return entries, problems


def _rows(path: str | os.PathLike) -> Iterator[tuple[int, list[str]]]:
    """(row number, stripped cells) of every row that is not blank."""
    number = 0
    try:
        for number, cells in enumerate(_reader(read_text(path, _row_after), strict=True), start=1):
            cells = [cell.strip() for cell in cells]
            if any(cells):
                yield number, cells
    except csv.Error as error:
        raise UserError(f"annotation file {path}, row {number + 1}: {_explain(error)}") from None


def _reader(text: str, strict: bool) -> Iterator[list[str]]:
    # `splitlines` would also break at characters that may stand inside a caption.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return csv.reader(
        (line + "\n" for line in lines), delimiter=_delimiter(lines), strict=strict, skipinitialspace=True
    )


def _row_after(text: str) -> str:
    """The row that the next character after `text` stands in."""
    number = 0
    with contextlib.suppress(csv.Error):  # a cell without end, in the row after those that were read
        for _ in _reader(text, strict=False):
            number += 1
        return f"row {number}"
    return f"row {number + 1}"


def _explain(error: csv.Error) -> str:
    """What to do about a row that is not CSV."""
    if "field limit" in str(error):
        return (
            f"a cell has more than {csv.field_size_limit():,} characters; shorten it, or look for a double quote "
            "before it that is not closed"
        )
    return (
        f"{error}; a cell that holds quotes or line breaks must stand in double quotes, with quotes inside it "
        'written twice ("")'
    )


def _delimiter(lines: list[str]) -> str:
    """The delimiter under which the header names the most columns.

    Only the header decides: captions are full of commas, which misleads `csv.Sniffer`.
    """
    header = next((line for line in lines if line.strip()), "")

    def known_columns(delimiter: str) -> int:
        return sum(name in COLUMNS for name in _column_names(header.split(delimiter)))

    return max(DELIMITERS, key=known_columns)


def _column_names(cells: list[str]) -> list[str]:
    return [cell.strip().strip('"').strip().lower() for cell in cells]


def _columns(path: str | os.PathLike, number: int, header: list[str], required: tuple[str, ...]) -> dict[str, int]:
    """Column name -> index. Raises UserError for a required column that is missing or one named twice."""
    names = _column_names(header)
    missing = [name for name in required if name not in names]
    if missing:
        others = set(names) - set(COLUMNS) - {""}
        listed = ", ".join(f"'{name}'{nearest(name, others)}" for name in missing)
        raise UserError(
            f"annotation file {path}, row {number}: the header has no column {listed}; "
            f"it must name {', '.join(required)}"
        )
    for name in COLUMNS:
        if names.count(name) > 1:
            raise UserError(f"annotation file {path}, row {number}: the header names '{name}' twice")
    return {name: names.index(name) for name in COLUMNS if name in names}


def _explain_width(cells: int, columns: int) -> str:
    hint = "; put captions that hold the delimiter in double quotes" if cells > columns else ""
    return f"has {cells} cells, the header has {columns}{hint}"


def _add_row(where: str, row: dict[str, str], images: dict[str, _Image]) -> list[Problem]:
    """Merge a row into its image, and return its problems. A wrong cell leaves the others of its row in use."""
    if "split" in row:
        row["split"] = row["split"].lower()
    problems = []
    try:
        Row.model_validate(row)
    except ValidationError as error:
        for (column, *_), fault in faults_of(error).items():
            name = NAMES[str(column)].format(quote(row.pop(str(column))))
            problems.append(Problem(fault["type"], where, f"{name} {fault['msg']}"))
    if "image" not in row:
        return problems
    image, identity, split = row["image"], row.get("identity"), row.get("split")
    merged = images.get(image)
    if merged is None:
        images[image] = merged = _Image(f"{where} ({image})", identity, split)
    problems += [Problem("conflicting rows", where, what) for what in merged.conflicts(identity, split)]
    if "caption" in row:
        merged.captions.append(row["caption"])
    return problems
