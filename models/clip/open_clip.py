"""CLIP in the form of open_clip: sizes of both towers as JSON, and their tensors under OpenAI's names.

Other architectures than OpenAI's are left to the library (`models.clip.library_towers`).

Letters: T text tokens, W text width.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, tensor

from models.clip.library_model import TOWERS, flattened
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

RESAMPLING = {None: "bicubic", "bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}  # as it evaluates


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

    Of OpenAI's architecture they are sizes (`clip`), of others the description itself (`open_clip`). Raises UserError
    when it is neither.
    """
    model = mapping_of(content, "model_cfg", where)
    for tower in TOWERS:
        mapping_of(model, tower, where)
    flat, pixels = flattened(model), statistics_in(content.get("preprocess_cfg"), where)
    if not is_ours(flat) or not all(is_near(pixels[key], getattr(CLIP_STATISTICS, key)) for key in pixels):
        return library_settings(model, flat, pixels, content.get("preprocess_cfg"), where)
    sizes: dict[str, Any] = {own: whole(flat.get(key, usual), key, where) for key, (own, usual) in SIZES.items()}
    sizes["quick_gelu"] = yes_or_no(flat.get(QUICK_GELU, False), QUICK_GELU, where)
    sizes["vision_heads"] = max(1, sizes["vision_width"] // whole(flat.get(HEAD, HEAD_WIDTH), HEAD, where))
    return {"system": "clip", "image_res": sides_in(flat, where), "max_words": sizes["text_length"], "clip": sizes}


def library_settings(
    model: Mapping[str, Any], flat: Mapping[str, Any], pixels: Mapping[str, Any], preprocessing: Any, where: str
) -> dict[str, Any]:
    """The same of a model that the library builds, of which our configuration says what cannot be had."""
    found = preprocessing.get("interpolation") if isinstance(preprocessing, Mapping) else None
    if not (found is None or isinstance(found, str)) or found not in RESAMPLING:
        raise UserError(f"{where}: images are resized by interpolation {found!r}; bicubic and bilinear are known")
    about = {"model": dict(model), **pixels, "resampling": RESAMPLING[found]}
    length = whole(flat.get("text_cfg.context_length", 77), "text_cfg.context_length", where)
    return {"system": "clip", "image_res": sides_in(flat, where), "max_words": length, "open_clip": about}


def sides_in(flat: Mapping[str, Any], where: str) -> list[int]:
    """Height and width of images. Raises UserError when they are none."""
    sides = flat.get(IMAGE_SIZE, 224)
    sides = sides if isinstance(sides, list) and len(sides) == 2 else [sides, sides]
    return [whole(side, IMAGE_SIZE, where) for side in sides]


def mapping_of(content: Any, key: str, where: str) -> dict[str, Any]:
    found = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping):
        raise UserError(f"{where} does not describe a model of open_clip: it has no {key}")
    return dict(found)


def is_ours(flat: Mapping[str, Any]) -> bool:
    """Whether a model is of OpenAI's architecture, whatever its sizes are."""
    sizes = (*SIZES, IMAGE_SIZE, HEAD, QUICK_GELU, *WITHOUT_EFFECT)
    others = {key: value for key, value in flat.items() if key not in sizes}
    return all(value == OURS.get(key) or not (value or OURS.get(key)) for key, value in others.items())


def whole(value: Any, key: str, where: str) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"{where}: {key} is {value!r}, not a positive whole number as of a CLIP with two transformers")
    return value


def yes_or_no(value: Any, key: str, where: str) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{where}: {key} is {value!r}, not true or false")
    return value


def statistics_in(preprocessing: Any, where: str) -> dict[str, list[float]]:
    """Mean and standard deviation of pixels; OpenAI's where none are said. Raises UserError for what is no number."""
    read = preprocessing if isinstance(preprocessing, Mapping) else {}
    pixels = {key: read.get(key) or list(getattr(CLIP_STATISTICS, key)) for key in ("mean", "std")}
    for key, found in pixels.items():
        if not isinstance(found, list) or len(found) != 3 or not all(type(value) in (int, float) for value in found):
            raise UserError(f"{where}: images have {key} {found!r}, which are not three numbers")
    return {key: [float(value) for value in found] for key, found in pixels.items()}


def is_near(found: list[float], ours: tuple[float, ...]) -> bool:
    return all(math.isclose(one, other, abs_tol=1e-3) for one, other in zip(found, ours, strict=True))
