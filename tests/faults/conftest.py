"""What runs that are disturbed are compared with."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import driver, finish, state_of


@dataclass(frozen=True)
class Undisturbed:
    """A run on two processes that nothing disturbed: state of its last checkpoint, metrics.json, how long it took."""

    state: dict[str, str]
    metrics: str
    seconds: float


@pytest.fixture(scope="session")
def undisturbed(benchmark: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """It writes checkpoints within epochs, which changes nothing but its seconds."""
    folder, began = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    finish(driver(folder / "run", benchmark, settings=["checkpoint_steps=2"]), folder)
    seconds = time.monotonic() - began
    return Undisturbed(state_of(folder / "run"), (folder / "run" / "metrics.json").read_text(), seconds)
