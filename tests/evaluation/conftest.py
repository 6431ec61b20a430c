"""A tiny model, trained once for all commands that study one."""

import pytest
from in_process import retrieve


@pytest.fixture(scope="session")
def tiny_run(benchmark, tmp_path_factory):
    """The folder of a tiny run; read only."""
    output = tmp_path_factory.mktemp("studied") / "run"
    retrieve(output, benchmark, settings=["max_steps=3"])
    return output
