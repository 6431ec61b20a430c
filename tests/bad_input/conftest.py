"""A place where bad input is tried out, and a finished run."""

import logging
import shutil
from pathlib import Path

import pytest
from refusals import Ground


@pytest.fixture(autouse=True)
def quiet_again():
    """The commands set up logging for a process of their own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def ground(benchmark, tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_NTASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return Ground(benchmark, tmp_path)


@pytest.fixture(scope="session")
def finished(benchmark, tmp_path_factory) -> Path:
    """The output folder of a run of two steps; read only."""
    ground = Ground(benchmark, tmp_path_factory.mktemp("finished"))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ending = ground.retrieve()
    root.handlers[:] = handlers
    root.setLevel(level)
    assert ending.code == 0, ending.errors
    return ground.output


@pytest.fixture
def run_folder(finished, ground) -> Path:
    """A copy of that run as the output folder."""
    shutil.copytree(finished, ground.output)
    return ground.output
