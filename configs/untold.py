"""Settings that decide what weights mean and that no shape of a tensor tells, compared with those of a checkpoint."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from configs.clip import DualEncoderConfig, heads_of
from configs.schema import Config, MarsConfig
from models.encoders import family_of
from models.released import saved_config

logger = logging.getLogger(__name__)

UNTOLD = (  # by path
    "vision_heads",
    "decoder_heads",
    "bert_config.num_attention_heads",
    "bert_config.fusion_layer",
    "clip.vision_heads",
    "clip.text_heads",
    "clip.quick_gelu",
    "cross_heads",
    "select_ratio",
)
OF_EVALUATION = ("image_res", "max_words", "caption_rules", *UNTOLD)  # the first ones are at times wanted


def warn_of_other_settings(config: Config, checkpoint: Mapping[str, Any], keys: Iterable[str], here: str) -> None:
    """Say which of these settings are others than those that a checkpoint (with its "path") was trained with.

    here: what has ours. What a checkpoint does not record is not compared, nor are heads that an encoder does not have.
    """
    trained, ours = with_all_heads(saved_config(checkpoint)), with_all_heads(config.model_dump(mode="json"))
    if isinstance(config, MarsConfig) and not family_of(config.image_encoder).heads:
        ours["vision_heads"] = None
    if isinstance(config, DualEncoderConfig) and config.open_clip is not None:
        ours["clip"] = None
    for key in keys:
        before, now = at_path(trained, key), at_path(ours, key)
        if before is not None and now is not None and before != now:
            where = checkpoint["path"]
            logger.warning("checkpoint %s was trained with %s %s, and %s %s", where, key, before, here, now)


def with_all_heads(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose towers of CLIP, if any, have their number of heads, also where it follows from widths."""
    sizes, heads = values.get("clip"), {}
    for tower in ("vision", "text") if isinstance(sizes, Mapping) else ():
        if isinstance(width := at_path(sizes, f"{tower}_width"), int):
            heads[f"{tower}_heads"] = heads_of(at_path(sizes, f"{tower}_heads"), width)
    return {**values, "clip": {**sizes, **heads}} if isinstance(sizes, Mapping) else dict(values)


def at_path(values: Any, path: str) -> Any:
    """The setting at key.path, or None."""
    for key in path.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
