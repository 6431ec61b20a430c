"""The one exception a user is meant to read."""

import difflib
import gc
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do.

    Command lines turn it into `error: MESSAGE` on standard error and exit code 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known name, or an empty string."""
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" (did you mean '{matches[0]}'?)" if matches else ""


def run_command_line(main: Callable[[], int | None]) -> None:
    """Run `main` and exit: 0 or its return value, 2 with one line for a `UserError`."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        problem = " ".join(str(error).splitlines())
    gc.collect()  # the frames of `main` are gone now: progress bars they drew are closed, and the line stands alone
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)
