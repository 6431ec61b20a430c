"""Paths as users write them: `~` is a home folder wherever a path is given; and whether a name can be written down."""

import argparse
import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def expand_home(path: str) -> str:
    """A path whose first part is `~` or `~user` with that user's home folder in its place; `./~` is left as it is.

    A shell does so only where `~` begins a word: not in `--gallery=~/g`, `--set key=~/x`, quotes and YAML files.
    Raises ValueError when there is no such user, or no home folder.
    """
    if not path.startswith("~"):
        return path
    home, user = os.path.expanduser(path), path.partition("/")[0]
    if home.startswith("~") or (user == "~" and os.environ.get("HOME") == ""):
        raise ValueError(f"no home folder of {user} is known; write ./{path} for a file or folder of that name")
    return home


def tidy(path: Path) -> Path:
    """A path without `FOLDER/..`, where that leads to the same place, as it does not behind a link to a folder."""
    plain = Path(os.path.normpath(path))
    return plain if ".." in path.parts and os.path.realpath(plain) == os.path.realpath(path) else path


def not_a_folder(path: str | os.PathLike) -> str:
    """What is wrong with a path that should be a folder and is none, to follow its name in a message."""
    return "is not a folder" if os.path.exists(path) else "does not exist"


def not_a_file(path: str | os.PathLike) -> str:
    """What is wrong with a path that should be a file and is none, to follow its name in a message."""
    if os.path.isdir(path):
        return "is a folder"
    return "is not a file" if os.path.exists(path) else "does not exist"


PathText = Annotated[str, AfterValidator(expand_home)]
"""A path in a configuration."""


def path_argument(text: str) -> Path:
    """A path in the arguments of a command. Raises ArgumentTypeError when it is empty or names no known home folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    try:
        path = tidy(Path(expand_home(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path.absolute() if str(path).startswith("~") else path  # `./~`: what reads it again must not expand it


def expand_paths(parser: argparse.ArgumentParser) -> None:
    """Let all arguments of type Path be read by `path_argument`."""
    parser.register("type", Path, path_argument)


def is_text(name: str) -> bool:
    """Whether a file's name can be written down: on Linux it can hold any bytes."""
    return printable(name) == name


def printable(name: str) -> str:
    """A file's name, with escapes for bytes that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
