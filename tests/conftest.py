"""What several rooms of tests share."""

from pathlib import Path

import pytest
import torch

pytest_plugins = ["campaign"]


def pytest_configure() -> None:
    """One thread: more cost tiny tensors more than they bring, many times so on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory) -> Path:
    """The tiny synthetic benchmark, made once and read only."""
    from benchmark_data import make_benchmark

    return make_benchmark(tmp_path_factory.mktemp("benchmark") / "data")


@pytest.fixture
def always_packed(monkeypatch) -> None:
    """Captions are packed on a CPU however few of their tokens are padding."""
    monkeypatch.setattr("models.packed_text.WORTH_PACKING", 1.0)
