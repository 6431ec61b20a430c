"""Trials of reliability are counted truthfully."""

import subprocess
import sys

import pytest
from benchmark_data import REPOSITORY, environment

TRIED = """
import pytest
pytestmark = pytest.mark.promise("Holds")

def test_all_went_well(trials):
    trial = trials("well", 3)
    for _ in range(3):
        with trial.one():
            trial.measure("slowest", 1.5)

def test_the_last_went_wrong(trials):
    trial = trials("wrong", 1200)
    trial.survive(1199)
    with trial.one():
        assert False

@pytest.mark.parametrize("seconds", [2, 3])
def test_the_greatest_figure_of_several_counts(trials, seconds):
    trial = trials("measured", 1)
    trial.measure("slowest", seconds)
    trial.survive()

def test_alone(): pass
def test_alone_and_wrong(): assert False
@pytest.mark.skip
def test_not_tried(): pass
"""
MISCOUNTED = 'import pytest\n@pytest.mark.promise("Holds")\ndef test_a(trials): trials("forgotten", 2).survive()\n'
UNMARKED = "def test_a(): pass\n"


@pytest.mark.parametrize("processes", ["0", "2"])
def test_the_table_has_what_survived_and_what_did_not(tmp_path, processes):
    done, table = campaign(tmp_path, TRIED, "-n", processes)
    assert done.returncode == 1
    assert [line for line in table if line.startswith("| Holds") or line.startswith("| **all")] == [
        "| Holds | measured | 2 | 2 | 0 | slowest 3 s |",
        "| Holds | other cases | 2 | 1 | 1 |  |",
        "| Holds | well | 3 | 3 | 0 | slowest 1.5 s |",
        "| Holds | wrong | 1,200 | 1,199 | 1 |  |",
        "| **all** |  | 1,207 | 1,205 | 2 |  |",
    ]
    assert "1 tests were skipped" in table[0]


def test_a_test_that_forgets_to_count_fails(tmp_path):
    done, table = campaign(tmp_path, MISCOUNTED)
    assert done.returncode == 1 and "not all trials were counted" in done.stdout
    assert "| Holds | forgotten | 2 | 1 | 1 |  |" in table


def test_other_tests_are_no_trials(tmp_path):
    done, table = campaign(tmp_path, UNMARKED)
    assert done.returncode == 0 and table == []


def campaign(folder, source: str, *flags: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Tests of their own, run with --campaign; what came of it, and the lines of the table."""
    (folder / "test_it.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p campaign\n")
    command = [sys.executable, "-m", "pytest", "test_it.py", "--campaign", "deep/table.md", *flags]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=f"{REPOSITORY}/tests:{REPOSITORY}"),
    )
    path = folder / "deep" / "table.md"
    return done, path.read_text().splitlines() if path.exists() else []
