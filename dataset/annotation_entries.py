"""What an annotation entry must be, and what is reported of one that is not.

The types of its fields are checked by pydantic. A fault becomes a `Problem` in a list instead of an exception, so that
one pass over a file reports everything that is wrong with it. A field that is wrong becomes None in its `RawEntry`; the
other fields still take part in the checks that compare entries.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from dataset.image_files import path_fault
from utils.errors import did_you_mean

SPLITS = ("train", "val", "test")
Box = tuple[float, float, float, float]
"""Of a person within a frame: left, top, width and height in pixels, from the upper left corner of the frame."""
LARGEST_IDENTITY = 2**63 - 1
EMPTY_CELLS = (
    *("nan", "NaN", "-nan", "NaT", "NA", "<NA>", "N/A", "n/a", "#N/A", "#NA", "null", "NULL", "Null", "<null>"),
    *("(null)", "None", "none", "nil", "\\N", "undefined"),
    *("#VALUE!", "#REF!", "#DIV/0!", "#NAME?", "#NUM!", "#NULL!"),
)
"""What programs write into a table for a value that is not there, or was not computed."""
NO_CAPTIONS = frozenset(cell.casefold() for cell in EMPTY_CELLS)


@dataclass(frozen=True)
class Problem:
    """One finding: its category (findings are grouped by it), where it is, and what is wrong there."""

    category: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


@dataclass(frozen=True)
class RawEntry:
    """One image as an annotation file describes it; None stands for a field that is wrong or absent.

    uncaptioned: it is said to have no captions, as images have that are in a gallery alone.
    frame: the image that a person is cut out of, at `box`, to become `image`.
    """

    where: str
    split: str | None
    image: str | None
    identity: int | str | None
    captions: tuple[str, ...]
    uncaptioned: bool = False
    frame: str | None = None
    box: Box | None = None


# ---- the types of fields: what they refuse, by category and the end of a sentence ----


def refusal(category: str, what: str) -> PydanticCustomError:
    """The fault of a value that has the right type."""
    return PydanticCustomError(category, "{what}", {"what": what})


def valid_text(text: str) -> str:
    """Refuses what cannot be stored or used as a file name."""
    if "\0" in text:
        raise refusal("bad text", "holds a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise refusal("bad text", "holds half of a surrogate pair, which is not valid text") from None
    return text


def valid_caption(caption: str) -> str:
    """Refuses a caption of which nothing is left without white space and punctuation, and an empty cell's stand-in."""
    if not any(character.isalnum() for character in caption):
        raise refusal("empty caption", f"has no words: {quote(caption)}")
    if caption.strip(" \t\r\n\"'.").casefold() in NO_CAPTIONS:
        raise refusal("empty caption", f"is not a sentence but what programs write for an empty cell: {quote(caption)}")
    return caption


def valid_path(image: str) -> str:
    """Refuses a path that is absolute or leaves the image folder."""
    if fault := path_fault(image):
        raise refusal("bad image path", fault)
    return image


def valid_identity(identity: int | str) -> int | str:
    """Refuses an integer beyond 64 bits, and a string that is blank or invalid text."""
    if isinstance(identity, str):
        if not identity.strip():
            raise refusal("wrong type", "is empty")
        return valid_text(identity)
    if abs(identity) > LARGEST_IDENTITY:
        raise refusal("wrong type", "does not fit in 64 bits")
    return identity


def named_identity(identity: int | str) -> int | str:
    """Refuses what a table program has written for an empty cell: all such people would count as one."""
    if identity in EMPTY_CELLS:
        what = f"is {identity!r}, which programs write for an empty cell; if somebody is called so, write it otherwise"
        raise refusal("wrong type", what)
    return identity


def valid_split(split: str) -> str:
    """Refuses an unknown split, naming the nearest one."""
    if split not in SPLITS:
        hint = did_you_mean(split.strip().lower(), SPLITS) or f"; use {', '.join(SPLITS)}"
        raise refusal("unknown split", f"is not known{hint}")
    return split


Text = Annotated[str, AfterValidator(valid_text)]
Caption = Annotated[Text, AfterValidator(valid_caption)]
ImagePath = Annotated[Text, AfterValidator(valid_path)]
Identity = Annotated[int | str, AfterValidator(valid_identity)]
CellIdentity = Annotated[Identity, AfterValidator(named_identity)]
Split = Annotated[str, AfterValidator(valid_split)]

Location = tuple[str | int, ...]
"""Where a fault is within an entry: ("id",), or ("captions", 1) for the second caption."""


def faults_of(error: ValidationError) -> dict[Location, ErrorDetails]:
    """What pydantic found wrong with an entry, by location.

    A value that may be of two types and is of neither has a fault for each; the first one is kept.
    """
    faults: dict[Location, ErrorDetails] = {}
    for fault in error.errors(include_url=False):
        field, *inside = fault["loc"]
        location = (field, *(step for step in inside if isinstance(step, int)))
        faults.setdefault(location, fault)
    return faults


# ---- reporting, whatever the form of a file ----


def quote(value: object) -> str:
    """`repr`, cut after 60 characters; control characters and lone surrogates are escaped by it."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "too long to show"
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"
