"""Where and how a process computes: its device, its memory and its precision, prepared here for every command.

There are two moments: `prepare_device` comes first, as processes meet each other on their devices; `prepare_precision`
follows when the configuration is known, which may stand in a checkpoint.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from torch import Tensor

from utils.logs import set_up_logging
from utils.memory import keep_freed_memory
from utils.precision import be_deterministic, choose_precision, set_precision
from utils.processes.distributed import Launch, choose_device, end_with_parent, process_group, read_launch

ALONE = Launch()
Autocast = Callable[[], AbstractContextManager[object]]  # makes a context in which products have a precision


def prepare_device(name: str, launch: Launch = ALONE) -> torch.device:
    """The device of this process: `auto`, `cpu`, `cuda` or `cuda:N`; on a CPU, memory that is freed is kept.

    Raises UserError for an unknown device or one that is not there.
    """
    device = choose_device(name, launch)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def prepare_precision(precision: str, device: torch.device, deterministic: bool = False) -> Autocast:
    """Choose the precision (fp32, tf32, bf16 or auto) and the kernels of this process; returns what makes autocast
    contexts.

    deterministic: kernels that give the same bits every time, which cost nothing on a CPU and are always chosen there;
    on a GPU, operations without such a kernel raise RuntimeError.
    Attention is not left to cuDNN, which makes a plan for every new shape, for up to a second: here captions change
    their length all the time.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    if deterministic or device.type == "cpu":
        be_deterministic(device)
    return set_precision(choose_precision(precision, device), device)


def upload(arrays: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, ...]:
    """Arrays of one type and dimension as tensors on `device`, in one copy that nothing waits for."""
    together = torch.from_numpy(np.concatenate(arrays))
    if device.type == "cuda":
        together = together.pin_memory().to(device, non_blocking=True)
    return together.split([len(array) for array in arrays])


@contextmanager
def joined(name: str, dist_url: str = "env://") -> Iterator[torch.device]:
    """This process among those of its launch, with messages on the terminal: yields its device.

    Raises UserError when the device is not there, or the others cannot be joined.
    """
    launch = read_launch(dict(os.environ))
    set_up_logging(launch.rank == 0)
    if launch.world > 1 and not launch.by_slurm:
        end_with_parent()
    device = prepare_device(name, launch)
    with process_group(launch, device, dist_url):
        yield device
