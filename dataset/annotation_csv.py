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

from dataset.annotation_entries import (
    Add,
    Problem,
    Record,
    check_caption,
    check_image_path,
    check_split,
    identity_fault,
    read_text,
)
from utils.errors import UserError, nearest

REQUIRED = ("image", "identity", "caption")
COLUMNS = (*REQUIRED, "split")
DELIMITERS = (",", ";", "\t")


@dataclass
class _Image:
    """The rows of one image so far."""

    where: str
    identity: str | None
    split: str | None
    captions: list[str] = field(default_factory=list)


def read_csv_records(path: str | os.PathLike, split_required: bool = False) -> tuple[list[Record], list[Problem]]:
    """Records and problems of a CSV file; `split` of a record is None when there is no such column.

    Raises UserError when the file is missing, not UTF-8, empty, lacks a column, or its
    quotes do not match up.
    """
    required = COLUMNS if split_required else REQUIRED
    rows = _rows(path)
    header_number, header = next(rows, (0, []))
    if not header:
        raise UserError(f"annotation file {path} is empty; its first row must be {','.join(COLUMNS)}")
    places = _places(path, header_number, header, required)
    images: dict[str, _Image] = {}
    problems: list[Problem] = []
    for number, cells in rows:
        _take_row(number, cells, len(header), places, images, problems)
    records = [
        Record(rows_of.where, rows_of.split, image, rows_of.identity, tuple(rows_of.captions))
        for image, rows_of in images.items()
    ]
    return records, problems


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
    """What to do about a row that is no CSV."""
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


def _places(path: str | os.PathLike, number: int, header: list[str], required: tuple[str, ...]) -> dict[str, int]:
    """Column name -> position. Raises UserError for a required column that is missing or one named twice."""
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


def _take_row(
    number: int,
    cells: list[str],
    width: int,
    places: dict[str, int],
    images: dict[str, _Image],
    problems: list[Problem],
) -> None:
    """Check one row and merge it into its image."""
    where = f"row {number}"

    def add(kind: str, what: str) -> None:
        problems.append(Problem(kind, where, what))

    if len(cells) != width:
        hint = "; put captions that hold the delimiter in double quotes" if len(cells) > width else ""
        add("wrong number of cells", f"has {len(cells)} cells, the header has {width}{hint}")
        return
    row = {name: cells[place] for name, place in places.items()}
    image, identity, split = _check_cells(row, add)
    is_caption = check_caption(row["caption"], "the caption", add)
    if image is None:
        return
    merged = images.setdefault(image, _Image(f"{where} ({image})", identity, split))
    _check_agreement(merged, identity, split, add)
    if is_caption:
        merged.captions.append(row["caption"])


def _check_cells(row: dict[str, str], add: Add) -> tuple[str | None, str | None, str | None]:
    """Image, identity and split of a row, None where a cell is wrong."""
    image = check_image_path(row["image"], add)
    identity: str | None = row["identity"]
    if fault := identity_fault(identity):
        add("wrong type", f"the identity {fault.replace('string', 'cell')}")
        identity = None
    split = check_split(row["split"].lower(), add) if "split" in row else None
    return image, identity, split


def _check_agreement(merged: _Image, identity: str | None, split: str | None, add: Add) -> None:
    """All rows of an image must have one identity and one split; what an earlier row lacks is filled in."""
    for name, new in (("identity", identity), ("split", split)):
        old = getattr(merged, name)
        if old is None:
            setattr(merged, name, new)
        elif new is not None and new != old:
            add("conflicting rows", f"gives {name} '{new}', {merged.where} gives '{old}'")
