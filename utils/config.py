"""Typed configuration from YAML: defaults < file < command line.

Nothing here knows what is configured: a schema is a pydantic model that forbids unknown keys.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from utils.errors import UserError, did_you_mean
from utils.files import atomic_write, named_path, similar_file
from utils.text import counted, shorten

Schema = TypeVar("Schema", bound=BaseModel)

# The ranges that keys usually have.
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of all schemas: unknown keys, silent conversions and changes are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def part_of(cls: type[Schema], settings: BaseModel) -> Schema:
        """The keys of this section, taken from validated settings that inherit them."""
        return cls.model_construct(**{name: getattr(settings, name) for name in cls.model_fields})


class Constructor(SafeConstructor):
    """Makes numbers, texts, lists and mappings, and none of the objects that YAML of Python may ask for.

    Tuples are lists, as PyYAML writes those of a command line (`!!python/tuple [384, 128]`).
    """


Constructor.add_constructor("tag:yaml.org,2002:python/tuple", SafeConstructor.construct_yaml_seq)


def parse_yaml(text: str, where: str) -> Any:
    """YAML 1.2, so that `1e-5` is a number.

    Raises UserError naming `where` and the line.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Constructor
    try:
        return yaml.load(text)
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = " ".join(str(error.problem or error.context or "syntax error").split())
        raise UserError(f"{where}{line}: not valid YAML: {problem}") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    except LookupError:  # as ruamel.yaml reads a tagged value that is none of this type
        raise UserError(
            f"{where}: not valid YAML: a value is not of the type of its tag, !!bool, !!int or !!float"
        ) from None
    except RecursionError:
        raise UserError(f"{where}: not valid YAML: nested too deeply") from None


def read_mapping(path: str | Path, what: str) -> dict[str, Any]:
    """A YAML or JSON file (JSON is YAML) as a mapping.

    Raises UserError when it is missing, unreadable or no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist{similar_file(Path(path))}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} {path} cannot be read: {reason}") from None
    values = parse_yaml(text.replace("\t", "    "), f"{what} {path}")
    if not isinstance(values, Mapping):
        found = "but is empty" if values is None else f"not a {'list' if isinstance(values, list) else 'single value'}"
        raise UserError(f"{what} {path} must hold `key: value` lines, {found}")
    return dict(values)


def read_layers(
    path: Path, expand: Callable[[Mapping[str, Any], str], dict[str, Any]], above: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """A YAML file on top of those it names as its `base` (relative to its own folder), section by section.

    A list of bases: later ones lie on top of earlier ones. expand(values, where): what a file's values mean, before
    they are merged with others.
    Raises UserError when a base is missing, or rests on itself.
    """
    where = f"config {path}"
    values = expand(read_mapping(path, "config"), where)
    bases = values.pop("base", [])
    bases = bases if isinstance(bases, list) else [bases]
    if path.resolve() in above:
        raise UserError(f"{where}: `base` leads back to this file")
    merged: dict[str, Any] = {}
    for base in bases:
        if not isinstance(base, str):
            raise UserError(f"{where}: `base` must be the name of a YAML file or a list of them, not {base!r}")
        below = path.parent / named_path(base, f"{where}: base")
        merged = merge(merged, read_layers(below, expand, (*above, path.resolve())))
    return merge(merged, values)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` on top of `below`; sections are merged, all other values replaced."""
    merged = dict(below)
    for key, value in above.items():
        sections = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if sections else value
    return merged


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values` with `key.path=value` settings on top; each value is read as YAML.

    Raises UserError for a setting without `=` or a path through something that has no keys.
    """
    result = dict(values)
    for setting in overrides:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise UserError(f"--set {setting}: write it as key.path=value, for example --set optimizer.lr=1e-4")
        *parents, last = path.strip().split(".")
        section = result
        for key in parents:
            inner = section.get(key)
            if inner is not None and not isinstance(inner, Mapping):
                raise UserError(f"--set {setting}: `{key}` is {inner!r} and has no keys below it")
            section[key] = dict(inner or {})
            section = section[key]
        section[last] = parse_yaml(text, f"--set {setting}") if text.strip() else None
    return result


def validate(schema: type[Schema], values: Mapping[str, Any], where: str) -> Schema:
    """`values` as a typed object.

    Raises UserError: the first problem, with the nearest valid name, and how many more there are.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        more = f" (and {counted(len(problems) - 1, 'more problem')})" if len(problems) > 1 else ""
        raise UserError(f"{where}: {explain(schema, problems[0])}{more}") from None


def explain(schema: type[BaseModel], problem: Mapping[str, Any]) -> str:
    """One pydantic problem in plain words."""
    location = ".".join(str(part) for part in problem["loc"] if part not in UNION_TAGS)
    given = shorten(repr(problem["input"]))
    if problem["type"] == "invalid_key":
        return f"key {given} must be a name"
    if problem["type"] == "model_type":
        return f"`{location}` must hold keys of its own, not be {given}"
    if problem["type"] == "extra_forbidden":
        parent = model_at(schema, problem["loc"][:-1])
        name = problem["loc"][-1]
        return f"unknown key `{location}`{did_you_mean(name, parent.model_fields) if parent else ''}"
    if problem["type"] == "missing":
        return f"key `{location}` is missing"
    if problem["type"] in ("too_short", "too_long"):
        least, most = (problem["ctx"].get(name) for name in ("min_length", "max_length"))
        limit = f"at least {counted(least, 'value')}" if most is None else f"at most {counted(most, 'value')}"
        return f"`{location}` must be a list of {limit}, not {given}"
    if problem["type"] == "list_type":
        return f"`{location}` must be a list, such as [1, 2], not {given}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if problem["type"] == "value_error":
        return f"`{location}`: {message}" if location else message
    return f"`{location}` must be {message}, not {given}"


UNION_TAGS = ("int", "str", "float", "list[int]", "list[float]", "list[str]")


def model_at(schema: type[BaseModel], location: Iterable[str | int]) -> type[BaseModel] | None:
    """The nested schema that a problem's location points into."""
    current: Any = schema
    for key in location:
        fields = getattr(current, "model_fields", {})
        if key not in fields:
            return None
        annotation = fields[key].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        current = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return current


def save_yaml(path: str | Path, config: BaseModel) -> None:
    """Write the resolved configuration, atomically."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(config.model_dump(mode="json"), file)
