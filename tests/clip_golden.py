"""The numbers that the published code of IRRA and RDE computed, part by part."""

import os
from pathlib import Path
from typing import Any

import torch
from golden_numbers import IN_THE_REPOSITORY, family_of


def clip_parts(part: str) -> dict[str, Any]:
    """One part, such as `masking`, of every file that has it, by name: those of the repository and of GOLDEN_DIR."""
    folders = [IN_THE_REPOSITORY] + [Path(folder) for folder in [os.environ.get("GOLDEN_DIR")] if folder]
    paths = sorted(path for folder in folders for path in folder.rglob("*.pt") if family_of(path.stem) == "clip")
    found = {path.stem: torch.load(path, weights_only=True).get(part) for path in paths}
    return {name: content for name, content in found.items() if content is not None}
