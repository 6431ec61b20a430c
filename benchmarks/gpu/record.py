"""A measurement that grows item by item: what is measured within a budget, and the file that keeps it."""

import contextlib
import gc
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError
from utils.files import read_json, require_writable_file, write_json

KIND = "benchmarks.gpu"  # which program wrote a file


@dataclass(frozen=True)
class Item:
    """Something to measure.

    seconds: what it takes on a large GPU, an estimate. measure: returns a dataclass of figures. needs_cuda: not to be
    had on another device.
    """

    name: str
    seconds: float
    measure: Callable[[], Any]
    needs_cuda: bool = False


@dataclass
class Record:
    """What a file holds.

    about: machine, date, commit, device, budget. planned: names of all items in their order. items: figures by name.
    seconds: what each item took. left_out, failed: why, by name. finished: False while items are to come, and in what a
    run leaves that was cut off.
    """

    about: dict[str, Any]
    planned: list[str]
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    finished: bool = False

    def write(self, path: Path) -> None:
        """Write all of it, atomically."""
        write_json(path, {"kind": KIND, **asdict(self, dict_factory=plain_values)}, indent=1)

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Raises UserError when the file is not one that `write` has written."""
        content = read_json(path, "measurement")
        if not isinstance(content, dict) or content.pop("kind", None) != KIND:
            raise UserError(f"{path} is not a measurement of a GPU: python -m {KIND} --out FILE writes such files")
        try:
            record = cls(**content)
            tables = [
                record.about,
                record.items,
                record.seconds,
                record.left_out,
                record.failed,
                *record.items.values(),
            ]
            damaged = not all(isinstance(table, dict) for table in tables) or not isinstance(record.planned, list)
        except (TypeError, AttributeError):
            damaged = True
        if damaged:
            raise UserError(f"{path} is damaged, or of another version: measure again")
        return record


def plain_values(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary that JSON can hold: numbers that are not finite become text."""
    return {name: plain_value(value) for name, value in pairs}


def plain_value(value: Any) -> Any:
    if isinstance(value, dict):
        return plain_values(list(value.items()))
    if isinstance(value, list | tuple):
        return [plain_value(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def require_new(path: Path) -> None:
    """Raises UserError when a file cannot be written without the loss of another."""
    if path.exists() or path.is_symlink():
        raise UserError(f"--out {path} is there already: name another file, or move it away")
    require_writable_file(path, "--out")


def measure_all(record: Record, items: Sequence[Item], budget: float, path: Path, tell: Callable[[str], None]) -> None:
    """Measure items in their order and write the file after each of them.

    budget: seconds for all. An item is left out when its estimate exceeds what remains; estimates grow where items
    have taken longer than theirs. One that fails is noted with its error, and the others are measured; so is one that
    is not done when the budget ends.
    """
    began, expected = time.perf_counter(), 0.0
    on_cuda = str(record.about.get("device", "")).startswith("cuda")
    for item in items:
        taken = time.perf_counter() - began
        needed = item.seconds * max(1.0, taken / expected if expected else 1.0)
        if item.needs_cuda and not on_cuda:
            record.left_out[item.name] = "needs CUDA"
        elif taken + needed > budget:
            record.left_out[item.name] = f"takes some {needed:.0f} s, and {max(0.0, budget - taken):.0f} s were left"
        else:
            measure_one(record, item, budget - taken)
            expected += item.seconds
        record.write(path)
        tell(f"{item.name}: {outcome(record, item.name)}")
    record.finished = True
    record.write(path)


def measure_one(record: Record, item: Item, longest: float) -> None:
    """Figures of an item, or its error; nothing that it held stays on the device. longest: seconds that it may take."""
    began = time.perf_counter()
    try:
        with at_most(longest):
            figures = item.measure()
        record.items[item.name] = plain_values(list(asdict(figures).items()))
    except Exception as error:
        record.failed[item.name] = one_line(error)
    record.seconds[item.name] = round(time.perf_counter() - began, 1)
    if torch.cuda.is_initialized():
        gc.collect()
        with contextlib.suppress(RuntimeError):  # of a device that the item has broken
            torch.cuda.empty_cache()


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Within, TimeoutError is raised after so many seconds, between two calls into torch (main thread)."""

    def stop(*_: object) -> None:
        raise TimeoutError("not done when the budget ended")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def one_line(error: Exception) -> str:
    """Type and message of an error, and of the one that it followed from."""
    chain = [error, *([error.__context__] if error.__context__ else [])]
    return "; after ".join(f"{type(one).__name__}: {' '.join(str(one).split())}"[:300] for one in chain)


def outcome(record: Record, name: str) -> str:
    """What became of an item, for the terminal."""
    if name in record.left_out:
        return f"left out, {record.left_out[name]}"
    took = f"{record.seconds[name]:.1f} s"
    return f"{took}, failed: {record.failed[name]}" if name in record.failed else took
