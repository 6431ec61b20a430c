"""Items of a loader on their device: copied to a GPU on a stream of their own, while it computes on those before."""

from collections import deque
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from utils.processes.handover import map_leaves

Moved_co = TypeVar("Moved_co", covariant=True)
Moved = TypeVar("Moved")


class Movable(Protocol[Moved_co]):
    """A dataclass of tensors and dataclasses that can be brought to a device; some of it may stay where it is."""

    def to(self, device: torch.device) -> Moved_co: ...


class PlainCopies:
    """Copies that are there as soon as they are made."""

    ahead = 0

    def __init__(self, device: torch.device):
        self.device = device

    def begin(self, item: Movable[Moved]) -> tuple[Moved, Any]:
        """The item on the device, and what is done by the time that it can be used."""
        return item.to(self.device), None

    def hand_out(self, moved: Moved, done: Any) -> Moved:
        """What `begin` returned, ready for use."""
        return moved


class StreamCopies(PlainCopies):
    """Copies to a CUDA device beside its other work. cuda: torch.cuda, or what stands in for it in tests."""

    ahead = 1

    def __init__(self, device: torch.device, cuda: ModuleType = torch.cuda):
        super().__init__(device)
        self.cuda, self.stream = cuda, cuda.Stream(device)

    def begin(self, item: Movable[Moved]) -> tuple[Moved, Any]:
        with self.cuda.stream(self.stream):
            return item.to(self.device), self.stream.record_event()

    def hand_out(self, moved: Moved, done: Any) -> Moved:
        user = self.cuda.current_stream(self.device)
        user.wait_event(done)  # the device waits, not this process

        def keep(part: Tensor) -> Tensor:
            if part.device.type == self.device.type:
                part.record_stream(user)  # its memory is not given to a later copy before the user is done
            return part

        return map_leaves(moved, keep)


def copied_ahead(items: Iterable[Movable[Moved]], copies: PlainCopies) -> Iterator[Moved]:
    """The items in their order, each handed out when `copies.ahead` more are on their way.

    What `items` raises comes after the items before it.
    """
    under_way: deque[tuple[Moved, Any]] = deque()
    failure: Exception | None = None
    try:
        for item in items:
            under_way.append(copies.begin(item))
            if len(under_way) > copies.ahead:
                yield copies.hand_out(*under_way.popleft())
    except Exception as error:
        failure = error
    while under_way:
        yield copies.hand_out(*under_way.popleft())
    if failure is not None:
        try:
            raise failure
        finally:
            failure = None  # or the error would keep this frame, and the loader's processes with it


def copies_to(device: torch.device) -> PlainCopies:
    """The way to copy to a device while it computes."""
    return StreamCopies(device) if device.type == "cuda" else PlainCopies(device)
