"""Imports go one way: between the rooms of the repository, between files, and between the folders of most rooms."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from benchmark_data import REPOSITORY

# a room, and what it may import from: other rooms, or single modules of them
MAY_IMPORT = {
    "utils": set(),
    "dataset": {"utils", "configs.schema", "configs.clip"},  # dataset.build, which reads what a configuration names
    "models": {"utils", "dataset.batch"},  # where models and data meet
    "configs": {"utils", "dataset", "models"},
    "evaluation": {"utils", "dataset", "models", "configs"},
    "search": {"utils", "dataset", "models", "configs", "evaluation"},
}


def imported(file: Path) -> set[str]:
    """Modules of this repository that a file imports, also inside functions, by their dotted names."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.split(".")[0] in MAY_IMPORT and is_module(name)}


def is_module(name: str) -> bool:
    path = REPOSITORY.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@cache
def imports_of(room: str) -> dict[str, set[str]]:
    """The modules of a room and what each imports, by dotted names."""
    files = sorted((REPOSITORY / room).rglob("*.py"))
    return {".".join(file.relative_to(REPOSITORY).with_suffix("").parts): imported(file) for file in files}


def folder(module: str) -> str:
    """What stands for a module inside its room: the folder below the room that holds it, else itself."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_from_those_below_it_alone(room):
    allowed = {room} | MAY_IMPORT[room]
    wrong = [
        f"{module} imports {name}"
        for module, names in imports_of(room).items()
        for name in sorted(names)
        if not {name, name.split(".")[0]} & allowed
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    require_no_circle({module: names - {module} for room in MAY_IMPORT for module, names in imports_of(room).items()})


@pytest.mark.parametrize("room", ["utils", "dataset", "configs", "search"])
def test_the_folders_of_a_room_do_not_import_each_other_in_a_circle(room):
    graph: dict[str, set[str]] = {}
    for module, names in imports_of(room).items():
        inside = {folder(name) for name in names if name.startswith(f"{room}.")}
        graph.setdefault(folder(module), set()).update(inside - {folder(module)})
    require_no_circle(graph)


def require_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
