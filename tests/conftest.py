"""What several rooms of tests share."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest_plugins = ["campaign"]

LONGEST = ("test_commands.py", "faults", "test_killed_while_served.py", "test_page.py", "test_clip_training.py")
"""Files, or folders of some, that take a minute or more each."""


def pytest_configure() -> None:
    """One thread: more cost tiny tensors more than they bring, many times so on a busy machine."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: the last one to begin is what all other processes wait for."""
    items.sort(key=lambda item: not set(LONGEST) & set(item.path.parts))


def pytest_collection_finish() -> None:
    """Spare what is imported by now the collector of garbage."""
    freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Likewise what a file has imported and leaves to others."""
    yield
    if nextitem is None or nextitem.path != item.path:
        freeze()


def freeze() -> None:
    """What is in use now is no garbage later: to look through it took seconds for each command that ends in an error.

    Commands collect garbage before they tell an error, which is quick in a process that does nothing else.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory) -> Path:
    """The tiny synthetic benchmark, made once and read only."""
    from benchmark_data import make_benchmark

    return make_benchmark(tmp_path_factory.mktemp("benchmark") / "data")


@pytest.fixture
def always_packed(monkeypatch) -> None:
    """Captions are packed on a CPU however few of their tokens are padding."""
    monkeypatch.setattr("models.packed_text.WORTH_PACKING", 1.0)
