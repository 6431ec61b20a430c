"""How processes that load data hand over a batch: in shared memory while there is room, else as bytes through a pipe.

torch alone moves tensors into shared memory in a thread, when they are sent. Where shared memory is full (a container
has 64 MiB unless it is told otherwise) that thread fails, and the main process waits for ever for what it has lost.
"""

import functools
import logging
import multiprocessing
import multiprocessing.util
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from utils.errors import UserError

Item = TypeVar("Item")

SHARED_MEMORY = Path("/dev/shm")
RESERVE = 2**20  # bytes of it that batches leave free: every lock between processes takes a page
ADVICE = "lower `workers`, or give the container more (docker run --shm-size=1g)"
LONGEST_FOLDER = 70  # bytes of its name: multiprocessing adds 32, and that of a socket may have 103 (Linux: 107)
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AsBytes(Generic[Item]):
    """An item whose tensors are numpy arrays, which are copied through the pipe."""

    item: Any

    def restore(self) -> Item:
        """The item as it was made."""
        return map_leaves(self.item, torch.as_tensor)  # of tensors again once they are pinned

    def pin_memory(self) -> "AsBytes[Item]":
        """Called by a DataLoader that pins memory."""
        return AsBytes(map_leaves(self.restore(), Tensor.pin_memory))


def hand_over(item: Any) -> Any:
    """In a loader process (as its `collate_fn`): the item in shared memory, or `AsBytes` where there is no room.

    item: a tensor, a dataclass of tensors and dataclasses, or anything else, which is handed over as it is.
    """
    if get_worker_info() is None:
        return item
    sizes: list[int] = []
    map_leaves(item, lambda tensor: sizes.append(tensor.nbytes))
    if has_room(sum(sizes)):
        with suppress(RuntimeError, OSError):  # another program was faster
            return map_leaves(item, lambda tensor: tensor.share_memory_() if tensor.nbytes else tensor)
    return AsBytes(map_leaves(item, Tensor.numpy)) if sizes else item


def map_leaves(item: Any, function: Callable[[Any], Any]) -> Any:
    """The item with function(x) for every tensor or array x of it."""
    if hasattr(item, "nbytes"):
        return function(item)
    if is_dataclass(item) and not isinstance(item, type):
        return replace(item, **{part.name: map_leaves(getattr(item, part.name), function) for part in fields(item)})
    return item


def has_room(size: int) -> bool:
    """Whether shared memory takes `size` bytes more; True where that is not known."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return True
    return not found.f_blocks or found.f_bavail * found.f_frsize >= size + RESERVE


def describe_shared_memory() -> str:
    """Where shared memory is, and how large."""
    with suppress(OSError):
        found = os.statvfs(SHARED_MEMORY)
        kibibytes = found.f_blocks * found.f_frsize / 2**10
        size = f"{kibibytes / 2**10:.0f} MiB" if kibibytes >= 2**10 else f"{kibibytes:.0f} KiB"
        return f"{SHARED_MEMORY}, {size}"
    return str(SHARED_MEMORY)


@functools.cache  # once is enough
def warn_of_full_memory() -> None:
    """Say that batches take the slower way."""
    logger.warning(
        "shared memory (%s) has no room for the batches of the loader processes: they are copied through pipes, which"
        " takes longer; %s",
        describe_shared_memory(),
        ADVICE,
    )


def usable_workers(context: BaseContext, workers: int) -> int:
    """`workers`, or 0 with a warning where shared memory has no room even for the locks that they need."""
    try:
        locks = [context.Event(), *(context.Queue() for _ in range(workers + 1))]
    except OSError as error:
        logger.warning(
            "no loader processes can be started (shared memory, %s: %s): the main process loads data itself; %s",
            describe_shared_memory(),
            error.strerror,
            ADVICE,
        )
        return 0
    del locks
    return workers


def prepare_sockets() -> None:
    """Have multiprocessing keep its sockets in a folder with a short name, as the system allows no long ones.

    Raises UserError when there is none that can be written.
    """
    before, wanted = tempfile.tempdir, tempfile.gettempdir()
    if len(os.fsencode(wanted)) <= LONGEST_FOLDER:
        return
    for folder in SHORT_FOLDERS:
        tempfile.tempdir = folder
        try:
            multiprocessing.util.get_temp_dir()  # made once, and kept for this process and those that it starts
            return
        except OSError:
            continue
        finally:
            tempfile.tempdir = before
    raise UserError(f"TMPDIR {wanted} is too long for sockets; set one of at most {LONGEST_FOLDER} bytes")
