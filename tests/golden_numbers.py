"""Where numbers computed by the published code are, on machines that have them, and what they are compared on."""

import os
from pathlib import Path

import torch
from benchmark_data import REPOSITORY

from utils.precision import set_precision


def golden_folder() -> Path:
    """Numbers of the published code; GOLDEN_DIR names another place."""
    return Path(os.environ.get("GOLDEN_DIR", REPOSITORY.parent / "shared" / "golden"))


def golden_device() -> torch.device:
    """What computes what is compared, in full precision: the CPU, or GOLDEN_DEVICE, such as cuda."""
    device = torch.device(os.environ.get("GOLDEN_DEVICE", "cpu"))
    set_precision("fp32", device)
    return device
