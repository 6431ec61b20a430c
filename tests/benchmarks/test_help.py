"""Every benchmark says what it measures."""

import importlib
import sys

import pytest
from benchmark_data import REPOSITORY

HELPERS = {"__init__", "full_size", "loading_ways", "measure", "plain_clip", "published_step"}
FOLDER = REPOSITORY / "benchmarks"
BENCHMARKS = sorted({path.stem for path in FOLDER.glob("*.py")} - HELPERS)
BENCHMARKS += [f"{path.parent.name}.__main__" for path in FOLDER.glob("*/__main__.py")]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_has_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"benchmarks.{name}").main()
    assert end.value.code == 0
    assert "usage: " in capsys.readouterr().out
