"""Weights that come with the repository: checkpoints/NAME.safetensors, meant by NAME wherever a checkpoint is."""

from pathlib import Path

STARTS = Path(__file__).resolve().parents[2] / "checkpoints"
SUFFIX = ".safetensors"


def checkpoint_path(name: str | Path) -> Path:
    """The file or folder of a checkpoint that a user has named; what is there goes before what the repository has."""
    path = Path(name)
    ours = STARTS / f"{path.name}{SUFFIX}"
    return ours if path.name == str(name) and not path.exists() and ours.is_file() else path
