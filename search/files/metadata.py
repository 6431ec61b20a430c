"""Metadata of images: a CSV file whose column `image` holds paths; all others are what one can filter by."""

import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset.csv_table import Row, Table, read_table
from dataset.image_files import normal_path, path_fault
from dataset.image_folders import composed
from search.files.records import OWN_FIELDS
from utils.errors import UserError, did_you_mean
from utils.text import agreeing, counted

logger = logging.getLogger(__name__)

LARGEST_INTEGER = 2**63  # Milvus stores whole numbers of 64 bits
# ASCII digits, no leading zeros: 007, 1_1, 1e5, +5, nan are names; so is what has more digits than 64 bits
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]+)?")
WORDS = {"and", "or", "not", "in", "like", "is", "null", "true", "false", "exists", "between"}
"""What a filter reads otherwise than as a name, in any case."""
MOST_BYTES = 64_000  # of the metadata of an image as JSON: a server of Milvus keeps 65,536 with what a gallery adds
Metadata = Mapping[str, Mapping[str, Any]]  # path of an image -> name -> value


def read_metadata(path: Path | None) -> dict[str, dict[str, Any]]:
    """Metadata by image, from a CSV file (`dataset.csv_table`); nothing without a file.

    A column of numbers alone holds numbers; an empty cell holds nothing. Raises UserError naming file and row.
    """
    if path is None:
        return {}
    table = read_table(path, f"metadata {path}", ("image",), ("image",))
    check_rows(table)
    if not table.rows:
        raise UserError(f"{table.source} has a header and no rows; leave out --metadata to keep what is known")
    names = [composed(name) for name in table.names]  # as filters have them
    cells = {index: [row.cells[index] for row in table.rows] for index in range(len(names))}
    check_columns([name for index, name in enumerate(names) if name or any(cells[index])], table.source)
    columns = {name: typed(cells[index]) for index, name in enumerate(names) if name not in ("", "image")}
    images = map(normal_path, cells[table.names.index("image")])
    return {
        image: {name: values[index] for name, values in columns.items() if values[index] is not None}
        for index, image in enumerate(images)
    }


def check_columns(names: Sequence[str], source: str) -> None:
    """Raises UserError for names that the index needs itself, that a filter cannot write, or that are there twice."""
    for index, name in enumerate(names):
        if not name:
            raise UserError(f"{source}: column {index + 1} has no name in the header; name it, or remove it")
        if name in names[:index]:
            raise UserError(f"{source}: two columns are called {name!r}")
        own = name in OWN_FIELDS or name.lower() in WORDS
        if own:
            taken = "the gallery itself has such a name" if name.lower() not in WORDS else "it is a word of filters"
            raise UserError(f"{source}: column {name!r} must be renamed: {taken}")
        if not name.isidentifier():
            raise UserError(
                f"{source}: no filter can name column {name!r}; rename it: letters (of any script), digits and _ alone,"
                f" no digit first, such as {as_name(name)}"
            )


def as_name(text: str) -> str:
    """A name of metadata that resembles a text."""
    name = "_".join("".join(one if f"x{one}".isidentifier() else " " for one in text).split())
    return name if name.isidentifier() and name.lower() not in WORDS else f"column_{name}".rstrip("_")


def check_rows(table: Table) -> None:
    """Raises UserError for a row of wrong width, a path that is of no image, and an image that has two rows."""
    row_of: dict[str, Row] = {}
    for row in table.rows:
        written = image_in(table, row)
        earlier = row_of.setdefault(normal_path(written), row)
        if earlier is not row:
            raise UserError(f"{table.source}, {row.where}: {written} is in {earlier.where} already")


def image_in(table: Table, row: Row) -> str:
    """The image that a row names, as written. Raises UserError for a row of wrong width, or a path that is of none."""
    if fault := table.width_fault(row):
        raise UserError(f"{table.source}, {row.where}: {fault}")
    written = row.cells[table.names.index("image")]
    if fault := path_fault(written):
        raise UserError(f"{table.source}, {row.where}: the image path {written!r} {fault}")
    return written


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


def check_images(metadata: Metadata | None, paths: Sequence[str], what: str = "metadata", each: str = "row") -> None:
    """Warn of metadata of images that are not there. Raises UserError when all of them are.

    what, each: what messages call these, and one of them.
    """
    if metadata is None:
        return
    there = set(paths)
    unknown = [path for path in metadata if path not in there]
    if len(unknown) == len(metadata):
        example = f", such as {unknown[0]} (an image is called {paths[0]})" if unknown and paths else ""
        raise UserError(f"the {what} are of no image below the folder{example}; nothing was changed")
    if unknown:
        rows, none = counted(len(unknown), each), agreeing(len(unknown), "is of no image", "are of no image")
        logger.warning("%s of the %s %s that is there, such as %s", rows, what, none, unknown[0])


def check_sizes(metadata: Metadata) -> None:
    """Raises UserError for an image whose metadata no index would keep."""
    for image, values in metadata.items():
        size = len(json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace"))
        if size > MOST_BYTES:
            longest = max(values, key=lambda name: len(str(values[name])))
            raise UserError(
                f"the metadata of {image} take {size:,} bytes, most of them in {longest!r}; an index keeps at most"
                f" {MOST_BYTES:,} of an image: shorten them; nothing was changed"
            )


def unknown_column(name: str, columns: Collection[str]) -> str:
    """The message that no image has metadata of this name, with the names that there are."""
    there = ", ".join(columns)
    text = f"{did_you_mean(name, columns)} (text is written '{name}')" if there else ""
    return f"no metadata are called {name}{text}; there are {there or 'none: give some to index by --metadata'}"
