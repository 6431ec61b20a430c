"""Calls commands in the process of the tests, which has imported torch already: a new one takes seconds for it."""

import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark_data import REPOSITORY, TINY, data_settings

from utils.errors import run_command_line
from utils.interruption import SIGNALS


@dataclass(frozen=True)
class Ending:
    """How a command ended, and what it wrote on standard error and output."""

    code: int
    errors: str
    output: str = ""


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Arguments, folder, logging and what signals do are as before when the block ends."""
    arguments, folder, root = sys.argv, os.getcwd(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    signals = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        sys.argv = arguments
        os.chdir(folder)
        root.handlers[:] = handlers
        root.setLevel(level)
        for number, handler in signals.items():
            signal.signal(number, handler)


def call(main: Callable, *arguments: str | Path) -> Ending:
    """Run a command's `main` as its script does, in this process."""
    errors, output = io.StringIO(), io.StringIO()
    with restored(), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        sys.argv = ["command", *map(str, arguments)]
        try:
            run_command_line(main)
        except SystemExit as end:
            return Ending(end.code, errors.getvalue(), output.getvalue())
    raise AssertionError("a command ends with an exit code")


def call_here(main: Callable, *arguments: str | Path) -> Ending:
    """Run a command in the folder of the repository, to an end that must be good."""
    with restored():
        os.chdir(REPOSITORY)
        ending = call(main, *arguments)
    assert ending.code == 0, f"{arguments} ended with {ending.code}:\n{ending.output[-3000:]}\n{ending.errors[-3000:]}"
    return ending


def retrieve(output: Path, benchmark: Path, *flags: str | Path, settings: Sequence[str] = ()) -> Ending:
    """A tiny run of the driver."""
    import Retrieval

    where = ["--config", "configs/demo_from_nothing.yaml", "--output_dir", output]
    return call_here(Retrieval.main, *where, *flags, "--set", *TINY, *data_settings(benchmark), *settings)
