"""No file does harm by being read as a checkpoint: it runs nothing, and takes little memory and time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_files import CODE
from hostile_resources import RESOURCES

pytestmark = pytest.mark.promise("Hostile checkpoints")

FOLDER = Path(__file__).resolve().parent
SECONDS = 5.0
MEMORY = 64 * 2**20  # bytes that reading may take beyond a multiple of the file
EVERYTHING = os.environ.get("FAULTS") == "full"
FUZZED = 10_000 if EVERYTHING else 2_000
ALL = {**CODE, **RESOURCES}
# those that torch reads without harm, and refuses or leaves to the program to refuse; it never sees the others
HARMLESS_TO_TORCH = {
    "memo of number 2**32 - 1",
    "tensors that share a storage",
    "laughs of lists",
    "laughs of tuples",
    "laughs of mappings",
    "wide laughs",
    "laughs within an attribute",
    "400,000 lists in one another",
    "list in itself",
    "class as a value",
    "class under a name of megabytes",
    "storage as a value",
}
REASONS = {  # where something else would stop a file as well, but later
    "zip bomb in the pickle": "compressed or encrypted",
    "zip bomb in a storage": "compressed or encrypted",
    "record said to be compressed": "compressed or encrypted",
    "encrypted record": "compressed or encrypted",
    "record beyond the file": "reach beyond the file",
    "a hundred thousand records": "more records than any checkpoint",
    "records that are not there": "more records than any checkpoint",
    "records in one another": "records overlap",
    "tensor of repeated numbers": r"tensor of shape [1099511627776] on a storage of 2 elements",
    "tensor that begins beyond its storage": "tensor of shape [2] on a storage of 2 elements",
    "pickle of 70 megabytes": "more values than any checkpoint",
    "millions of values": "more values than any checkpoint",
    "hundreds of thousands of calls": "more values than any checkpoint",
    "tensors that share a storage": "on far smaller storages",
    "class under a name of megabytes": "which is of type type",
}


def script(name: str, *arguments: str | Path) -> dict:
    """The JSON that a script beside this file prints."""
    command = [sys.executable, FOLDER / name, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def write_all(folder: Path, files: dict) -> dict[str, Path]:
    """Every file by name, with a marker's name that differs from its own only in the ending."""
    paths = {name: folder / f"{number}.pth" for number, name in enumerate(files)}
    for name, path in paths.items():
        path.write_bytes(files[name](path.with_suffix(".marker")))
    return paths


@pytest.fixture(scope="module")
def readings(tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """Of each hostile file: where it is, and what reading it came to."""
    paths = write_all(tmp_path_factory.mktemp("hostile"), ALL)
    found = script("limited_reading.py", *paths.values())
    return {name: (path, found[str(path)]) for name, path in paths.items()}


@pytest.mark.parametrize("name", ALL)
def test_a_hostile_file_is_refused_at_once_and_runs_nothing(readings, trials, name):
    trial = trials("malicious file or bomb refused, runs nothing", 1)
    path, reading = readings[name]
    assert not path.with_suffix(".marker").exists()
    assert reading["type"] == "UserError", reading
    assert reading["error"].startswith(f"checkpoint {path} ")
    assert len(reading["error"].splitlines()) == 1 and len(reading["error"]) < 300 + len(str(path))
    assert reading["reached_torch"] == (name in HARMLESS_TO_TORCH)
    assert REASONS.get(name, "") in reading["error"]
    assert "memory" not in reading["error"]  # it was refused before it was given any
    trial.measure("slowest", reading["seconds"])
    assert reading["seconds"] < SECONDS
    assert reading["bytes"] < MEMORY + 4 * path.stat().st_size
    trial.survive()


def test_the_files_that_run_code_do_so_where_nobody_takes_care(tmp_path):
    paths = write_all(tmp_path, CODE)
    script("limited_reading.py", "--without-care", *paths.values())
    harmless = [name for name, path in paths.items() if not path.with_suffix(".marker").exists()]
    assert harmless == []


def test_there_are_enough_of_them():
    assert len(CODE) >= 20 and len(RESOURCES) >= 40


def test_files_changed_at_random_are_refused_or_loaded(tmp_path, trials):
    trial = trials("file changed at random read or refused", FUZZED)
    done = script("fuzz_checkpoints.py", str(FUZZED), tmp_path)
    assert done["others"] == []
    assert sum(done["found"].values()) == FUZZED
    trial.measure("slowest", done["slowest"])
    assert done["slowest"] < SECONDS and done["bytes"] < MEMORY
    # changes that are not seen, or not survived, would leave one of these empty
    assert all(done["found"].get(f"{kind} refused", 0) > FUZZED // 20 for kind in ("archive", "old", "own"))
    assert all(done["found"].get(f"{kind} loaded", 0) > FUZZED // 200 for kind in ("archive", "old"))
    trial.survive(FUZZED)
