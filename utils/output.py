"""Standard output and error of a command: letters that they lack, readers that have gone, disks that are full."""

import errno
import io
import os
import select
import sys


def open_output() -> None:
    """Let a command print whatever its terminal is: what it has no letters for, such as those of a file's name, is
    shown as escapes, and where standard output or error is closed (`>&-`), nothing is."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def unwritten(error: OSError) -> bool:
    """Whether an error is that standard output or error takes no more; what they still hold is dropped then.

    BrokenPipeError: the program that has read it is gone, such as `head`, which has all that it wanted.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            number = stream.fileno()
        except (OSError, ValueError):  # a stream in memory
            continue
        if is_gone(number) if isinstance(error, BrokenPipeError) else is_full(number, error):
            drop(number)
            return True
    return False


def is_gone(number: int) -> bool:
    """Whether a file is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def is_full(number: int, error: OSError) -> bool:
    """Whether a file takes not even the end of a line, because of the same error."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return False
    try:
        os.write(number, b"\n")
    except OSError as again:
        return again.errno == error.errno
    return False


def drop(number: int) -> None:
    """Let what is written to a file go nowhere: Python tries to write what is left once more as it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
