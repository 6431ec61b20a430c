"""What can be done next with a run: commands to copy, with the paths of this very run."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from configs.schema import REPOSITORY
from utils.checkpoints.run_folder import BEST

EXAMPLE = "a woman in a red coat and blue jeans"


@dataclass(frozen=True)
class Step:
    """What a reader can do, the commands for it, and pages about it: their name -> address."""

    about: str
    commands: Sequence[str] = ()
    pages: Mapping[str, str] | None = None


def next_steps(output_dir: Path, page_folder: Path, log: Sequence[Mapping[str, Any]]) -> list[Step]:
    """Search and studies where the run's checkpoint is there, then training on one's own data.

    page_folder: where the page will lie, from which its links lead. Commands are for the folder of the repository, or
    of an installation without its scripts for any.
    """
    steps = []
    if (output_dir / BEST).is_file():
        checkpoint = shell_path(output_dir / BEST)
        steps.append(Step("Search a folder PHOTOS of your own by text, with this model:", search_commands(checkpoint)))
        studies = study_commands(checkpoint, log)
        steps.append(Step("Look into the model; without a name, all studies are listed:", studies))
    pages = {
        f"{name}, section “{section}”": link(REPOSITORY / name, page_folder, section)
        for name, section in (("README.md", "Train and evaluate"), ("docs/training.md", "Your own data"))
        if (REPOSITORY / name).is_file()
    }
    if pages:
        steps.append(Step("Train on your own data:", pages=pages))
    return steps


def search_commands(checkpoint: str) -> list[str]:
    """Index, query and serve one gallery."""
    script = "bash shell/search.sh" if (REPOSITORY / "shell" / "search.sh").is_file() else "person-search"
    return [
        f"{script} index PHOTOS --gallery gallery --checkpoint {checkpoint}",
        f'{script} query "{EXAMPLE}" --gallery gallery',
        f"{script} serve --gallery gallery",
    ]


def study_commands(checkpoint: str, log: Sequence[Mapping[str, Any]]) -> list[str]:
    """The list of all studies, and those that need nothing else than this model."""
    losses = (log[-1].get("train") or {}) if log else {}
    names = ["gradcam", *(["reconstruction"] if losses.get("mae") is not None else [])]
    return ["python -m evaluation", *(f"python -m evaluation {name} --checkpoint {checkpoint}" for name in names)]


def shell_path(path: Path) -> str:
    """A path as bash takes it in the folder of the repository: from there where it lies below, else from the root."""
    absolute = Path(os.path.abspath(path))
    inside = absolute.is_relative_to(REPOSITORY)
    text = str(absolute.relative_to(REPOSITORY)) if inside else str(absolute)
    # an option, or a home folder, to what reads it
    return shell_word(f"./{text}" if text.startswith(("-", "~")) else text)


def shell_word(text: str) -> str:
    """A text as one word of bash; characters that a page cannot show are escaped byte by byte."""
    if text.isprintable():
        return shlex.quote(text)
    shown = "".join(one if one.isprintable() and one not in "'\\" else escaped(one) for one in text)
    return f"$'{shown}'"


def escaped(character: str) -> str:
    """The bytes of a character of a file's name, as bash reads them between $' and '."""
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def link(page: Path, folder: Path, section: str) -> str:
    """The address of a section of a page of the repository, from a page in `folder`."""
    path = os.path.relpath(page, os.path.realpath(folder))
    return f"{quote(os.fsencode(path))}#{section.lower().replace(' ', '-')}"
