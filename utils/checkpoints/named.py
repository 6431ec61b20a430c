"""Weights that come with the repository: checkpoints/NAME.safetensors, meant by NAME wherever a checkpoint is."""

from pathlib import Path

from utils.files import similar_file

STARTS = Path(__file__).resolve().parents[2] / "checkpoints"
SUFFIX = ".safetensors"


def checkpoint_path(name: str | Path) -> Path:
    """The file or folder of a checkpoint that a user has named; what is there goes before what the repository has."""
    path = Path(name)
    ours = STARTS / f"{path.name}{SUFFIX}"
    return ours if path.name == str(name) and not path.exists() and ours.is_file() else path


def similar_checkpoint(path: Path) -> str:
    """A hint at a file with a similar name beside `path`, or, where it is a name alone, in the repository.

    Empty where something has this name, such as a device.
    """
    if path.exists():
        return ""
    ours = [file.stem for file in STARTS.glob(f"*{SUFFIX}")] if len(path.parts) == 1 else []
    return similar_file(path, ours)
