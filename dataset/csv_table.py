"""Tables as CSV, as people and table programs write them: a header, then rows of as many cells.

Columns are separated by what the header says: a comma, semicolon, tab or |, or what a first line `sep=;` names, which
is how Excel is told. Rows are numbered as in a spreadsheet: the header is row 1, unless blank rows stand before it.
"""

import contextlib
import csv
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dataset.text_files import read_text
from utils.errors import UserError, did_you_mean
from utils.text import counted

DELIMITERS = (",", ";", "\t", "|")
DECLARED = re.compile(r'"?sep=(.)"?\1*', re.IGNORECASE)  # the first line, as Excel reads it; not shown as a row


@dataclass(frozen=True)
class Row:
    """Cells of a row without white space around them, as many as there are columns."""

    number: int
    cells: list[str]

    @property
    def where(self) -> str:
        return f"row {self.number}"


@dataclass(frozen=True)
class Table:
    """A table. source: what messages call its file; names: of its columns; rows: those that are not blank."""

    source: str
    delimiter: str
    header: Row
    names: list[str]
    rows: list[Row]

    def width_fault(self, row: Row) -> str | None:
        """What is wrong with the number of cells of a row, or None."""
        cells, columns = len(row.cells), len(self.names)
        if cells == columns:
            return None
        hint = "; put cells that hold the delimiter in double quotes" if cells > columns else ""
        return f"has {counted(cells, 'cell')}, the header has {columns}{hint}"


def read_table(path: str | os.PathLike, source: str, known: Sequence[str], required: Sequence[str]) -> Table:
    """The table of a CSV file.

    source: what messages call the file. Columns `known` by their names are found in any case; names of others stay as
    they are written. White space around names and cells is dropped, and blank rows are.

    Raises UserError, naming the file and the row, when it is missing or empty, cannot be decoded, is not CSV, or its
    header lacks a `required` column or names one of the known twice.
    """

    def row_after(text: str) -> str:
        """The row that the next character after `text` stands in."""
        number = 0
        with contextlib.suppress(csv.Error):  # a cell without end, in the row after those that were read
            for _ in _reader(*_lines(text, source, known), strict=False):
                number += 1
            return f"row {number}"
        return f"row {number + 1}"

    lines, delimiter = _lines(read_text(path, source, row_after), source, known)
    rows = list(_rows(lines, delimiter, source))
    if not rows:
        raise UserError(f"{source} is empty; its first row must be {','.join(known)}{',...' if len(known) < 2 else ''}")
    header, *others = rows
    names = _names(header.cells, known)
    _check_header(f"{source}, {header.where}", names, known, required)
    return Table(source, delimiter, header, names, [_without_surplus(row, len(names)) for row in others])


def _lines(text: str, source: str, known: Sequence[str]) -> tuple[list[str], str]:
    """The lines of the table, and what separates its columns. Raises UserError for a wrong `sep=`."""
    # `splitlines` would also break at characters that may stand inside a cell.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    declared = DECLARED.fullmatch(lines[0].strip(" "))
    if declared is None:
        return lines, _delimiter(lines, known)
    if declared[1].isalnum() or declared[1] in "\"' ":
        raise UserError(f"{source}: its first line {lines[0]!r} names no delimiter; write sep=; or leave it out")
    return lines[1:], declared[1]


def _delimiter(lines: Sequence[str], known: Sequence[str]) -> str:
    """The delimiter under which the header names the most known columns, then the most columns.

    Only the header decides: captions are full of commas, which misleads `csv.Sniffer`.
    """
    header = next((line for line in lines if line.strip()), "")

    def columns(delimiter: str) -> tuple[int, int]:
        with contextlib.suppress(csv.Error):
            names = _names(next(_reader([header], delimiter, strict=False)), known)
            return sum(name in known for name in names), len(names)
        return 0, 0

    return max(DELIMITERS, key=columns)


def _reader(lines: Sequence[str], delimiter: str, strict: bool) -> Iterator[list[str]]:
    return csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=strict, skipinitialspace=True)


def _rows(lines: Sequence[str], delimiter: str, source: str) -> Iterator[Row]:
    """Every row that is not blank. Raises UserError for what is not CSV."""
    number = 0
    try:
        for number, cells in enumerate(_reader(lines, delimiter, strict=True), start=1):
            row = Row(number, [cell.strip() for cell in cells])
            if any(row.cells):
                yield row
    except csv.Error as error:
        raise UserError(f"{source}, row {number + 1}: {_explain(error)}") from None


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


def _names(cells: Sequence[str], known: Sequence[str]) -> list[str]:
    """Names of columns, without what cannot be seen; a known one in its known spelling."""
    names = [_visible(cell).strip().strip('"').strip() for cell in cells]
    return [name.lower() if name.lower() in known else name for name in names]


def _visible(text: str) -> str:
    """Text without marks that are not drawn, such as those of where to write from right to left."""
    return "".join(letter for letter in text if unicodedata.category(letter) != "Cf")


def _check_header(where: str, names: Sequence[str], known: Sequence[str], required: Sequence[str]) -> None:
    """Raises UserError for a required column that is missing, and for a known one that is named twice."""
    missing = [name for name in required if name not in names]
    if missing:
        others = {name.lower() for name in names} - set(known) - {""}
        listed = ", ".join(f"'{name}'{did_you_mean(name, others)}" for name in missing)
        raise UserError(f"{where}: the header has no column {listed}; it must name {', '.join(required)}")
    for name in known:
        if names.count(name) > 1:
            raise UserError(f"{where}: the header names '{name}' twice")


def _without_surplus(row: Row, columns: int) -> Row:
    """The row without empty cells beyond the last column, which table programs leave."""
    return row if any(row.cells[columns:]) else Row(row.number, row.cells[:columns])
