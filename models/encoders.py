"""The image encoders that a configuration may name: the one table of them.

To add one, write a module that keeps the contract of `image_encoder.ImageEncoder`, and an entry in FAMILIES. Nothing
else asks which encoder a model has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from models.image_encoder import ImageEncoder, VisionSize
from models.vision_mamba import VisionMamba
from models.vision_transformer import VisionTransformer
from utils.errors import UserError

VISION_SIZES = {
    name: {"vision_width": width, "vision_heads": heads}
    for name, width, heads in (("tiny", 192, 3), ("small", 384, 6), ("base", 768, 12))
}


@dataclass(frozen=True)
class EncoderFamily:
    """Image encoders of one architecture.

    build: makes one, freshly initialised, of these sizes, with or without gradient checkpointing. usual: settings it
    has unless others are given. heads: whether `vision_heads` counts.
    """

    build: Callable[[VisionSize, bool], ImageEncoder]
    usual: Mapping[str, Any]
    heads: bool = True
    fixed: Mapping[str, Any] = field(default_factory=dict)  # settings that the name decides


def timm_family(model: str) -> EncoderFamily:
    """A model of timm by its name there. Raises UserError when it cannot be an image encoder."""
    from models.timm_encoder import TimmEncoder, sizes_of  # timm takes longer to import than all else

    sizes = sizes_of(model)
    return EncoderFamily(
        build=lambda size, gradient_checkpointing: TimmEncoder(model, size, gradient_checkpointing),
        usual={"drop_path": 0.0},
        heads=False,
        fixed={"vision_width": sizes.width, "vision_depth": sizes.depth, "patch_size": sizes.patch_size},
    )


# By name, or by what a name begins with: from what follows the colon.
FAMILIES: dict[str, EncoderFamily | Callable[[str], EncoderFamily]] = {
    "vit": EncoderFamily(VisionTransformer, usual={"vision_depth": 12, "drop_path": 0.0}),
    "vim": EncoderFamily(VisionMamba, usual={"vision_depth": 24, "drop_path": 0.1}, heads=False),
    "timm:": timm_family,
}


def family_of(image_encoder: object) -> EncoderFamily:
    """The family that a configuration names. Raises UserError when there is none."""
    family, colon, model = image_encoder.partition(":") if isinstance(image_encoder, str) else ("", "", "")
    found = FAMILIES.get(family + colon)
    if isinstance(found, EncoderFamily) and not model:
        return found
    if found is None or isinstance(found, EncoderFamily) or not model:
        known = [f"'{name}NAME'" if name.endswith(":") else f"'{name}'" for name in FAMILIES]
        raise UserError(f"`image_encoder` must be {', '.join(known[:-1])} or {known[-1]}, not {image_encoder!r}")
    return found(model)


@dataclass(frozen=True)
class UsualSizes:
    """Settings of an image encoder: those that a name decides (and which name), and those unless others are given."""

    decided: Mapping[str, Any]
    by: str
    usual: Mapping[str, Any]


def usual_sizes(image_encoder: object, vision_size: object = None) -> UsualSizes:
    """The settings that follow from `image_encoder` and `vision_size`. Raises UserError for wrong names."""
    family = family_of(image_encoder)
    if family.fixed:
        if vision_size is not None:
            raise UserError(f"`vision_size`: {image_encoder} has sizes of its own; leave vision_size out")
        return UsualSizes(family.fixed, f"image_encoder {image_encoder}", family.usual)
    named = VISION_SIZES.get(vision_size) if isinstance(vision_size, str) else None
    depth = {"vision_depth": family.usual["vision_depth"]}
    return UsualSizes({**depth, **named} if named else {}, f"vision_size {vision_size}", family.usual)
