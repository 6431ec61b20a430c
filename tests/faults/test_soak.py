"""Long runs: the same bits every time, and nothing that piles up."""

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from harness import FULL, driver, finish, state_of

pytestmark = pytest.mark.promise("Soak")

STEPS, REPEATED = (2000, 200) if FULL else (240, 60)
LONG = ["schedular.epochs=1000", "eval_epoch=999", "checkpoint_minutes=null"]
MOST = 1e6 if FULL else 1e7  # bytes in 1,000 steps; few steps beside other work are not measured better than that
STRETCH = 4  # looks at memory, which goes up and down by a megabyte from one to the next
# captions of one length: kernels that oneDNN keeps for each new shape of tensors would hide what piles up
SAME_SHAPES = ["max_words=3", "vocabulary_size=4000", "workers=0"]


def test_two_runs_end_with_the_same_bits(benchmark, tmp_path, trials):
    trial = trials(f"{REPEATED} steps repeated, same SHA-256", 1)
    settings = [*LONG, f"max_steps={REPEATED}", "precision=bf16", "workers=2"]
    for name in ("one", "other"):
        command = driver(tmp_path / name, benchmark, processes=1, settings=settings)
        finish(command, tmp_path / f"{name}.log", OMP_NUM_THREADS="2", GOMP_SPINCOUNT="2000")
    assert state_of(tmp_path / "one") == state_of(tmp_path / "other")
    trial.survive()


def test_memory_open_files_and_processes_stay_as_they_are(benchmark, tmp_path, trials):
    trial = trials(f"{STEPS} steps without growth", 1)
    record = tmp_path / "soak.json"
    settings = [*LONG, *SAME_SHAPES, f"max_steps={STEPS}"]
    command = driver(tmp_path / "run", benchmark, processes=1, settings=settings, script="tests/faults/soak_driver.py")
    finish(command, tmp_path, new=True, SOAK=str(record), PYTHONMALLOC="malloc")
    steps, used, files = np.array(json.loads(record.read_text())).T
    late = steps >= STEPS // 2
    if FULL:
        per_step = np.polyfit(steps[late], used[late], 1)[0]
    else:  # a leak is in every stretch, a kernel that is kept for a new shape in those that met one
        stretches = (used[late][STRETCH:] - used[late][:-STRETCH]) / (steps[late][STRETCH:] - steps[late][:-STRETCH])
        per_step = np.quantile(stretches, 0.2)
    trial.measure("growth", per_step / 1000, "MB per 1,000 steps")
    assert 1000 * per_step < MOST, used.tolist()
    assert files[late].max() <= files[late].min() + 1, files  # at times a checkpoint is being written
    assert not left_of(record)
    trial.survive()


def left_of(record: Path) -> list[str]:
    """Processes that were started below the command that writes this record."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if f"SOAK={record}".encode() in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                found.append(name)
    return found
