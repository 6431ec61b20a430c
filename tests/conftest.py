"""What several rooms of tests share."""

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))


def golden_folder() -> Path:
    """Numbers of the published code; GOLDEN_DIR names another place."""
    return Path(os.environ.get("GOLDEN_DIR", REPOSITORY.parent / "shared" / "golden"))


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    folder = golden_folder()
    if not folder.is_dir():
        pytest.skip(f"golden numbers are not there: {folder} (set GOLDEN_DIR)")
    return folder
