"""Memory: its unit, and how a process keeps it."""

import ctypes
import platform

import torch

GIB = 2**30  # bytes
LARGEST = 2**31 - 1  # what `mallopt` takes

SHARE = 0.5  # of what is free on a GPU


def spare_memory(device: torch.device) -> int:
    """Bytes that may be filled with what could be computed again: 4 GiB on a CPU, half of what is free on a GPU."""
    if device.type != "cuda":
        return 4 * GIB
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by tensors of this process
    return int(SHARE * (free + unused))


def keep_freed_memory() -> bool:
    """Let the C library keep what tensors free for the next ones; returns whether it could be told (glibc).

    By default it gives large blocks back to the system at once, and every page of the next ones has
    to be found and cleared again: several per cent of a training step on a CPU, more in a virtual machine.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
    return all(library.mallopt(number, LARGEST) == 1 for number in (trim_threshold, mmap_threshold))
