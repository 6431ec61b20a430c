"""Several processes, one of which reads a checkpoint for all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from benchmark_data import REPOSITORY

from utils.processes.sharing import shared_from_main

SCRIPT = Path(__file__).with_name("sharing_processes.py")


def test_one_of_two_processes_reads_a_file_and_both_have_its_content(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    settings = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, SCRIPT, tmp_path], env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [reads for reads, *_ in results] == [1, 0]
    for _, same, path, problems in results:
        assert same and path == str(tmp_path / "checkpoint_last.pth")
        assert problems == [f"checkpoint {tmp_path}/missing.pth does not exist"]


def test_one_process_reads_for_itself():
    content = {"model": {"a": torch.ones(2)}}
    assert shared_from_main(lambda: content)() is content
