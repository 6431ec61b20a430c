"""The commands of this room: `python -m evaluation NAME ...`; without a name, all are listed with a line each.

A study is a module of `studies/` that has a `main`; its line is the first one of its docstring. Modules are read and
not imported until one is run, as that would take seconds.
"""

import ast
import importlib
import sys
from pathlib import Path

from utils.errors import UserError, nearest, run_command_line
from utils.logs import set_up_logging

HERE = Path(__file__).parent


def find_studies() -> dict[str, str]:
    """The first line of each study by name, in alphabetical order."""
    modules = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("studies/*.py"))}
    return {name: first_line(module) for name, module in modules.items() if has_main(module)}


def first_line(module: ast.Module) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(module) or "").partition("\n")[0]


def has_main(module: ast.Module) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body)


def overview(studies: dict[str, str]) -> str:
    """All commands with a line each, the studies first."""
    report = first_line(ast.parse((HERE / "report.py").read_text(encoding="utf-8")))
    usage = "usage: python -m evaluation NAME [options]    (NAME --help lists its options)"
    lines = [f"  {name:16}{about}" for name, about in studies.items()]
    return "\n".join([usage, "", "studies:", *lines, "", "of a finished run:", f"  {'report':16}{report}"])


def main(arguments: list[str]) -> None:
    """Run the command that is named first. Raises UserError when there is no such command."""
    studies = find_studies()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview(studies))
        return
    name, *options = arguments
    known = {**{study: f"evaluation.studies.{study}" for study in studies}, "report": "evaluation.report"}
    if name not in known:
        raise UserError(f"there is no command {name!r}{nearest(name, known)}; python -m evaluation lists them")
    importlib.import_module(known[name]).main(options)


if __name__ == "__main__":
    set_up_logging(is_main=True)
    run_command_line(lambda: main(sys.argv[1:]))
