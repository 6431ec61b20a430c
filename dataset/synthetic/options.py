"""What is to be made, validated before anything is written."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from dataset.annotation_entries import SPLITS
from dataset.synthetic.lookalikes import DETAILS, LARGEST_GROUP, code
from utils.errors import UserError, did_you_mean

VERSION = 1  # raise it when the same options no longer give the same files
NUISANCE = {"easy": 0.4, "normal": 1.0, "hard": 1.7}
OCCLUSION = {"easy": 0.05, "normal": 0.15, "hard": 0.4}
FORMATS = ("jpg", "png")
CAPTION_STYLES = ("usual", "thorough")
VARIED = "varied"  # difficulty or caption style: another one for each person

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"train": 8, "val": 4, "test": 4, "images_per_identity": 2, "height": 96, "width": 48},
    "demo": {"train": 1700, "val": 50, "test": 100, "images_per_identity": 4, "height": 128, "width": 64},
    "full": {"train": 11003, "val": 1000, "test": 1000, "images_per_identity": 3},
    "lookalikes": {
        "train": 1200,
        "val": 24,
        "test": 104,
        "images_per_identity": 4,
        "height": 128,
        "width": 64,
        "group_size": 8,
        "details": ("shoes", "bag", "headwear", "hair", "scarf", "item"),  # glasses are lost in smaller images
        "caption_style": "thorough",
        "smallest_detail": 5,
    },
    "start": {
        "train": 10000,
        "val": 200,
        "test": 200,
        "images_per_identity": 4,
        "height": 128,
        "width": 64,
        "difficulty": VARIED,
        "caption_style": VARIED,
    },
}


@dataclass(frozen=True)
class Options:
    """Everything that decides the contents of the benchmark.

    train, val, test: identities; height, width: pixels; occlusion: probability that
    something stands in front of the person, None = by difficulty.

    difficulty, caption_style: `varied` = that of each person is drawn.
    group_size: people who look alike, 1 = nobody does; differing_details: details in which any two of them
    differ, out of `details` (in large groups at least); smallest_detail: pixels of the image that a detail
    measures at least across; caption_style: how much annotators say (`thorough`: nearly all that shows).

    Raises UserError for values that make no sense.
    """

    train: int = 200
    val: int = 20
    test: int = 50
    images_per_identity: int = 4
    captions_per_image: int = 2
    height: int = 192
    width: int = 96
    seed: int = 0
    difficulty: str = "normal"
    occlusion: float | None = None
    masks: bool = True
    image_format: str = "jpg"
    group_size: int = 1
    differing_details: int = 2
    details: tuple[str, ...] = DETAILS
    smallest_detail: int = 0
    caption_style: str = "usual"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("train", 0, 10**6),
            ("val", 0, 10**6),
            ("test", 0, 10**6),
            ("images_per_identity", 1, 1000),
            ("captions_per_image", 1, 20),
            ("height", 32, 1024),
            ("width", 16, 1024),
            ("seed", 0, 2**63),
            ("group_size", 1, LARGEST_GROUP),
        ):
            require_within(name, getattr(self, name), low, high)
        if self.train + self.val + self.test == 0:
            raise UserError("no identities are asked for; set train, val or test above 0")
        if not 0.25 <= self.width / self.height <= 2:
            raise UserError(
                f"size {self.height}x{self.width} is no shape for a person; "
                "give HEIGHTxWIDTH such as 192x96, with a width from a quarter to twice the height"
            )
        require_known("difficulty", self.difficulty, (*NUISANCE, VARIED))
        require_known("caption style", self.caption_style, (*CAPTION_STYLES, VARIED))
        if self.occlusion is not None and not 0 <= self.occlusion <= 1:
            raise UserError(f"occlusion is {self.occlusion}; it is a probability, choose from 0 to 1")
        if self.image_format not in FORMATS:
            raise UserError(f"image format '{self.image_format}' is unknown; choose from {', '.join(FORMATS)}")
        self._check_details()

    def _check_details(self) -> None:
        """Raise UserError when details cannot be so large, or groups of this size cannot be told apart by them."""
        most = self.height // 12
        if not 0 <= self.smallest_detail <= most:
            raise UserError(
                f"smallest detail is {self.smallest_detail} pixels; choose from 0 to {most} in images that are "
                f"{self.height} pixels high"
            )
        if not self.details:
            raise UserError(f"no detail is named; choose from {', '.join(DETAILS)}")
        for name in self.details:
            if name not in DETAILS:
                raise UserError(
                    f"detail '{name}' is unknown{did_you_mean(name, DETAILS)}; choose from {', '.join(DETAILS)}"
                )
        if len(set(self.details)) < len(self.details):
            raise UserError(f"details {','.join(self.details)} name one of them twice; name each once")
        if not 1 <= self.differing_details <= len(self.details):
            raise UserError(
                f"differing details is {self.differing_details}; choose a number from 1 to {len(self.details)}, "
                "as many as there are details"
            )
        found = len(code(self.group_size, self.differing_details, len(self.details)))
        if found < self.group_size:
            raise UserError(
                f"no {self.group_size} people were found of whom any two differ in {self.differing_details} of the "
                f"details {','.join(self.details)}; choose groups of {found} or fewer, fewer differing details or "
                "more details"
            )
        if self.group_size == 1 and (self.differing_details, self.details) != (Options.differing_details, DETAILS):
            raise UserError("people differ in details within groups alone; add --group_size 4, or --preset lookalikes")

    def for_person(self, identity: int) -> "Options":
        """The options of one person, in which nothing is `varied` any more."""
        if VARIED not in (self.difficulty, self.caption_style):
            return self
        rng = random.Random(f"options/{self.seed}/{identity}")
        difficulty, style = rng.choice(list(NUISANCE)), rng.choice(CAPTION_STYLES)
        return replace(
            self,
            difficulty=difficulty if self.difficulty == VARIED else self.difficulty,
            caption_style=style if self.caption_style == VARIED else self.caption_style,
        )

    @property
    def nuisance(self) -> float:
        """How strongly light, blur, noise and framing vary; 1 is normal."""
        return NUISANCE[self.difficulty]

    @property
    def occlusion_share(self) -> float:
        """The probability that something stands in front of the person."""
        return OCCLUSION[self.difficulty] if self.occlusion is None else self.occlusion

    @property
    def identities(self) -> int:
        """Identities of all splits together."""
        return self.train + self.val + self.test

    @property
    def images(self) -> int:
        """Images of all splits together."""
        return self.identities * self.images_per_identity

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.height * self.width

    def group_of(self, identity: int) -> tuple[int, int]:
        """First identity of the group of an identity, and its index in the group.

        No group crosses splits; the last one of a split may be smaller than the others.
        """
        _, index = self.split_of(identity)
        index %= self.group_size
        return identity - index, index

    def split_of(self, identity: int) -> tuple[str, int]:
        """Split of an identity (numbered from 1 over all splits) and its index in the split, from 0."""
        index = identity - 1
        for split in SPLITS:
            if index < getattr(self, split):
                return split, index
            index -= getattr(self, split)
        raise ValueError(f"identity {identity} is beyond the {self.identities} identities")

    def as_dict(self) -> dict[str, Any]:
        """For the marker file."""
        return asdict(self) | {"details": list(self.details)}


def require_within(name: str, value: float, low: float, high: float) -> None:
    """Raises UserError unless a number is one of those that make sense."""
    if not low <= value <= high:
        raise UserError(f"{name.replace('_', ' ')} is {value}; choose a number from {low} to {high}")


def require_known(what: str, value: str, known: Sequence[str]) -> None:
    """Raises UserError for a value that is none of the known ones."""
    if value not in known:
        raise UserError(f"{what} '{value}' is unknown{did_you_mean(value, known)}; choose from {', '.join(known)}")


def options_from(preset: str | None, given: dict[str, Any]) -> Options:
    """A preset with everything in `given` that is not None put over it."""
    if preset is not None and preset not in PRESETS:
        raise UserError(
            f"preset '{preset}' is unknown{did_you_mean(preset, PRESETS)}; choose from {', '.join(PRESETS)}"
        )
    names = {field.name for field in fields(Options)}
    chosen = {name: value for name, value in given.items() if name in names and value is not None}
    return Options(**(PRESETS.get(preset or "", {}) | chosen))


def parse_size(text: str) -> tuple[int, int]:
    """`192x96` -> (192, 96), height first."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise UserError(f"size '{text}' is not understood; give HEIGHTxWIDTH in pixels, such as 192x96")
    return int(parts[0]), int(parts[1])
