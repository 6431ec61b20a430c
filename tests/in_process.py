"""Calls commands in the process of the tests, which has imported torch already: a new one takes seconds for it."""

import contextlib
import io
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from utils.errors import run_command_line


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int
    errors: str


def call(main: Callable, *arguments: str | Path) -> Ending:
    """Run a command's `main` as its script does, in this process; logging is as before when it has ended."""
    errors, before, root = io.StringIO(), sys.argv, logging.getLogger()
    handlers, level = root.handlers[:], root.level
    sys.argv = ["command", *map(str, arguments)]
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            run_command_line(main)
    except SystemExit as end:
        return Ending(end.code, errors.getvalue())
    finally:
        sys.argv = before
        root.handlers[:] = handlers
        root.setLevel(level)
    raise AssertionError("a command ends with an exit code")
