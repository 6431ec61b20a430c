"""Writing checkpoints while training goes on: a copy in host memory at once, the file in a thread of its own.

What is copied costs host memory as large as a checkpoint, which is taken once and used again for every further one.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, UntypedStorage

from utils.errors import UserError
from utils.values import Unsuitable, map_tensors, require_plain

SLAB = 2**28  # bytes of host memory that are asked for at a time; pinned memory comes in powers of two
ALIGNMENT = 64

Copies = dict[tuple[torch.device, int], tuple[UntypedStorage, UntypedStorage]]  # by device and address: source, copy


class HostMemory:
    """Room in host memory for the tensors of one checkpoint. Pinned for a GPU, which then need not be waited for."""

    def __init__(self) -> None:
        self.slabs: list[np.ndarray] = []
        self.slab, self.used = 0, 0  # what is free begins in this slab, behind so many bytes

    def copy(self, content: Any) -> Any:
        """Nested content with its tensors in this memory; what was copied to it before is overwritten.

        Tensors that share a storage still do. Copies from a GPU are under way: whoever reads them waits for its stream.
        Raises UserError where there is not enough memory.
        """
        self.slab, self.used = 0, 0
        copies: Copies = {}
        return map_tensors(content, lambda tensor: self.copied(tensor, copies))

    def copied(self, tensor: Tensor, copies: Copies) -> Tensor:
        """copies: of storages that were met before."""
        tensor = tensor.resolve_conj().resolve_neg()
        source = tensor.untyped_storage()
        if not source.nbytes():
            return tensor.cpu()
        where = tensor.device, source.data_ptr()
        if where not in copies:
            room = self.room_for(source.nbytes())
            room.copy_(torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(source), non_blocking=True)
            copies[where] = source, room.untyped_storage()
        twin = torch.empty(0, dtype=tensor.dtype)
        return twin.set_(copies[where][1], tensor.storage_offset(), tensor.shape, tensor.stride())

    def room_for(self, size: int) -> Tensor:
        """So many bytes within a slab, as a tensor with a storage of its own."""
        while self.slab < len(self.slabs) and self.used + size > len(self.slabs[self.slab]):
            self.slab, self.used = self.slab + 1, 0
        if self.slab == len(self.slabs):
            self.slabs.append(allocate(max(SLAB, size)))
        begin, self.used = self.used, self.used + -(-size // ALIGNMENT) * ALIGNMENT
        return torch.from_numpy(self.slabs[self.slab][begin : begin + size])


def allocate(size: int) -> np.ndarray:
    """Host memory of so many bytes, pinned where a GPU is used and the system allows it."""
    if torch.cuda.is_initialized():
        with suppress(RuntimeError):
            return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
    try:
        return np.empty(size, np.uint8)
    except MemoryError:
        raise UserError(
            "there is no memory for the copy of a checkpoint that is written while training goes on"
        ) from None


class BackgroundWriter:
    """Writes one file after the other in a thread; at most one is under way."""

    def __init__(self) -> None:
        self.memory, self.thread = HostMemory(), ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.pending: Future[None] | None = None

    def start(self, write: Callable[[dict[str, Any]], None], content: dict[str, Any]) -> None:
        """Have `write(content)` called while the caller goes on and may change every tensor of `content`.

        Waits for the file before. Raises what was raised when that was written, or TypeError for content that no
        checkpoint may have.
        """
        self.wait()
        try:
            require_plain(content)
        except Unsuitable as error:
            raise TypeError(f"a checkpoint cannot be written: it would hold {error}") from None
        twin = self.memory.copy(content)
        copied = torch.cuda.current_stream().record_event() if torch.cuda.is_initialized() else None

        def run() -> None:
            if copied:
                copied.synchronize()
            write(twin)

        self.pending = self.thread.submit(run)

    def check(self) -> None:
        """Raises what was raised when a file was written that is done by now."""
        if self.pending and self.pending.done():
            self.wait()

    def wait(self) -> None:
        """Until the file is written, whatever happens meanwhile: a signal ends the caller after that.

        Raises what was raised when it was written.
        """
        interrupted = None
        while self.pending and not self.pending.done():
            try:
                wait_for([self.pending])
            except BaseException as error:
                interrupted = interrupted or error
        pending, self.pending = self.pending, None
        if pending:
            pending.result()
        if interrupted:
            raise interrupted
