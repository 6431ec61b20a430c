"""README.md and docs/ point to what is there: files, headings, functions, flags, settings and their defaults."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmark_data import REPOSITORY
from documents import FENCE, PAGES, README, anchors_of, code_of, links_of, prose, read, rows_of
from pydantic import BaseModel

from configs.loading import load_config, resolve_config
from configs.schema import Config, MarsConfig
from configs.systems import SYSTEMS
from utils.config import parse_yaml

ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"
CONFIGURATION = REPOSITORY / "docs" / "configuration.md"
# flags of other programs
FOREIGN = {"--nproc_per_node", "--data-binary"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
every_text = pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CONTRIBUTING.md"], ids=lambda page: page.name)


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 220


def test_every_page_is_reached_from_the_readme():
    linked = {(README.parent / link.partition("#")[0]).resolve() for link in links_of(README)}
    assert {page.name for page in PAGES[1:] if page not in linked} == set()


@every_text
def test_every_link_leads_somewhere(page):
    for link in links_of(page):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors_of(target), f"{page.name}: {link}"


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# What is `this_key`, 2 of them?\n\n```bash\n# no heading\n```\n")
    assert anchors_of(page) == {"what-is-this_key-2-of-them"}


@every_text
def test_every_python_file_and_name_is_there(page):
    """`folder/file.py`, or `folder/file.py:Class.method`."""
    for code in code_of(page):
        named = re.fullmatch(r"([\w/]+\.py)(?::([\w.]+))?", code)
        if named is None:
            continue
        file, name = REPOSITORY / named[1], named[2]
        assert file.is_file(), f"{page.name}: {code}"
        assert not name or defines(ast.parse(file.read_text(encoding="utf-8")), name.split(".")), f"{page.name}: {code}"


def defines(tree: ast.AST, names: list[str]) -> bool:
    """Whether a module or class has a class, function or value of the first name, and that one the others."""
    found = next((node for node in ast.iter_child_nodes(tree) if names[0] in names_of(node)), None)
    return found is not None and (len(names) == 1 or defines(found, names[1:]))


def names_of(node: ast.AST) -> set[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


@every_text
def test_every_folder_and_configuration_is_there(page):
    for code in code_of(page):
        if re.fullmatch(r"(configs|dataset|models|evaluation|search|utils|shell|tests|benchmarks)/[\w/.-]*", code):
            assert (REPOSITORY / code).exists(), f"{page.name}: {code}"


@every_page
def test_every_flag_exists(page):
    folders = ("configs", "dataset", "evaluation", "search", "benchmarks", "shell")
    sources = [path for name in folders for path in (REPOSITORY / name).rglob("*") if path.suffix in (".py", ".sh")]
    known = {flag for path in sources for flag in re.findall(r"(?<!\w)--[a-zA-Z][\w-]+", path.read_text("utf-8"))}
    flags = {flag for code in code_of(page) for flag in re.findall(r"(?<!\S)--[a-zA-Z][\w-]+", code)}
    assert flags - FOREIGN <= known


@every_page
def test_every_command_that_text_names_exists(page):
    for code in code_of(page):
        named = re.match(r"python -m (benchmarks\.|evaluation |dataset\.)([a-z_]+)", code)
        if named and named[2].islower():
            folders = ("evaluation/studies", "evaluation") if named[1] == "evaluation " else (named[1].strip("."),)
            assert any(
                (REPOSITORY / folder / name).exists() for folder in folders for name in (f"{named[2]}.py", named[2])
            ), code


def test_every_benchmark_is_listed():
    folder = REPOSITORY / "benchmarks"
    sources = {path.stem: path for path in folder.glob("*.py")}
    sources |= {path.parent.name: path for path in folder.glob("*/__main__.py")}
    commands = {name for name, path in sources.items() if "\ndef main(" in path.read_text("utf-8")}
    listed = {
        name for code in code_of(REPOSITORY / "docs" / "speed.md") for name in re.findall(r"benchmarks\.(\w+)", code)
    }
    assert len(commands) > 5 and "gpu" in commands
    assert commands == listed


# ---- docs/architecture.md --------------------------------------------------------------

AS_CONFIGURED = "dataset/build.py"  # opens data as configured: the one import that the picture leaves out


def drawn_arrows() -> set[tuple[str, str]]:
    """Pairs (room, room that it imports) of the picture, and what follows from them."""
    (picture,) = (text for kind, text in FENCE.findall(read(ARCHITECTURE)) if kind == "mermaid")
    arrows: set[tuple[str, str]] = set()
    for line in picture.splitlines()[1:]:
        start, end = re.split(r"\s-.*->\s", re.sub(r"\[.*?\]", "", line))
        arrows |= {(above.strip(), below.strip()) for above in start.split("&") for below in end.split("&")}
    while more := {(a, d) for a, b in arrows for c, d in arrows if b == c} - arrows:
        arrows |= more
    return arrows


def imports_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each file of a room, with each room that it imports."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom | ast.Import):
                yield path, (getattr(node, "module", None) or node.names[0].name).partition(".")[0]


def test_imports_go_along_the_arrows_of_the_picture():
    arrows = drawn_arrows()
    rooms = {room for arrow in arrows for room in arrow} - {"driver"}
    assert {room for room in rooms if (room, room) in arrows} == set()
    for room in rooms:
        for path, other in imports_of(REPOSITORY / room):
            if other in rooms - {room} and path != REPOSITORY / AS_CONFIGURED:
                assert (room, other) in arrows, f"{path} imports {other}"


# ---- docs/configuration.md -------------------------------------------------------------


def keys_of(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Every key and value, those of sections by their path too."""
    keys: dict[str, Any] = {}
    for name, value in settings.items():
        keys[above + name] = value
        if isinstance(value, dict):
            keys |= keys_of(value, f"{above}{name}.")
    return keys


def documented(page: Path = CONFIGURATION) -> dict[str, str]:
    """Key -> default, as the tables of a page say."""
    rows = [row for row in rows_of(page) if row[0].startswith("`")]
    assert len({row[0] for row in rows}) == len(rows), "a key stands twice"
    return {row[0].strip("`"): row[1].strip("`") for row in rows}


def test_the_configuration_page_names_every_key_and_no_other():
    assert set(documented()) == set(keys_of(MarsConfig.model_validate({}).model_dump(mode="json")))


def test_the_page_of_clip_names_every_key_that_other_systems_have_of_their_own():
    settings = {name: keys_of(SYSTEMS[name].config.model_validate({}).model_dump(mode="json")) for name in SYSTEMS}
    sections = ("clip", "optimizer", "schedular")
    own = {
        key: value for name in ("rde", "irra", "clip") for key, value in settings[name].items() if key not in sections
    }
    common = Config.model_fields.keys() - {"system", "max_words", "k_test", "batch_size_train", *sections}
    expected = {key: value for key, value in own.items() if key.partition(".")[0] not in common}
    found = {key: parse_yaml(default, key) for key, default in documented(REPOSITORY / "docs/clip.md").items()}
    assert found == expected


def test_the_configuration_page_has_every_default():
    actual = keys_of(MarsConfig.model_validate({}).model_dump(mode="json"))
    for key, default in documented().items():
        value = parse_yaml(default, key)
        if key in ("bert_config", "weights", "optimizer", "schedular"):  # a file or a list, as a user may write them
            value = section_of(resolve_config({key: value}, key), key)
        assert value == actual[key], key


def section_of(config: Config, key: str) -> Any:
    section = getattr(config, key)
    return section.model_dump(mode="json") if isinstance(section, BaseModel) else section


@every_page
def test_examples_of_configurations_load(page, tmp_path):
    for number, block in enumerate(text for kind, text in FENCE.findall(read(page)) if kind == "yaml"):
        file = tmp_path / f"{number}.yaml"
        file.write_text(re.sub(r"(?<=[\[ ])(?=(PS_|recipes/))", f"{REPOSITORY}/configs/", block))
        assert load_config(file)


def test_keys_within_text_are_keys():
    """`section.key` anywhere in the pages."""
    sections = "|".join(("weights", "bert_config", "optimizer", "schedular"))
    known = {*documented(), *documented(REPOSITORY / "docs/clip.md")}
    for page in PAGES:
        found = set(re.findall(rf"\b(?:{sections})\.\w+", prose(page)))
        assert {key for key in found if not key.endswith((".json", ".yaml"))} <= known, page.name
