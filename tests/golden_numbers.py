"""Where the numbers are that published code computed, and what they are compared on."""

import os
import re
from pathlib import Path

import torch
from benchmark_data import REPOSITORY

from utils.precision import set_precision

IN_THE_REPOSITORY = REPOSITORY / "tests" / "golden"


def golden_folder() -> Path:
    """tests/golden, or the folder that GOLDEN_DIR names."""
    return Path(os.environ.get("GOLDEN_DIR") or IN_THE_REPOSITORY)


def golden_files(family: str, folder: Path | None = None) -> list[Path]:
    """The files of one family of models: `mars` (RaSa's too), `vim` or `clip`; by name, so that none is read for it."""
    return sorted(path for path in (folder or golden_folder()).glob("*.pt") if family_of(path.stem) == family)


def family_of(name: str) -> str:
    """`vim_base` -> vim; `irra_1`, `large-rde` -> clip; any other name, such as `rasa_mini` -> mars."""
    if "vim" in name:
        return "vim"
    return "clip" if re.search(r"(?<![a-z])(irra|rde)", name) else "mars"


def golden_device() -> torch.device:
    """What computes what is compared, in full precision: the CPU, or GOLDEN_DEVICE, such as cuda."""
    device = torch.device(os.environ.get("GOLDEN_DEVICE", "cpu"))
    set_precision("fp32", device)
    return device
