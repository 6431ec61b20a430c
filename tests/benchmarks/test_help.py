"""Every benchmark says what it measures, and refuses what it does not know in one line."""

import importlib
import runpy
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


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # of runpy: others have imported it
@pytest.mark.parametrize("name", BENCHMARKS)
def test_wrong_arguments_of_a_benchmark_are_one_line(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--no_such_option"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    errors = capsys.readouterr().err
    assert end.value.code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
