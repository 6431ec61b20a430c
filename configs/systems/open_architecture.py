"""The architecture of a checkpoint whose towers open_clip builds, where a configuration leaves it open."""

import logging
from collections.abc import Mapping
from typing import Any

from configs.clip import ClipSizes, DualEncoderConfig
from utils.config import validate

logger = logging.getLogger(__name__)


def follow_open_clip(config: DualEncoderConfig, saved: Mapping[str, Any]) -> DualEncoderConfig:
    """The configuration with the `open_clip` that a checkpoint records, unless it has one itself.

    Captions are then as long as that model reads them, unless `max_words` is given, and sizes of OpenAI's architecture
    (`clip`) are left out, which is said. Raises UserError where the two do not fit.
    """
    found = saved.get("open_clip")
    if not found or config.open_clip is not None:
        return config
    if config.clip != ClipSizes():
        logger.warning("`clip` is left out: the checkpoint is of another architecture, which open_clip builds")
    given = {key: value for key, value in config.model_dump().items() if key in config.model_fields_set - {"clip"}}
    return validate(type(config), {**given, "open_clip": found}, "config, with the `open_clip` of the checkpoint")
