"""CLIP in the form of open_clip: sizes of both towers as JSON, and their tensors under OpenAI's names.

Letters: T text tokens, W text width.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, tensor

from models.clip.towers import HEAD_WIDTH, ClipSize, DualEncoder
from models.image_encoder import CLIP_STATISTICS
from utils.errors import UserError

# keys of open_clip: those of `ClipSize`, and what open_clip takes where they are absent
SIZES = {
    "embed_dim": ("embedding", None),
    "vision_cfg.layers": ("vision_depth", 12),
    "vision_cfg.width": ("vision_width", 768),
    "vision_cfg.patch_size": ("patch_size", 16),
    "text_cfg.context_length": ("text_length", 77),
    "text_cfg.vocab_size": ("vocabulary", 49408),
    "text_cfg.width": ("text_width", 512),
    "text_cfg.heads": ("text_heads", 8),
    "text_cfg.layers": ("text_depth", 12),
}
IMAGE_SIZE, HEAD, QUICK_GELU = "vision_cfg.image_size", "vision_cfg.head_width", "quick_gelu"
# what our towers are, of what open_clip can build; all else that it knows they are not
OURS = {
    "vision_cfg.mlp_ratio": 4.0,
    "vision_cfg.pos_embed_type": "learnable",
    "vision_cfg.pool_type": "tok",
    "text_cfg.mlp_ratio": 4.0,
    "text_cfg.pool_type": "argmax",
    "text_cfg.proj_type": "linear",
}
WITHOUT_EFFECT = (  # on embeddings of such towers
    *("init_logit_scale", "init_logit_bias", "nonscalar_logit_scale", "vision_cfg.patch_dropout"),
    *("vision_cfg.attn_pooler_queries", "vision_cfg.attn_pooler_heads", "text_cfg.pad_id", "text_cfg.eos_id"),
)


# ---- writing ---------------------------------------------------------------------------


def open_clip_config(size: ClipSize, max_words: int, resampling: str) -> dict[str, Any]:
    """What `open_clip_config.json` holds. Raises UserError for what open_clip cannot build."""
    if size.stride != size.patch_size:
        raise UserError(
            f"open_clip lays patches side by side; those of this model are {size.patch_size} pixels wide and"
            f" {size.stride} apart (stride_size)"
        )
    flat = {key: getattr(size, own) for key, (own, _) in SIZES.items()} | {
        QUICK_GELU: size.quick_gelu,
        "text_cfg.context_length": max_words,
        IMAGE_SIZE: list(size.image_size),
        HEAD: size.vision_width // size.vision_heads,
    }
    model: dict[str, Any] = {}
    for key, value in flat.items():
        tower, _, name = key.rpartition(".")
        (model.setdefault(tower, {}) if tower else model)[name] = value
    statistics = {"mean": list(CLIP_STATISTICS.mean), "std": list(CLIP_STATISTICS.std)}
    preprocessing = {**statistics, "interpolation": resampling, "resize_mode": "squash"}
    return {"model_cfg": model, "preprocess_cfg": preprocessing}


def open_clip_tensors(model: DualEncoder, max_words: int, temperature: float) -> dict[str, Tensor]:
    """Both towers, the text's positions as far as captions are read, and the scale of similarities in training."""
    positions = model.positional_embedding.detach()[:max_words]  # [T, W]
    scale = tensor(-math.log(temperature))
    return {**model.state_dict(), "positional_embedding": positions, "logit_scale": scale}


# ---- reading ---------------------------------------------------------------------------


def settings_from_open_clip(content: Any, where: str) -> dict[str, Any]:
    """The settings of this program for the model that an `open_clip_config.json` describes.

    Raises UserError when it is of another architecture, or its images are normalised in another way.
    """
    model = mapping_of(content, "model_cfg", where)
    towers = {tower: mapping_of(model, tower, where) for tower in ("vision_cfg", "text_cfg")}
    flat = {key: value for key, value in model.items() if key not in towers}
    flat |= {f"{tower}.{key}": value for tower, part in towers.items() for key, value in part.items()}
    require_ours(flat, where)
    require_statistics(content.get("preprocess_cfg"), where)
    sizes: dict[str, Any] = {own: whole(flat.get(key, usual), key, where) for key, (own, usual) in SIZES.items()}
    sizes["quick_gelu"] = yes_or_no(flat.get(QUICK_GELU, False), QUICK_GELU, where)
    sizes["vision_heads"] = max(1, sizes["vision_width"] // whole(flat.get(HEAD, HEAD_WIDTH), HEAD, where))
    sides = flat.get(IMAGE_SIZE, 224)
    sides = sides if isinstance(sides, list) and len(sides) == 2 else [sides, sides]
    image_size = [whole(side, IMAGE_SIZE, where) for side in sides]
    return {"system": "clip", "image_res": image_size, "max_words": sizes["text_length"], "clip": sizes}


def mapping_of(content: Any, key: str, where: str) -> dict[str, Any]:
    found = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping):
        raise UserError(f"{where} does not describe a model of open_clip: it has no {key}")
    return dict(found)


def require_ours(flat: Mapping[str, Any], where: str) -> None:
    """Raises UserError where a model is not of OpenAI's architecture."""
    for key, value in flat.items():
        ours = OURS.get(key)
        of_size = key in SIZES or key in (IMAGE_SIZE, HEAD, QUICK_GELU) or key in WITHOUT_EFFECT
        if not of_size and value != ours and (value or ours):
            expected = "nothing" if ours is None else repr(ours)
            raise UserError(
                f"{where}: {key} is {value!r}; only a CLIP as OpenAI's fits, which has {expected} there, with both"
                " towers of open_clip itself"
            )


def whole(value: Any, key: str, where: str) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"{where}: {key} is {value!r}, not a positive whole number as of a CLIP with two transformers")
    return value


def yes_or_no(value: Any, key: str, where: str) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{where}: {key} is {value!r}, not true or false")
    return value


def require_statistics(preprocessing: Any, where: str) -> None:
    """Raises UserError where images are not normalised as CLIP's are."""
    for key in ("mean", "std"):
        found, ours = (
            preprocessing.get(key) if isinstance(preprocessing, Mapping) else None,
            getattr(CLIP_STATISTICS, key),
        )
        if found is not None and not is_near(found, ours):
            raise UserError(f"{where}: images have {key} {found!r}; a CLIP that fits has {list(ours)}, as OpenAI's")


def is_near(found: Any, ours: tuple[float, ...]) -> bool:
    numbers = (
        isinstance(found, list) and len(found) == len(ours) and all(isinstance(value, int | float) for value in found)
    )
    return numbers and all(math.isclose(one, other, abs_tol=1e-3) for one, other in zip(found, ours, strict=True))
