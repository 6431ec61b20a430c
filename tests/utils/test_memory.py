"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest
import torch

from utils.memory import GIB, spare_memory

SCRIPT = """
import resource, torch
from utils.memory import keep_freed_memory
{prepare}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.empty(2**26).fill_(1)   # 256 MiB, beyond what the C library keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(), faults()  # until the heap has grown
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_large_tensors_reuse_the_pages_of_freed_ones():
    counts = []
    for prepare in ("", "assert keep_freed_memory()"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(prepare=prepare)], capture_output=True, text=True, check=True
        )
        counts.append(int(done.stdout))
    without, kept = counts
    assert kept < without / 2


def test_another_c_library_is_left_alone(monkeypatch):
    from utils import memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_freed_memory() is False


def test_half_of_what_is_free_on_a_gpu_may_be_filled(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 24 * GIB)
    # 10 that nobody has, and 6 that this process has and does not use
    assert spare_memory(torch.device("cuda")) == 8 * GIB
    assert spare_memory(torch.device("cpu")) == 4 * GIB
