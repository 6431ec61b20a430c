"""What the commands of this room share: their arguments, the models they open, the files they leave.

A command NAME is `python -m evaluation NAME`; it leaves NAME.png, NAME.csv and NAME.json in its output folder. Files
that an earlier call left there under these names are replaced.
"""

import argparse
import csv
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evaluation.trained import TrainedModel
from utils.device import prepare_device
from utils.errors import CommandParser, UserError
from utils.files import atomic_write, require_folder, write_json

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]


def study_parser(name: str, about: str | None, most: int | None = 1) -> CommandParser:
    """The arguments of every command on trained models; `most`: how many it takes, None = any number.

    about: the docstring of its module, of which the first line is shown.
    """
    parser = CommandParser(prog=f"python -m evaluation {name}", description=(about or "").splitlines()[0])
    parser.set_defaults(study=name, most=most)
    several = {"nargs": "+", "metavar": "FILE"} if most != 1 else {"nargs": 1, "metavar": "FILE"}
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="trained weights"
        + ("" if most == 1 else f"; {'several' if most is None else f'up to {most}'} are compared"),
        **several,
    )
    parser.add_argument("--label", nargs="+", default=[], help="names of the checkpoints in pictures and tables")
    parser.add_argument("--config", type=Path, help="YAML file (default: config.yaml beside a checkpoint)")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY.PATH=VALUE",
        dest="overrides",
        help="settings on top of the YAML file",
    )
    add_output(parser, "of the first checkpoint")
    parser.add_argument("--split", default="test", choices=("test", "val"), help="images and captions (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


def add_output(parser: CommandParser, beside: str) -> None:
    parser.add_argument("--output_dir", type=Path, help=f"where results go (default: studies/ in the folder {beside})")
    parser.add_argument("--seed", type=int, default=0, help="draws other examples and resamples (%(default)s)")


def open_output(options: argparse.Namespace, beside: Path) -> Path:
    """The folder of the results. Raises UserError when it cannot be written."""
    folder = options.output_dir or beside / "studies"
    if options.seed < 0:
        raise UserError(f"--seed must be 0 or more, not {options.seed}")
    require_folder(folder, "--output_dir")
    return folder


def labels_of(options: argparse.Namespace) -> list[str]:
    """A name for each checkpoint: as given, else its folder, or as much of its path as tells it from the others.

    Raises UserError when there are too many checkpoints, or the names are not one for each.
    """
    paths = options.checkpoint
    if options.most is not None and len(paths) > options.most:
        raise UserError(f"--checkpoint: at most {options.most} can be compared, not {len(paths)}")
    if options.label:
        if len(options.label) != len(paths) or len(set(options.label)) != len(paths):
            raise UserError(f"--label: give a different name for each of the {len(paths)} checkpoints")
        return options.label
    parts = [path.resolve().with_suffix("").parts[1:] for path in paths]
    if len(set(parts)) < len(parts):
        raise UserError("--checkpoint: the same file is given twice")
    ends = [slice(-length, -1) for length in range(2, max(map(len, parts)) + 1)]
    for end in [*ends, slice(-2, None), slice(None)]:
        names = ["/".join(part[end]) for part in parts]
        if all(names) and len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def open_models(options: argparse.Namespace) -> dict[str, TrainedModel]:
    """The models of all checkpoints by their names. Raises UserError when one cannot be used."""
    names = labels_of(options)
    device = prepare_device(options.device)
    torch.manual_seed(options.seed)
    return {
        name: TrainedModel.open(path, options.config, options.overrides, device)
        for name, path in zip(names, options.checkpoint, strict=True)
    }


def write_table(folder: Path, name: str, rows: Sequence[Row], **facts: Any) -> None:
    """NAME.csv holds the rows, NAME.json the rows and what else is to be known of them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(folder / f"{name}.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    write_json(folder / f"{name}.json", {**finite(facts), "rows": finite(list(rows))}, indent=2)


def finite(value: Any) -> Any:
    """Values that every JSON reader takes: null for what is not a number, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, os.PathLike) else value


def markdown_table(rows: Sequence[Row]) -> str:
    """Rows with the same columns as a Markdown table, aligned; numbers with two decimals."""
    if not rows:
        return ""
    cells = [[str(column) for column in rows[0]], *[[as_cell(value) for value in row.values()] for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    numeric = [isinstance(value, int | float) for value in rows[0].values()]
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
    places = list(zip(widths, numeric, strict=True))
    lines = [
        [f"{cell:>{width}}" if right else f"{cell:<{width}}" for cell, (width, right) in zip(line, places, strict=True)]
        for line in cells
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def as_cell(value: Any) -> str:
    """A value of a table as text that cannot break it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")


def tell(folder: Path, name: str, table: str = "") -> None:
    """The command's own output: its table, and where the results are."""
    if table:
        print(table)
    print("results: " + ", ".join(str(path) for path in sorted(folder.glob(f"{name}.*")) if path.suffix != ".tmp"))
