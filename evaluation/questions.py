"""What the studies ask: the first line of each one's docstring, read without importing it, which would take seconds."""

import ast
from pathlib import Path

HERE = Path(__file__).parent


def find_studies() -> dict[str, str]:
    """The first line of each study by name, in alphabetical order."""
    modules = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("studies/*.py"))}
    return {name: first_line(module) for name, module in modules.items() if has_main(module)}


def line_of_report() -> str:
    """The first line of the report's docstring."""
    return first_line(ast.parse((HERE / "report.py").read_text(encoding="utf-8")))


def first_line(module: ast.Module) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(module) or "").partition("\n")[0]


def has_main(module: ast.Module) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body)
