"""A study: one question about trained models, asked by a command, and the files that answer it.

A study NAME is a module of this folder. Its docstring is the question, and the first line of it is what the list of
commands shows; `add_options` declares options of its own; `main` computes the answer, draws it and hands it over:

    @model_study(add_options)
    def main(study: ModelStudy) -> None:
        rows = [... for label, model in study.models.items()]
        draw(study.picture, rows)
        study.finish(rows, markdown_table(rows), seed=study.seed)

The command leaves NAME.png, NAME.csv and NAME.json in its output folder, in place of those of an earlier call.
"""

import argparse
import csv
import functools
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dataset.attributes import CaptionAttributes
from dataset.evaluation_split import EvaluationSplit
from evaluation.studies.comparison import open_attributes, open_same_split
from evaluation.tables import Row
from evaluation.trained import TrainedModel
from utils.checkpoints.named import checkpoint_path
from utils.device import prepare_device
from utils.errors import CommandParser, UserError
from utils.files import atomic_write, require_writable_file, require_writable_folder, write_json

ENDINGS = (".png", ".csv", ".json", ".md")  # of the files that a study may leave
AddOptions = Callable[[CommandParser], None]
Command = Callable[[Sequence[str] | None], None]  # takes the arguments of a command line, None = those of the process


class Study:
    """One call of a study: its options, and the folder that its results go to."""

    def __init__(self, name: str, options: argparse.Namespace):
        if options.seed < 0:
            raise UserError(f"--seed must be 0 or more, not {options.seed}")
        self.name, self.options = name, options
        self.seed: int = options.seed

    def choose_folder(self, default: Path) -> None:
        """Results go to --output_dir, else to `default`. Raises UserError when it cannot be written."""
        self.folder: Path = self.options.output_dir or default
        require_writable_folder(self.folder, "--output_dir")
        for ending in ENDINGS:
            require_writable_file(self.folder / f"{self.name}{ending}", "result")

    @property
    def picture(self) -> Path:
        """The picture's file."""
        return self.folder / f"{self.name}.png"

    def finish(self, rows: Sequence[Row], table: str = "", **facts: Any) -> None:
        """Write rows and facts, print a table, and say where all results of the study are."""
        write_table(self.folder, self.name, rows, **facts)
        if table:
            print(table)
        results = sorted(path for path in self.folder.glob(f"{self.name}.*") if path.suffix != ".tmp")
        print("results: " + ", ".join(map(str, results)))


class ModelStudy(Study):
    """One call of a study of trained models, which are opened when they are first used."""

    def __init__(self, name: str, options: argparse.Namespace):
        super().__init__(name, options)
        self.labels = labels_of(options.checkpoint, options.label, options.most)
        self.checkpoints: list[Path] = [checkpoint_path(path) for path in options.checkpoint]
        self.choose_folder(self.checkpoints[0].parent / "studies")

    @functools.cached_property
    def models(self) -> dict[str, TrainedModel]:
        """The models of all checkpoints by label. Raises UserError when one cannot be used."""
        return dict(zip(self.labels, open_models(self.options), strict=True))

    @property
    def model(self) -> TrainedModel:
        """The first model."""
        return next(iter(self.models.values()))

    @functools.cached_property
    def splits(self) -> dict[str, EvaluationSplit]:
        """The split as each model reads it. Raises UserError unless all have the same captions and images."""
        return open_same_split(self.models, self.options.split)

    @property
    def split(self) -> EvaluationSplit:
        """The split as the first model reads it."""
        return next(iter(self.splits.values()))

    @functools.cached_property
    def attributes(self) -> CaptionAttributes:
        """The attributes of the split's captions, as far as the first model reads them."""
        return open_attributes(self.model, self.split, self.options.split, self.folder)

    def origin(self) -> dict[str, Any]:
        """What the results rest on, for the JSON file."""
        return {"split": self.options.split, "checkpoints": self.checkpoints, "seed": self.seed}


# ---- commands --------------------------------------------------------------------------


def study(add_options: AddOptions, results: str) -> Callable[[Callable[[Study], None]], Command]:
    """Make the command of a study that opens no model. results: where they go by default."""

    def make_command(answer: Callable[[Study], None]) -> Command:
        @functools.wraps(answer)
        def main(arguments: Sequence[str] | None = None) -> None:
            parser = study_parser(answer)
            add_options(parser)
            add_output(parser, results)
            answer(Study(name_of(answer), parser.parse_args(arguments)))

        return main

    return make_command


def model_study(
    add_options: AddOptions | None = None, most: int | None = None, any_split: bool = True
) -> Callable[[Callable[[ModelStudy], None]], Command]:
    """Make the command of a study of trained models; most: how many models it takes, None = any number.

    any_split: False = which splits it is of is not for the caller to choose, and there is no --split.
    """

    def make_command(answer: Callable[[ModelStudy], None]) -> Command:
        @functools.wraps(answer)
        def main(arguments: Sequence[str] | None = None) -> None:
            parser = study_parser(answer)
            add_models(parser, most, any_split)
            if add_options is not None:
                add_options(parser)
            answer(ModelStudy(name_of(answer), parser.parse_args(arguments)))

        return main

    return make_command


def name_of(answer: Callable[..., None]) -> str:
    """The name of a study: that of its module."""
    return answer.__module__.rpartition(".")[2]


def study_parser(answer: Callable[..., None]) -> CommandParser:
    """The parser of a study, described by the first line of its module."""
    question = (sys.modules[answer.__module__].__doc__ or "").partition("\n")[0]
    return CommandParser(prog=f"python -m evaluation {name_of(answer)}", description=question)


def add_models(parser: CommandParser, most: int | None, any_split: bool) -> None:
    """The options of every study of trained models; most, any_split: as of `model_study`."""
    compared = "" if most == 1 else f"; {'several' if most is None else f'up to {most}'} are compared"
    count = 1 if most == 1 else "+"
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        nargs=count,
        metavar="FILE",
        help=f"trained weights{compared}",
    )
    parser.add_argument("--label", nargs="+", default=[], help="names of the checkpoints in pictures and tables")
    own = "config.yaml beside a checkpoint, else what it records"
    parser.add_argument("--config", type=Path, help=f"YAML file (default: {own})")
    add_settings(parser, "settings on top of the YAML file")
    add_output(parser, "studies/ in the folder of the first checkpoint")
    if any_split:
        parser.add_argument(
            "--split", default="test", choices=("test", "val"), help="images and captions (%(default)s)"
        )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.set_defaults(most=most)


def add_settings(parser: CommandParser, about: str) -> None:
    """--set, as all commands have it."""
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], dest="overrides", metavar="KEY.PATH=VALUE", help=about
    )


def add_output(parser: CommandParser, results: str) -> None:
    """Where results go, by default and else, and the seed."""
    parser.add_argument("--output_dir", type=Path, help=f"where results go (default: {results})")
    parser.add_argument("--seed", type=int, default=0, help="draws other examples and resamples (%(default)s)")


# ---- models ----------------------------------------------------------------------------


def labels_of(paths: Sequence[Path], given: Sequence[str], most: int | None) -> list[str]:
    """A name for each checkpoint: as given, else its folder, or as much of its path as tells it from the others.

    Weights that come with the repository, and are meant by a name, have that name.

    Raises UserError when there are more than `most` checkpoints, or the names are not one for each.
    """
    if most is not None and len(paths) > most:
        raise UserError(f"--checkpoint: at most {most} can be compared, not {len(paths)}")
    if given:
        if len(given) != len(paths) or len(set(given)) != len(paths):
            raise UserError(f"--label: give a different name for each of the {len(paths)} checkpoints")
        return list(given)
    parts = [
        path.resolve().with_suffix("").parts[1:] if checkpoint_path(path) == path else (path.name, path.name)
        for path in paths
    ]
    if len(set(parts)) < len(parts):
        raise UserError("--checkpoint: the same file is given twice")
    ends = [slice(-length, -1) for length in range(2, max(map(len, parts)) + 1)]
    for end in [*ends, slice(-2, None), slice(None)]:
        names = ["/".join(part[end]) for part in parts]
        if all(names) and len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def open_models(options: argparse.Namespace) -> list[TrainedModel]:
    """The models of all checkpoints. Raises UserError when one cannot be used."""
    device = prepare_device(options.device)
    torch.manual_seed(options.seed)
    return [TrainedModel.open(path, options.config, options.overrides, device) for path in options.checkpoint]


# ---- files -----------------------------------------------------------------------------


def write_table(folder: Path, name: str, rows: Sequence[Row], **facts: Any) -> None:
    """NAME.csv holds the rows, NAME.json the rows and what else is to be known of them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(folder / f"{name}.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    write_json(folder / f"{name}.json", {**as_json(facts), "rows": as_json(list(rows))}, indent=2)


def as_json(value: Any) -> Any:
    """Values that every JSON reader takes: null for what is not a number, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, os.PathLike) else value
