"""Pictures of studies of a run's checkpoint that lie in OUTPUT/studies, for its report."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.questions import find_studies
from utils.checkpoints.run_folder import BEST
from utils.errors import UserError
from utils.files import read_json

SHOWN = ("gradcam", "reconstruction")


@dataclass(frozen=True)
class StudyPicture:
    """A picture of a study, and what one sees there."""

    name: str
    about: str
    path: Path


def study_pictures(output_dir: Path) -> list[StudyPicture]:
    """The pictures in OUTPUT/studies that were made of OUTPUT/checkpoint_best.pth as it is now; others are left out."""
    folder, questions = output_dir / "studies", find_studies()
    return [
        StudyPicture(name, questions[name], folder / f"{name}.png")
        for name in SHOWN
        if (folder / f"{name}.png").is_file() and is_of(folder / f"{name}.json", output_dir / BEST)
    ]


def is_of(record: Path, checkpoint: Path) -> bool:
    """Whether the JSON file of a study names a checkpoint that has not been written since."""
    try:
        found = read_json(record, "study")
        written = checkpoint.stat().st_mtime if checkpoint.exists() else 0
        return record.stat().st_mtime >= written and any(names(path, checkpoint) for path in checkpoints_of(found))
    except (UserError, OSError, ValueError):  # a damaged file, or a path that no file can have
        return False


def checkpoints_of(record: Any) -> Iterator[Path]:
    """The checkpoints that the JSON file of a study says it is of."""
    if not isinstance(record, dict):
        return
    several = record.get("checkpoints")
    listed = several.values() if isinstance(several, dict) else several if isinstance(several, list) else ()
    for path in (record.get("checkpoint"), *listed):
        if isinstance(path, str) and path:
            yield Path(path)


def names(path: Path, checkpoint: Path) -> bool:
    """Whether `path` is `checkpoint`; a relative one may have been written in another folder, and counts by its end."""
    real = Path(os.path.realpath(checkpoint))
    same_end = not path.is_absolute() and real.parts[-len(path.parts) :] == path.parts
    return same_end or os.path.realpath(path) == str(real)
