"""Reads configurations: which system a file is of, what it refers to, and settings on top of it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.published_clip import is_published, translate
from configs.schema import REPOSITORY, Config
from configs.systems import SYSTEMS, USUAL_SYSTEM
from models.objectives import name_weights
from utils.config import apply_overrides, merge, read_layers, read_mapping, validate
from utils.errors import UserError, did_you_mean
from utils.files import named_path

Paths = str | Path | Sequence[str | Path] | None

DATA_KEYS = {"train_file", "test_file"}  # what names them says which data set it is of


def load_config(paths: Paths, overrides: Sequence[str] = ()) -> Config:
    """Defaults < what a YAML file names as its `base` < the file < files after it < `key.path=value` overrides.

    A file may hold the options of the published IRRA or RDE; of the data set that these name, ours is below all files.
    Raises UserError: one line with file, key and nearest valid name.
    """
    files = [] if paths is None else [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    values: dict[str, Any] = {}
    for path in files:
        values = merge(values, read_layers(path, expand_file))
    return resolve_config(
        on_data(values), " + ".join(["config", *map(str, files)]).replace("config + ", "config ", 1), overrides
    )


def resolve_config(values: Mapping[str, Any], where: str, overrides: Sequence[str] = ()) -> Config:
    """Read what `values` refer to, apply overrides one by one, validate."""
    setting = next((setting for setting in overrides if setting.split("=")[0].strip() == "system"), None)
    schema = schema_of(override(values, overrides), f"--set {setting}" if setting else where)
    where = f"{where} with --set {setting}" if setting else where
    values = expand({**schema.usual, **values}, where)
    settings = override(values, overrides)
    try:
        return validate(schema, settings, where)
    except UserError:
        guilty = to_blame(schema, values, overrides)
        if guilty is None:
            raise
    return validate(schema, settings, f"--set {guilty}")


def schema_of(values: Mapping[str, Any], where: str) -> type[Config]:
    """What a configuration with these values is. Raises UserError when there is no such system."""
    name = values.get("system", USUAL_SYSTEM)
    if not isinstance(name, str) or name not in SYSTEMS:
        known = ", ".join(SYSTEMS)
        raise UserError(f"{where}: `system` must be one of {known}, not {name!r}{did_you_mean(str(name), SYSTEMS)}")
    return SYSTEMS[name].config


def override(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values` with the settings on top, one after the other."""
    values = dict(values)
    for setting in overrides:
        values = expand(apply_overrides(values, [setting]), f"--set {setting}")
    return values


def to_blame(schema: type[Config], values: Mapping[str, Any], overrides: Sequence[str]) -> str | None:
    """The first setting without which the configuration is right; None when the file is to blame, or several."""
    for index, setting in enumerate(overrides):
        try:
            validate(schema, override(values, [*overrides[:index], *overrides[index + 1 :]]), "")
        except UserError:
            continue
        return setting
    return None


def expand_file(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a file holds in our keys, see `translate` and `expand`."""
    return expand(translate(values, where) if is_published(values) else values, where)


def on_data(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` on top of our file of the data set that `translate` found, unless they name files of their own."""
    data, values = values.get("data"), dict(values)
    if not isinstance(data, Path):
        return values
    del values["data"]
    return values if values.keys() & DATA_KEYS else merge(read_layers(data, expand), values)


def expand(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`bert_config` given as a file and `weights` given as a list, as mappings that others can be merged with.

    A BERT file that says nothing of `full_ca` is one of ALBEF or RaSa, which do not know it.
    """
    values = dict(values)
    if isinstance(values.get("bert_config"), str):
        name = f"{where}: bert_config"
        values["bert_config"] = {"full_ca": False, **read_mapping(find_file(values["bert_config"], name), name)}
    if isinstance(values.get("weights"), list):
        try:
            values["weights"] = name_weights(values["weights"])
        except ValueError as error:
            raise UserError(f"{where}: `weights`: {error}") from None
    return values


def find_file(name: str, what: str) -> Path:
    """A file named relative to the current folder, else to the repository. Raises UserError, see `named_path`."""
    path = named_path(name, what)
    return path if path.exists() else REPOSITORY / path
