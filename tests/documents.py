"""Reads what README.md and docs/ promise: their commands, links, tables, and the code that they name."""

import re
from pathlib import Path

from benchmark_data import REPOSITORY

README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
ASSIGNMENT = re.compile(r"([A-Z_]+)=\S+")


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", read(page))


def commands_of(page: Path) -> list[str]:
    """What its bash blocks say, in order: comments dropped, continued lines and loops joined.

    A variable that a line sets stands before each later command that uses it.
    """
    commands: list[str] = []
    variables: dict[str, str] = {}
    for kind, block in FENCE.findall(read(page)):
        for statement in statements_of(block) if kind == "bash" else ():
            if assigned := ASSIGNMENT.fullmatch(statement):
                variables[assigned[1]] = statement
                continue
            used = [text for name, text in variables.items() if f"${name}" in statement]
            commands.append("; ".join([*used, statement]))
    return commands


def statements_of(block: str) -> list[str]:
    """The statements of a shell script of plain commands and `for` loops."""
    statements: list[str] = []
    open_loop: list[str] = []
    for line in block.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s+)#.*$", "", line).strip()
        open_loop += [line] if line else []
        if line and sum(text.startswith("for ") for text in open_loop) == open_loop.count("done"):
            statements.append("\n".join(open_loop))
            open_loop = []
    return statements


def rows_of(page: Path) -> list[list[str]]:
    """The cells of all rows of its tables, headings and rules left out."""
    rows = [line.strip("|").split("|") for line in prose(page).splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in row]
        for row, below in zip(rows, [*rows[1:], []], strict=True)
        if not is_rule(row) and not is_rule(below)
    ]


def is_rule(row: list[str]) -> bool:
    return bool(row) and all(set(cell.strip()) <= set("-: ") and cell.strip() for cell in row)


def anchors_of(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(page: Path) -> list[str]:
    """The targets of its links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def code_of(page: Path) -> list[str]:
    """What stands between backticks in its text."""
    return re.findall(r"`([^`\n]+)`", prose(page))
