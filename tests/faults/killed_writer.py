"""Writes checkpoints in processes that are killed, and looks at what they leave.

    python killed_writer.py FOLDER KILLS    # at random moments
    python killed_writer.py FOLDER steps    # before and after every step that changes the folder

Prints a JSON object: how many were killed, how many of these within a file, how often the checkpoint before the last
was the newest whole one, and "problems", which should be none.
"""

import contextlib
import errno
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from utils import files
from utils.checkpoints.files import read_checkpoint, read_newest, save_checkpoint
from utils.errors import UserError
from utils.files import remove_leftovers

LAST, PREVIOUS = "checkpoint_last.pth", "checkpoint_previous.pth"
STEPS = ("link", "replace", "fsync", "unlink")  # functions of `os` by which a file gets its place
SAVED = 2  # checkpoints in the time until the latest kill, about


def content_of(step: int) -> dict:
    """A checkpoint of one and a half megabytes, every number of which is its step."""
    return {"model": {f"layer.{i}": torch.full((60_000,), float(step)) for i in range(6)}, "step": step}


def is_whole(content: dict) -> bool:
    return len(content["model"]) == 6 and all(bool((a == content["step"]).all()) for a in content["model"].values())


class Writer:
    """Saves checkpoints of growing steps in a process of its own."""

    def __init__(self, folder: Path):
        self.last, self.previous, self.problems = folder / LAST, folder / PREVIOUS, []
        self.kills = self.within_a_file = self.went_back = self.acknowledged = 0

    def write(self, steps: range, before: Callable[[], None], end: Callable[[int], None]) -> None:
        """Let a child save `steps` after `before()`, end it by `end(process)`, and look at the folder."""
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                before()
                for step in steps:
                    save_checkpoint(self.last, content_of(step), self.previous)
                    os.write(send, b"%d\n" % step)
            os._exit(0)
        os.close(send)
        end(child)
        self.kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        with open(receive, "rb") as file:
            self.acknowledged = max([self.acknowledged, *map(int, file.read().split())])
        self.look()

    def look(self) -> None:
        """What is in the folder must be whole, and nothing that was acknowledged lost."""
        names = set(os.listdir(self.last.parent))
        removed = set(remove_leftovers(self.last.parent))
        self.within_a_file += bool(removed)
        if not names - removed <= {LAST, PREVIOUS} or set(os.listdir(self.last.parent)) != names - removed:
            self.problems.append(f"left in the folder: {sorted(names)}, removed: {sorted(removed)}")
        if not self.acknowledged and not names & {LAST, PREVIOUS}:
            return
        try:
            newest = read_newest(self.last, self.previous)
        except UserError as error:
            self.problems.append(str(error))
            return
        self.went_back += newest["path"] == str(self.previous)
        if newest["step"] < self.acknowledged or not is_whole(newest):
            self.problems.append(f"step {newest['step']} after {self.acknowledged} was acknowledged")
        if self.previous.exists() and not is_whole(read_checkpoint(self.previous)):
            self.problems.append("the checkpoint before is not whole")
        self.acknowledged = newest["step"]


def at_random_moments(folder: Path, kills: int) -> dict:
    """Processes that save without end, each killed at a random moment."""
    draw, writer, began = random.Random(kills), Writer(folder), time.perf_counter()
    writer.write(range(1, SAVED + 1), lambda: None, lambda process: None)
    longest = time.perf_counter() - began  # on this machine, as busy as it is now
    while writer.kills < kills and len(writer.problems) < 5:

        def end(process: int) -> None:
            time.sleep(draw.uniform(0, longest))
            os.kill(process, signal.SIGKILL)

        writer.write(range(writer.acknowledged + 1, 10**9), lambda: None, end)
    return vars(writer)


def at_every_step(folder: Path) -> dict:
    """Processes that kill themselves before or after the n-th step, with and without hard links."""
    writer = Writer(folder)
    for has_links in (True, False):
        for number in range(40):
            writer.write(
                range(writer.acknowledged + 1, writer.acknowledged + 3),
                lambda number=number, has_links=has_links: end_at(number, has_links),
                lambda process: None,
            )
    return vars(writer)


def end_at(number: int, has_links: bool) -> None:
    """Make this process kill itself at a point in its steps: points 2n and 2n + 1 are before and after the n-th."""
    points = iter(range(10**9))

    def watched(function: Callable, name: str) -> Callable:
        def step(*arguments, **more):
            if name == "link" and not has_links:
                raise OSError(errno.EOPNOTSUPP, "no hard links")
            if next(points) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **more)
            if next(points) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return step

    for name in STEPS:
        setattr(files.os, name, watched(getattr(os, name), name))


def main() -> None:
    torch.set_num_threads(1)
    folder, how = Path(sys.argv[1]), sys.argv[2]
    found = at_every_step(folder) if how == "steps" else at_random_moments(folder, int(how))
    print(json.dumps({key: value for key, value in found.items() if key not in ("last", "previous")}))


if __name__ == "__main__":
    main()
