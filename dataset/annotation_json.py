"""Annotations as JSON: a list of {"split", "captions", "file_path" | "img_path", "id"}, as the data sets publish them.

Entries are counted from 1.
"""

import json
import os
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from dataset.annotation_entries import (
    Caption,
    Identity,
    ImagePath,
    Location,
    Problem,
    RawEntry,
    Split,
    faults_of,
    quote,
    refusal,
)
from dataset.text_files import read_text
from utils.errors import UserError, did_you_mean

IMAGE_KEYS = ("file_path", "img_path")
KNOWN_KEYS = {"split", "captions", "id", "processed_tokens", *IMAGE_KEYS}
TYPES: dict[Location, str] = {("id",): "an integer or a string", ("captions",): "a list of strings"}
"""What must stand at a location, in words; everywhere else a string."""


class PreparedEntry(BaseModel, strict=True):
    """An entry of a file that is one split; other keys are not read."""

    image: ImagePath = Field(validation_alias=AliasChoices(*IMAGE_KEYS))
    id: Identity
    captions: list[Caption]
    img_path: object = None

    @field_validator("img_path")
    @classmethod
    def the_only_image(cls, path: object, info: ValidationInfo) -> object:
        """Refuses an image of its own beside `file_path`."""
        if path != info.data.get("image", path):
            raise refusal("two images", "is not that of 'file_path'")
        return path

    def raw(self, where: str) -> RawEntry:
        return RawEntry(where, None, self.image, self.id, tuple(self.captions), uncaptioned=not self.captions)


class PublishedEntry(PreparedEntry):
    """An entry of a file that holds all splits, as the data sets publish them: with captions."""

    captions: list[Caption] = Field(min_length=1)
    split: Split

    def raw(self, where: str) -> RawEntry:
        return RawEntry(where, self.split, self.image, self.id, tuple(self.captions))


def read_json_entries(
    path: str | os.PathLike,
    split_required: bool = False,
    image_key: str = "file_path",
    renamed: Mapping[str, str] = {},
    skip_blank: bool = False,
) -> tuple[list[RawEntry], list[Problem]]:
    """Entries and problems of a JSON file.

    Unless it is required the split of an entry is not read. `image_key` is the name to ask for when an
    entry has neither image key. renamed: keys that the file has for those above, the usual one first; messages say
    what the file says. skip_blank: empty strings among the captions are padding.

    Raises UserError when the file is missing, not UTF-8, not JSON, or not a list, and when no entry has a split that is
    required.
    """
    form = PublishedEntry if split_required else PreparedEntry
    listed, has_constants = _parse(path)
    objects = [fields for fields in listed if isinstance(fields, dict)]
    if split_required and objects and not any("split" in fields for fields in objects):
        hint = did_you_mean("split", set(objects[0]) - KNOWN_KEYS)
        of_cuhk = "; nor has caption_all.json of CUHK-PEDES, in place of which its authors' reid_raw.json is needed"
        raise UserError(f"annotation file {path} has no 'split' (train, val, test) in any entry{hint}{of_cuhk}")
    entries: list[RawEntry] = []
    problems: list[Problem] = []
    for number, fields in enumerate(listed, start=1):
        if not isinstance(fields, dict):
            what = f"must be an object with image, id and captions, found {json_type(fields)}"
            problems.append(Problem("wrong type", f"entry {number}", what))
            continue
        names = {ours: theirs for theirs, ours in reversed(list(renamed.items()))}
        names |= {renamed[key]: key for key in fields if key in renamed}
        fields = {renamed.get(key, key): value for key, value in fields.items()}
        if skip_blank and isinstance(captions := fields.get("captions"), list):
            fields["captions"] = [one for one in captions if not isinstance(one, str) or one.strip()]
        where = _where(number, fields)
        if has_constants and _holds_constant(fields):
            problems.append(Problem("not a number", where, "holds NaN or Infinity, which JSON does not have"))
        try:
            entries.append(form.model_validate(fields).raw(where))
        except ValidationError as error:
            faults = faults_of(error)
            explained = [_explain(location, fault, fields, image_key, names) for location, fault in faults.items()]
            problems += [Problem(category, where, what) for category, what in explained]
            entries.append(_what_is_right(where, fields, faults, split_required))
    return entries, problems


def json_type(value: object) -> str:
    """The JSON name of a value's type, with the value where it is short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {quote(value)}"
    if isinstance(value, str):
        return f"the string {quote(value)}"
    return "a list" if isinstance(value, list) else "an object"


def _parse(path: str | os.PathLike) -> tuple[list[Any], bool]:
    """The top-level list, and whether NaN or Infinity stands anywhere in the file."""
    constants: list[str] = []

    def note(name: str) -> float:
        constants.append(name)
        return float(name)

    text = read_text(path, f"annotation file {path}")
    if not text.strip():
        raise UserError(f"annotation file {path} is empty")
    try:
        listed = json.loads(text, parse_constant=note)
    except (ValueError, RecursionError) as error:
        raise UserError(f"annotation file {path} is not valid JSON: {error}") from None
    if not isinstance(listed, list):
        raise UserError(f"annotation file {path} must hold a list of entries, found {json_type(listed)}")
    return listed, bool(constants)


def _holds_constant(value: object) -> bool:
    """Whether NaN or an infinity stands anywhere inside a JSON value."""
    if isinstance(value, dict):
        return any(map(_holds_constant, value.values()))
    if isinstance(value, list):
        return any(map(_holds_constant, value))
    return isinstance(value, float) and (value != value or abs(value) == float("inf"))


def _where(number: int, fields: dict[str, Any]) -> str:
    """`entry 7 (folder/name.jpg)`."""
    image = next((fields[key] for key in IMAGE_KEYS if key in fields), None)
    return f"entry {number} ({repr(image)[1:-1]})" if isinstance(image, str) else f"entry {number}"  # escaped by repr


def _what_is_right(where: str, fields: dict[str, Any], wrong: Collection[Location], split_required: bool) -> RawEntry:
    """The entry without the fields that are wrong or absent."""
    right = {key: value for key, value in fields.items() if (key,) not in wrong}
    image_is_wrong = any((key,) in wrong for key in IMAGE_KEYS)
    captions = enumerate(right.get("captions", ()))
    return RawEntry(
        where=where,
        split=right.get("split") if split_required else None,
        image=None if image_is_wrong else next(right[key] for key in IMAGE_KEYS if key in right),
        identity=right.get("id"),
        captions=tuple(caption for index, caption in captions if ("captions", index) not in wrong),
    )


def _explain(
    location: Location, fault: ErrorDetails, fields: dict[str, Any], image_key: str, names: Mapping[str, str]
) -> tuple[str, str]:
    """The category of a fault, and what is wrong in a sentence; names: what the file calls a key, if otherwise."""
    key, *index = location
    category, value = fault["type"], fault["input"]
    name = f"caption {int(index[0]) + 1}" if index else f"'{names.get(str(key), key)}'"
    if category == "missing":
        key = image_key if key in IMAGE_KEYS else str(key)
        key = names.get(key, key)
        return "missing key", f"has no '{key}'{did_you_mean(key, set(fields) - KNOWN_KEYS)}"
    if category == "two images":
        return "wrong type", "'file_path' and 'img_path' name different images; keep one"
    if category == "too_short":
        return "no captions", "has an empty list of captions"
    if category.endswith("_type"):
        return "wrong type", f"{name} must be {TYPES.get(location, 'a string')}, found {json_type(value)}"
    if key not in ("id", "captions"):
        name = f"{'split' if key == 'split' else 'the image path'} {quote(value)}"
    return category, f"{name} {fault['msg']}"
