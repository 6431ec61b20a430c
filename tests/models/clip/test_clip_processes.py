"""Two processes that share a batch have the losses and gradients of one."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from benchmark_data import REPOSITORY
from clip_processes import results

SCRIPT = Path(__file__).with_name("clip_processes.py")


def test_two_processes_have_the_losses_and_gradients_of_one(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    settings = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, SCRIPT, tmp_path], env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = results()
    for rank in (0, 1):
        together = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for model, expected in alone.items():
            assert set(together[model]) == set(expected)
            for name, value in expected.items():
                error = (together[model][name] - value).norm()
                assert error <= 1e-4 * value.norm() + 1e-6, f"{model} {name}: {error} of {value.norm()}"
