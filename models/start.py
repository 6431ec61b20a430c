"""What a new run's model starts from: a checkpoint, a BERT, an image encoder of its own file."""

import logging
from collections.abc import Mapping
from typing import Any

from models.person_search import PersonSearchModel
from models.positions import grid_of
from models.released import load_image_encoder, load_language_model, load_weights, saved_config
from utils.checkpoints.files import read_checkpoint
from utils.checkpoints.named import checkpoint_path
from utils.processes.sharing import shared_from_main

logger = logging.getLogger(__name__)


def start_model(
    model: PersonSearchModel,
    checkpoint: Mapping[str, Any] | None,
    vision_checkpoint: str | None = None,
    language_model: str | None = None,
) -> None:
    """Take what fits from a checkpoint (with its "path"), else the text encoder from a BERT (folder or hub name).

    vision_checkpoint: a file that the image encoder comes from in place of the checkpoint.
    Raises UserError when a file does not fit the model.
    """
    if checkpoint is not None:
        grid = grid_of(saved_config(checkpoint))
        report = load_weights(model, checkpoint["model"], checkpoint["path"], grid, image_encoder=not vision_checkpoint)
        logger.info("checkpoint %s: %s", checkpoint["path"], report)
    elif language_model:
        load_language_model(model, language_model)
    if vision_checkpoint:
        file = str(checkpoint_path(vision_checkpoint))
        found = shared_from_main(read_checkpoint)(file, "vision_checkpoint")
        report = load_image_encoder(model, found["model"], file, grid_of(saved_config(found)))
        logger.info("vision_checkpoint %s: %s", file, report)
