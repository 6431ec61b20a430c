"""Metadata of images: a CSV file whose first column, `image`, holds paths; all others are what one can filter by."""

import csv
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.store import OWN_FIELDS
from utils.errors import UserError

logger = logging.getLogger(__name__)

LARGEST_INTEGER = 2**63  # Milvus stores whole numbers of 64 bits
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")  # ASCII digits, no leading zeros: 007, 1_1, 1e5, +5, nan are names
Metadata = Mapping[str, Mapping[str, Any]]  # path of an image -> name -> value


def read_metadata(path: Path | None) -> dict[str, dict[str, Any]]:
    """Metadata by image, from a CSV file; nothing without a file.

    A column of numbers alone holds numbers; an empty cell holds nothing. Raises UserError naming file and line.
    """
    if path is None:
        return {}
    rows = read_rows(path)
    where, names = f"metadata {path}", rows[0][1:]
    check_columns(names, where)
    check_rows(rows, where)
    table = [row for row in rows[1:] if row]
    if not table:
        raise UserError(f"{where} has a header and no rows; leave out --metadata to keep what is known")
    columns = {name: typed([row[column] for row in table]) for column, name in enumerate(names, 1)}
    return {
        row[0]: {name: values[index] for name, values in columns.items() if values[index] is not None}
        for index, row in enumerate(table)
    }


def read_rows(path: Path) -> list[list[str]]:
    """All lines of a CSV file, the header first. Raises UserError when it cannot be read or has no column `image`."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"metadata {path} cannot be read: {error}") from None
    if not rows or not rows[0] or rows[0][0] != "image":
        raise UserError(f"metadata {path}: the first column must be called `image`")
    return rows


def check_columns(names: Sequence[str], where: str) -> None:
    """Raises UserError for names that the index needs itself, that a filter cannot write, or that are there twice."""
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UserError(f"{where}: two columns are called {name!r}")
        if name in (*OWN_FIELDS, "digest") or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(f"{where}: no filter can name column {name!r}; use letters, digits and _, not id or path")


def check_rows(rows: Sequence[Sequence[str]], where: str) -> None:
    """Raises UserError for a line that is too short or too long, and for an image that has two."""
    line_of: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        if row and len(row) != len(rows[0]):
            raise UserError(f"{where}, line {number}: {len(row)} cells, not {len(rows[0])}")
        if row and line_of.setdefault(row[0], number) != number:
            raise UserError(f"{where}, line {number}: {row[0]} is in line {line_of[row[0]]} already")


def typed(cells: Sequence[str]) -> list[Any]:
    """A column's values: whole numbers of 64 bits, numbers, or text, the same type for all; None where empty.

    Only what is written as `NUMBER` says counts as a number. Where two cells are written differently and would be
    the same number (1.1 and 1.10, or more digits than a number can hold), the column is text too: a filter on one of
    them would find the images of the other.
    """
    there = {cell: cell.strip() for cell in cells if cell.strip()}
    if all(NUMBER.fullmatch(written) for written in there.values()):
        whole = not any("." in written for written in there.values())
        numbers = {written: int(written) if whole else float(written) for written in there.values()}
        if len(set(numbers.values())) == len(numbers) and all(abs(it) < LARGEST_INTEGER for it in numbers.values()):
            return [numbers[there[cell]] if cell in there else None for cell in cells]
    return [cell if cell in there else None for cell in cells]


def check_images(metadata: Metadata | None, paths: Sequence[str]) -> None:
    """Warn of metadata of images that are not there. Raises UserError when all of them are."""
    if metadata is None:
        return
    there = set(paths)
    unknown = [path for path in metadata if path not in there]
    if len(unknown) == len(metadata):
        example = f", such as {unknown[0]} (an image is called {paths[0]})" if unknown and paths else ""
        raise UserError(f"the metadata are of no image below the folder{example}; nothing was changed")
    if unknown:
        logger.warning("%d rows of the metadata are of images that are not there, such as %s", len(unknown), unknown[0])


def unknown_column(name: str, columns: Iterable[str]) -> str:
    """The message that no image has metadata of this name, with the names that there are."""
    there = ", ".join(columns)
    text = f" (text is written '{name}')" if there else ""
    return f"no metadata are called {name}{text}; there are {there or 'none: give some to index by --metadata'}"
