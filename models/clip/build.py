"""The models of the CLIP systems, and their files."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from models.clip.clip_model import ClipModel
from models.clip.cross_modal import PARTS
from models.clip.encoder import Encoder
from models.clip.irra import IRRA
from models.clip.library_towers import LibraryEncoder, load_library_encoder
from models.clip.rde import RDE
from models.clip.released import BASE, load_dual_encoder, load_model
from models.clip.towers import DualEncoder
from models.load_report import LoadReport
from models.positions import Grid
from models.released import saved_config
from utils.errors import UserError

logger = logging.getLogger(__name__)


def is_of_rde(weights: Iterable[str]) -> bool:
    """Whether a file has layers that select tokens."""
    return any(name.startswith("visul_emb_layer.") for name in weights)


def load_clip(model: IRRA, checkpoint: Mapping[str, Any]) -> None:
    """Take both towers from a file of CLIP, IRRA or RDE (with its "path"), and what else fits of an IRRA.

    Raises UserError when it is none.
    """
    where = checkpoint["path"]
    if is_of_rde(checkpoint["model"]):
        logger.warning("checkpoint %s is of RDE: set system=rde, which ranks by both of its embeddings", where)
    report = load_towers_and_more(model, checkpoint)
    model.predicts_words = model.predicts_words and not any(name.startswith(PARTS) for name in report.fresh)
    logger.info("checkpoint %s: %s", where, report)


def load_rde(model: RDE, checkpoint: Mapping[str, Any]) -> None:
    """Take all of a checkpoint of RDE (with its "path"). Raises UserError when it is none."""
    where = checkpoint["path"]
    if not is_of_rde(checkpoint["model"]):
        raise UserError(f"checkpoint {where} is not of RDE; a CLIP or an IRRA is read with system=clip")
    grid = trained_grid(checkpoint, model.base_model)
    logger.info("checkpoint %s: %s", where, load_model(model, checkpoint["model"], where, grid))


def start_clip(model: ClipModel, checkpoint: Mapping[str, Any] | None) -> None:
    """What a run begins with: the towers of a file of CLIP, IRRA or RDE, and what else of it fits by name and shape.

    None: nothing, as a CLIP that was not trained; which is said, as no published system does so.
    """
    if checkpoint is None:
        logger.warning("no checkpoint is given, so both towers start from nothing; published runs start from CLIP")
        return
    logger.info("checkpoint %s: %s", checkpoint["path"], load_towers_and_more(model, checkpoint))


def load_towers_and_more(model: ClipModel, checkpoint: Mapping[str, Any]) -> LoadReport:
    """Both towers strictly, and of the other parts what has their names and shapes."""
    weights, grid = checkpoint["model"], trained_grid(checkpoint, model.base_model)
    report = load_encoder(model.base_model, weights, checkpoint["path"], grid)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith(BASE)}
    more = fitting(weights, own)
    nn.Module.load_state_dict(model, more, strict=False)
    unused = {name: why for name, why in report.unused.items() if name not in more}
    fresh = [name for name in own if name not in more]
    return LoadReport([*report.loaded, *more], report.resized, fresh, unused)


def load_encoder(encoder: Encoder, weights: Mapping[str, Tensor], where: str, old_grid: Grid | None) -> LoadReport:
    """Both towers from a file of their architecture, see `load_dual_encoder`."""
    if isinstance(encoder, LibraryEncoder):
        return load_library_encoder(encoder, weights, where, old_grid)
    assert isinstance(encoder, DualEncoder)
    return load_dual_encoder(encoder, weights, where, old_grid)


def fitting(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file that a model has with their names and shapes."""
    found = {name: weights[name] for name in own if name in weights}
    return {name: value for name, value in found.items() if value.shape == own[name].shape}


def trained_grid(checkpoint: Mapping[str, Any], encoder: Encoder) -> Grid | None:
    """Patches along height and width of the images that a run of ours was trained on; None of other files.

    encoder: of the architecture of the file; where open_clip builds it, it tells the size of patches.
    """
    saved = saved_config(checkpoint)
    sides, sizes = saved.get("image_res"), saved.get("clip")
    if saved.get("open_clip"):
        sizes = {"patch_size": encoder.patch_size}
    if not isinstance(sides, list) or len(sides) != 2 or not isinstance(sizes, Mapping):
        return None
    patch = sizes.get("patch_size")
    stride = saved.get("stride_size") or patch
    if not all(isinstance(number, int) and number > 0 for number in (*sides, patch, stride)):
        return None
    height, width = ((side - patch) // stride + 1 for side in sides)
    return height, width
