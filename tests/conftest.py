"""What several rooms of tests share."""

import os
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))


def pytest_configure() -> None:
    """One thread: more cost tiny tensors more than they bring, many times so on a busy machine."""
    torch.set_num_threads(1)


def golden_folder() -> Path:
    """Numbers of the published code; GOLDEN_DIR names another place."""
    return Path(os.environ.get("GOLDEN_DIR", REPOSITORY.parent / "shared" / "golden"))


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory) -> Path:
    """The tiny synthetic benchmark, made once and read only."""
    from benchmark_data import make_benchmark

    return make_benchmark(tmp_path_factory.mktemp("benchmark") / "data")
