"""A tiny model, trained once for all commands that study one."""

import sys

import pytest
from benchmark_data import TINY, data_settings, run


@pytest.fixture(scope="session")
def tiny_run(benchmark, tmp_path_factory):
    """The folder of a tiny run; read only."""
    output = tmp_path_factory.mktemp("studied") / "run"
    settings = [*TINY, *data_settings(benchmark), "max_steps=3"]
    command = [sys.executable, "Retrieval.py", "--config", "configs/demo.yaml", "--output_dir", output]
    run(*command, "--set", *settings)
    return output
