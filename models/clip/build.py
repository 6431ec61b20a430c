"""The models of the CLIP systems, and their files."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from models.clip.clip_model import CLIP, ClipModel
from models.clip.rde import RDE, RdeSettings
from models.clip.released import load_dual_encoder, load_model
from models.clip.towers import ClipSize
from utils.errors import UserError

logger = logging.getLogger(__name__)


def is_of_rde(weights: Iterable[str]) -> bool:
    """Whether a file has layers that select tokens."""
    return any(name.startswith("visul_emb_layer.") for name in weights)


def build_clip(size: ClipSize) -> CLIP:
    """The dual encoder alone, freshly initialised."""
    return CLIP(size)


def build_rde(size: ClipSize, settings: RdeSettings) -> RDE:
    """RDE, freshly initialised."""
    return RDE(size, settings)


def load_clip(model: ClipModel, checkpoint: Mapping[str, Any]) -> None:
    """Take both towers from a file of CLIP, IRRA or RDE (with its "path"). Raises UserError when it is none."""
    where = checkpoint["path"]
    if is_of_rde(checkpoint["model"]):
        logger.warning("checkpoint %s is of RDE: set system=rde, which ranks by both of its embeddings", where)
    report = load_dual_encoder(model.base_model, checkpoint["model"], where)
    logger.info("checkpoint %s: %s", where, report)


def load_rde(model: RDE, checkpoint: Mapping[str, Any]) -> None:
    """Take all of a checkpoint of RDE (with its "path"). Raises UserError when it is none."""
    where = checkpoint["path"]
    if not is_of_rde(checkpoint["model"]):
        raise UserError(f"checkpoint {where} is not of RDE; a CLIP or an IRRA is read with system=clip")
    logger.info("checkpoint %s: %s", where, load_model(model, checkpoint["model"], where))
