"""Batches are copied to a device ahead of their use, in order, and none is used or overwritten too early."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

from utils.copy_ahead import PlainCopies, StreamCopies, copied_ahead, copies_to
from utils.errors import UserError

GPU = torch.device("cuda", 0)


@dataclass(frozen=True)
class Part:
    """A tensor, as far as copying looks at it."""

    name: str
    device: torch.device
    log: list

    nbytes = 1

    def record_stream(self, stream) -> None:
        self.log.append(f"{self.name} kept for {stream.name}")


@dataclass(frozen=True)
class Item:
    """What is copied: a part that moves, within another one, and a part that stays."""

    number: int
    log: list

    def to(self, device: torch.device) -> "Moved":
        self.log.append(f"copy {self.number} on {self.log.cuda.current.name}")
        image = Part(f"image {self.number}", device, self.log)
        return Moved(Inner(image), Part("noise", torch.device("cpu"), self.log))


@dataclass(frozen=True)
class Inner:
    image: Part


@dataclass(frozen=True)
class Moved:
    inner: Inner
    noise: Part


class Stream:
    """A stream of the stub."""

    def __init__(self, name: str, log: list):
        self.name, self.log = name, log

    def record_event(self) -> str:
        self.log.append(f"event on {self.name}")
        return "event"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits")


class Cuda:
    """Stands in for torch.cuda: a current stream, and others."""

    def __init__(self, log: list):
        self.log = log
        self.current = self.computing = Stream("computing", log)

    def Stream(self, device):
        return Stream("copying", self.log)

    @contextmanager
    def stream(self, stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def current_stream(self, device):
        return self.current


class Log(list):
    """What happened, in order."""

    def __init__(self):
        self.cuda = Cuda(self)


def test_a_copy_is_under_way_while_the_one_before_is_used():
    log = Log()
    for moved in copied_ahead((Item(number, log) for number in range(3)), StreamCopies(GPU, log.cuda)):
        log.append(f"step with {moved.inner.image.name}")
    copied = [["copy 0 on copying", "event on copying"]]
    copied += [[f"copy {number} on copying", "event on copying"] for number in (1, 2)]
    used = [
        ["computing waits", f"image {number} kept for computing", f"step with image {number}"] for number in range(3)
    ]
    assert log == copied[0] + copied[1] + used[0] + copied[2] + used[1] + used[2]


def test_the_stream_of_whoever_asks_waits():
    log = Log()
    items = copied_ahead((Item(number, log) for number in range(2)), StreamCopies(GPU, log.cuda))
    with log.cuda.stream(Stream("another", log)):
        next(items)
    assert "another waits" in log and "image 0 kept for another" in log
    assert log.cuda.current is log.cuda.computing


class Held:
    """Something that an error must not keep alive."""


def failing(log: Log, after: int, held: Held) -> Iterator[Item]:
    for number in range(after):
        yield Item(number, log)
    raise UserError("image 7 is no image")


@pytest.mark.parametrize("after", [0, 1, 2, 3])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_an_error_comes_after_the_items_before_it(after, on_gpu):
    log, held, seen = Log(), Held(), []
    copies = StreamCopies(GPU, log.cuda) if on_gpu else PlainCopies(GPU)
    alive = weakref.ref(held)
    items = copied_ahead(failing(log, after, held), copies)
    del held
    with pytest.raises(UserError, match="image 7 is no image") as caught:
        seen.extend(moved.inner.image.name for moved in items)
    assert seen == [f"image {number}" for number in range(after)]
    assert next(items, None) is None
    del items, caught
    gc.collect()
    assert alive() is None


def test_a_processor_gets_each_item_when_it_asks_for_it():
    log = Log()
    items = copied_ahead((Item(number, log) for number in range(3)), copies_to(torch.device("cpu")))
    assert next(items).inner.image.name == "image 0"
    assert log == ["copy 0 on computing"]
    items.close()
