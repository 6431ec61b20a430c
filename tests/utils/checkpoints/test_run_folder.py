"""Who may write into the folder of a run, and what is read from it."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from benchmark_data import REPOSITORY

from utils.checkpoints.run_folder import BEST, LAST, LOCK, PREVIOUS, RunFolder, is_restart
from utils.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from utils.checkpoints.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).claimed():
    print("claimed", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_run(tmp_path):
    """Another process that writes into the folder."""
    script = [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path)]
    process = subprocess.Popen(script, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "claimed\n"
    yield process
    process.kill()
    process.wait()


def test_two_runs_do_not_share_a_folder(other_run, tmp_path):
    refusal = f"^--output_dir {tmp_path} is in use by process {other_run.pid} on .*; wait for its end, or name another"
    with pytest.raises(UserError, match=refusal), RunFolder(tmp_path).claimed():
        pytest.fail("claimed twice")


def test_a_killed_run_leaves_its_folder_free(other_run, tmp_path):
    other_run.kill()
    other_run.wait()
    with RunFolder(tmp_path).claimed():
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()


def content(step: int) -> dict:
    return {"model": {"weight": torch.full((3,), float(step))}, "step": step}


def test_the_last_checkpoint_is_resumed_from(tmp_path):
    folder = RunFolder(tmp_path)
    assert not folder.holds_checkpoint()
    for step in (1, 2):
        folder.save_last(content(step))
    folder.finish()
    assert folder.newest()["step"] == 2
    assert folder.newest(tmp_path / PREVIOUS)["step"] == 1


@pytest.mark.promise("Atomic files")
@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_the_one_before_is_resumed_from_when_the_last_is_damaged(tmp_path, caplog, damage):
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        folder.save_last(content(step))
    folder.finish()
    path = tmp_path / LAST
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged) if damage == "flipped" else path.unlink()
    assert folder.holds_checkpoint()
    assert folder.newest()["step"] == 1
    assert LAST in caplog.text and PREVIOUS in caplog.text and "step 1" in caplog.text


@pytest.mark.parametrize("name", [LAST, PREVIOUS, BEST, "log.txt", "metrics.json"])
def test_files_of_another_run_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=f"holds {name} of another run"):
        RunFolder(tmp_path).refuse_to_overwrite(None, resume=False, results=("metrics.json",))
    RunFolder(tmp_path).refuse_to_overwrite(None, resume=True, results=("metrics.json",))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"TORCHELASTIC_RESTART_COUNT": "0"}, False),
        ({"TORCHELASTIC_RESTART_COUNT": "2"}, True),
        ({"SLURM_RESTART_COUNT": "1"}, True),
        ({"SLURM_RESTART_COUNT": "x"}, False),
    ],
)
def test_restarts_are_known_by_what_their_launcher_says(environment, expected):
    assert is_restart(environment) is expected
