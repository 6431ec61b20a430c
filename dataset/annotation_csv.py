"""Annotations of one's own as CSV: a header, then one row per caption, or one without for an image that has none.

Columns `image`, `identity`, `caption` and `split`, in any order; others are ignored. The
rows of one image are merged in file order. Identities are strings.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ValidationError

from dataset.annotation_entries import (
    Caption,
    CellIdentity,
    ImagePath,
    Problem,
    RawEntry,
    Split,
    faults_of,
    quote,
)
from dataset.csv_table import read_table

REQUIRED = ("image", "identity", "caption")
COLUMNS = (*REQUIRED, "split")
NAMES = {"image": "the image path {}", "identity": "the identity", "caption": "the caption", "split": "split {}"}
"""A cell in a sentence, which may show its content."""


class Row(BaseModel, strict=True):
    """One caption of an image."""

    image: ImagePath
    identity: CellIdentity
    split: Split | None = None
    caption: Caption | Literal[""]


@dataclass
class _Image:
    """The rows of one image so far."""

    where: str
    identity: str | None
    split: str | None
    captions: list[str] = field(default_factory=list)
    blank: list[str] = field(default_factory=list)  # rows without a caption

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

    Raises UserError when the file cannot be read as a table, or lacks a column (`dataset.csv_table`).
    """
    table = read_table(path, f"annotation file {path}", COLUMNS, COLUMNS if split_required else REQUIRED)
    columns = {name: table.names.index(name) for name in COLUMNS if name in table.names}
    images: dict[str, _Image] = {}
    problems: list[Problem] = []
    for row in table.rows:
        if fault := table.width_fault(row):
            problems.append(Problem("wrong number of cells", row.where, fault))
        else:
            problems += _add_row(row.where, {name: row.cells[index] for name, index in columns.items()}, images)
    problems += [
        Problem("empty caption", where, f"the caption is empty, but {it.where} has one")
        for it in images.values()
        for where in it.blank
        if it.captions
    ]
    return [
        RawEntry(it.where, it.split, image, it.identity, tuple(it.captions), bool(it.blank and not it.captions))
        for image, it in images.items()
    ], problems


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
    if row.get("caption"):
        merged.captions.append(row["caption"])
    elif "caption" in row:
        merged.blank.append(where)
    return problems
