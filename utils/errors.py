"""The one exception a user is meant to read."""

import argparse
import difflib
import gc
import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from utils.interruption import BY_HAND, Stopped
from utils.output import open_output, unwritten
from utils.paths import expand_paths

FAILED, BAD_INPUT, NOT_READ = 1, 2, 141  # exit codes; the last as of programs that SIGPIPE ends
GROUPS = (
    "requirements.txt has what training, reports and studies need, requirements/search.txt what search needs,"
    " requirements/clip.txt what IRRA and RDE need"
)
# environment variables: where a process that torch has launched leaves its error, and whether the launcher tells it
ERROR_FILE, LAUNCHER_TELLS = "TORCHELASTIC_ERROR_FILE", "LAUNCHER_TELLS_ERRORS"


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do.

    Command lines turn it into `error: MESSAGE` on standard error and exit code 2.
    """


class NotThere(UserError):
    """What is asked for is not there, or not any more. An HTTP API answers with status 404."""


class Unavailable(UserError):
    """What cannot be done now, or not as it must be. An HTTP API answers with status 503."""


class LostPeer(Exception):
    """Another process of the same launch is gone. The message is one line; who ended first says why."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known name, or an empty string."""
    by_letters = {each.casefold(): each for each in known}  # whatever their case
    matches = difflib.get_close_matches(str(name).casefold(), list(by_letters), n=1, cutoff=0.5)
    return f" (did you mean '{by_letters[matches[0]]}'?)" if matches else ""


def run_command_line(main: Callable[[], int | None]) -> None:
    """Run `main` and exit: 0 or its return value; 2 with one line for bad input; 143 or 130 when stopped by a signal.

    Bad input is a `UserError`, and a file that the system does not let us use. 1: a process that others need is gone.
    141, without a word: who has read its output (`| head`) is gone.
    """
    open_output()
    try:
        sys.exit(end_of(main))
    except UserError as error:
        problem, code = str(error), BAD_INPUT
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or find_spec(package):  # a fault of the code, as the package itself is there
            raise
        problem, code = f"the package {package} is not installed: {GROUPS}", BAD_INPUT
    except Stopped as stopped:
        problem, code = str(stopped), stopped.code
    except KeyboardInterrupt:
        problem, code = "interrupted", BY_HAND
    except LostPeer as error:
        if not another_process_failed():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except OSError as error:
        if error.filename is not None and error.strerror is not None:
            problem, code = f"cannot use {error.filename}: {error.strerror}", BAD_INPUT
        elif not unwritten(error):
            raise
        elif isinstance(error, BrokenPipeError):
            sys.exit(NOT_READ)
        else:
            problem, code = f"the output cannot be written: {error.strerror}", BAD_INPUT
    except UnicodeEncodeError as error:
        letters, advice = error.object[error.start : error.end], "set PYTHONUTF8=1, or rename what has them in its name"
        problem, code = f"{error.encoding} has no letters for {letters!a}; {advice}", BAD_INPUT
    except Exception:
        if not another_process_failed():
            raise
        sys.exit(BAD_INPUT)  # this process only lost its peer, which says why
    gc.collect()  # the frames of `main` are gone now: progress bars they drew are closed, and the line stands alone
    record_error(UserError(problem) if code == BAD_INPUT else SystemExit(problem))
    if not os.environ.get(LAUNCHER_TELLS):
        print(f"error: {one_line(problem)}", file=sys.stderr)
    sys.exit(code)


def one_line(text: str) -> str:
    """Text as one line, with escapes for what a terminal would obey, such as control codes in a file's name."""
    return visible(" ".join(text.splitlines()))


def visible(text: str) -> str:
    """Text with escapes for what is neither a letter nor a sign nor white space."""
    return "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign)[0] == "C" and sign not in "\n\t" else sign
        for sign in text
    )


def end_of(main: Callable[[], int | None]) -> str | int | None:
    """The exit code of `main`, whose output is all written. Raises whatever it does, and OSError when it is not."""
    try:
        code: str | int | None = main() or 0
    except SystemExit as end:  # --help
        code = end.code
    sys.stdout.flush()
    return code


def record_error(error: BaseException) -> None:
    """Leave the first error of this process where torch's launcher, if there is one, looks for it.

    The file is as torch.distributed.elastic.multiprocessing.errors writes it, which takes seconds to import.
    """
    file = os.environ.get(ERROR_FILE)
    if file and not Path(file).exists():
        message = f"{type(error).__name__}: {error}"
        record = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}
        Path(f"{file}.part").write_text(json.dumps(record), encoding="utf-8")
        os.replace(f"{file}.part", file)  # a launcher that reads half a file ends with a traceback


def another_process_failed() -> bool:
    """Whether another process of the same launch has recorded an error."""
    own = Path(os.environ.get(ERROR_FILE) or os.devnull)  # in a folder of its own, beside those of the others
    return own != Path(os.devnull) and any(other != own for other in own.parents[1].glob(f"*/{own.name}"))


class CommandParser(argparse.ArgumentParser):
    """Arguments of a command; wrong ones are one line, as all bad input. Those of type Path may begin with `~`."""

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        expand_paths(self)

    def error(self, message: str) -> NoReturn:
        """Raises UserError, naming the flag that a mistyped one resembles."""
        unknown = re.match(r"unrecognized arguments: (-\S+)", message)
        if surplus := re.match(r"unrecognized arguments: ([^-].*)", message):
            raise UserError(f"too many arguments: {surplus[1]}; put a sentence or a name with spaces in quotes")
        known = [flag for action in self._actions for flag in action.option_strings]
        hint = did_you_mean(unknown[1], known) if unknown and unknown[1].startswith("--") else ""
        words = [unknown[1]] if unknown else [word for word in sys.argv[1:] if word.partition("=")[0] not in known]
        if not hint and "--" not in sys.argv and (odd := next((word for word in words if re.match("-.", word)), None)):
            hint = f" (a name or text that begins with - comes last, after --, such as: -- {odd})"
        raise UserError(f"{message}{hint}; see {self.prog} --help")
