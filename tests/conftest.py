"""What several rooms of tests share."""

from pathlib import Path

import pytest
import torch

pytest_plugins = ["campaign"]


LONG = (
    "test_commands.py",
    "test_image_encoders.py",
    "test_dead_peer.py",
    "test_preemption.py",
    "test_elastic.py",
    "test_not_finite.py",
    "test_soak.py",
    "test_verify.py",
    "test_searcher.py",
    "test_distributed.py",
    "test_kill_anywhere.py",
    "test_launch.py",
    "test_page.py",
    "test_service.py",
    "test_added_losses.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take a minute or more come first, so that no core waits for the last of them (shell/test.sh)."""
    rank = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_configure() -> None:
    """One thread: more cost tiny tensors more than they bring, many times so on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory) -> Path:
    """The tiny synthetic benchmark, made once and read only."""
    from benchmark_data import make_benchmark

    return make_benchmark(tmp_path_factory.mktemp("benchmark") / "data")
