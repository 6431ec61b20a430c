"""Where numbers computed by the published code are, on machines that have them."""

import os
from pathlib import Path

from benchmark_data import REPOSITORY


def golden_folder() -> Path:
    """Numbers of the published code; GOLDEN_DIR names another place."""
    return Path(os.environ.get("GOLDEN_DIR", REPOSITORY.parent / "shared" / "golden"))
