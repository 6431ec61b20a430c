"""The commands of this room: `python -m evaluation NAME ...`; without a name, all are listed with a line each.

A study is a module of `studies/` that has a `main`; its line is the first one of its docstring. Modules are read and
not imported until one is run, as that would take seconds.
"""

import importlib
import sys

from evaluation.questions import find_studies, line_of_report
from utils.errors import UserError, did_you_mean, run_command_line
from utils.logs import set_up_logging


def overview(studies: dict[str, str]) -> str:
    """All commands with a line each, the studies first."""
    usage = "usage: python -m evaluation NAME [options]    (NAME --help lists its options)"
    lines = [f"  {name:16}{about}" for name, about in studies.items()]
    return "\n".join([usage, "", "studies:", *lines, "", "of a finished run:", f"  {'report':16}{line_of_report()}"])


def main(arguments: list[str]) -> None:
    """Run the command that is named first. Raises UserError when there is no such command."""
    studies = find_studies()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview(studies))
        return
    name, *options = arguments
    known = {**{study: f"evaluation.studies.{study}" for study in studies}, "report": "evaluation.report"}
    if name not in known:
        raise UserError(f"there is no command {name!r}{did_you_mean(name, known)}; python -m evaluation lists them")
    importlib.import_module(known[name]).main(options)


if __name__ == "__main__":
    set_up_logging(is_main=True)
    run_command_line(lambda: main(sys.argv[1:]))
