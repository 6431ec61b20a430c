"""Which images of a gallery a command means: by their names, those of their folders, and their metadata."""

from collections.abc import Sequence
from typing import Any

from dataset.image_folders import composed
from search.files.crops import lies_below
from search.files.metadata import typed, unknown_column
from search.gallery.filters import described
from search.gallery.gallery import Gallery
from utils.errors import UserError


def select_images(gallery: Gallery, names: Sequence[str], conditions: Sequence[str]) -> list[str]:
    """Paths that are named or lie in a named folder (all, where none is named), whose metadata have each NAME=VALUE.

    Raises UserError for a name or a column that no image has, and when neither names nor conditions are given.
    """
    if not names and not conditions:
        raise UserError("name images, or folders, or give --where NAME=VALUE")
    paths = list(gallery.records.by_path)
    if names:
        paths = list(dict.fromkeys(path for name in names for path in images_named(gallery, name)))
    for condition in conditions:
        name, value = parse_condition(gallery, condition)
        paths = [path for path in paths if has_value(gallery.records.by_path[path].metadata.get(name), value)]
    return paths


def images_named(gallery: Gallery, name: str) -> list[str]:
    """The image of this name, those cut out of it, or all below the folder of this name.

    Raises UserError when there are none.
    """
    if not name.strip():  # as of a variable of the shell that is not set
        raise UserError("the name of an image or folder is empty; . means all images")
    # the whole folder last: `.` in one of its subfolders means that subfolder
    for inside in sorted(gallery.image_source.paths_of(name), key=lambda path: path == "."):
        everything = inside == "."  # the folder of images itself
        found = [path for path in gallery.records.by_path if everything or lies_below(path, inside)]
        if found:
            return found
    for inside in gallery.image_source.paths_of(name):
        found = in_another_form(gallery, inside)
        if found:
            return found
    raise UserError(
        f"the gallery holds no image {name!r}, and none below it; its paths start from {gallery.image_source}"
    )


def in_another_form(gallery: Gallery, inside: str) -> list[str]:
    """The image, or those of the folder, whose name has another Unicode form; nothing where there are several."""
    depth = inside.count("/") + 1
    prefixes: dict[str, list[str]] = {}
    for path in gallery.records.by_path:
        prefix = "/".join(path.split("/")[:depth])
        if composed(prefix) == composed(inside):
            prefixes.setdefault(prefix, []).append(path)
    return next(iter(prefixes.values())) if len(prefixes) == 1 else []


def parse_condition(gallery: Gallery, condition: str) -> tuple[str, str]:
    """NAME=VALUE as name and value. Raises UserError when it is not that, or no image has such metadata."""
    name, equals, value = condition.partition("=")
    name = composed(name.strip())  # as metadata are named
    if not equals:
        raise UserError(f"--where {condition}: NAME=VALUE is expected")
    columns = gallery.columns()
    if name not in columns:
        raise UserError(f"--where {condition}: {unknown_column(name, columns)}")
    if not any(has_value(there, value) for there in columns[name]):
        raise UserError(f"--where {condition}: no image has that; {advice(name, value, columns[name])}")
    return name, value


def advice(name: str, value: str, there: Sequence[Any]) -> str:
    """What a column holds; and how the value is written, where it was written as in a filter, with == or quotes."""
    plain = value.removeprefix("=").strip()
    if len(plain) > 1 and plain[0] == plain[-1] and plain[0] in "'\"":
        plain = plain[1:-1].strip()
    if plain != value and any(has_value(one, plain) for one in there):
        return f"write {name}={plain}"
    return described(name, there)


def has_value(found: Any, wanted: str) -> bool:
    """Whether a value of metadata is the one that a user has written: the same text, or the same number."""
    return found is not None and (str(found) == wanted or found == typed([wanted])[0])
