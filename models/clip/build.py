"""The models of the CLIP systems, and their files."""

import logging
from collections.abc import Mapping
from typing import Any

from models.clip.clip_model import CLIP, ClipModel
from models.clip.rde import RDE, RdeSettings
from models.clip.released import load_dual_encoder, load_model
from models.clip.towers import ClipSize

logger = logging.getLogger(__name__)


def build_clip(size: ClipSize) -> CLIP:
    """The dual encoder alone, freshly initialised."""
    return CLIP(size)


def build_rde(size: ClipSize, settings: RdeSettings) -> RDE:
    """RDE, freshly initialised."""
    return RDE(size, settings)


def load_clip(model: ClipModel, checkpoint: Mapping[str, Any]) -> None:
    """Take both towers from a file of CLIP, IRRA or RDE (with its "path"). Raises UserError when it is none."""
    where = checkpoint["path"]
    report = load_dual_encoder(model.base_model, checkpoint["model"], where)
    logger.info("checkpoint %s: %s", where, report)


def load_rde(model: RDE, checkpoint: Mapping[str, Any]) -> None:
    """Take all of a checkpoint of RDE (with its "path"). Raises UserError when it is none."""
    where = checkpoint["path"]
    logger.info("checkpoint %s: %s", where, load_model(model, checkpoint["model"], where))
