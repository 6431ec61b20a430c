"""A trained model in a file or a folder: a checkpoint of a run, or an exported folder.

FOLDER/model.safetensors   all weights that are of use without training
FOLDER/config.json         the settings, FOLDER/tokenizer.json the word pieces
FOLDER/calibration.json    what scores mean, where that is known

or one of open_clip, as it lies on the Hugging Face Hub:

FOLDER/open_clip_model.safetensors, or .bin   both towers of a CLIP
FOLDER/open_clip_config.json                  their sizes
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from utils.checkpoints.files import read_checkpoint
from utils.checkpoints.named import checkpoint_path
from utils.errors import UserError
from utils.files import read_json

WEIGHTS, SETTINGS, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
CALIBRATION = "calibration.json"
OPEN_CLIP_SETTINGS = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = (  # the first that is there
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)


def read_trained(source: Path) -> dict[str, Any]:
    """What a checkpoint or an exported folder holds, as {"model": {name: tensor}, ...} with the "path" of its weights.

    "open_clip": what open_clip writes beside weights, if they are its own; "calibration": what scores mean, if known.
    Raises UserError when it cannot be read.
    """
    source = checkpoint_path(source)
    if not source.is_dir():
        return {**read_checkpoint(source), "path": str(source), **open_clip_settings(source)}
    return read_trained(open_clip_weights(source)) if (source / OPEN_CLIP_SETTINGS).is_file() else read_exported(source)


def open_clip_weights(folder: Path) -> Path:
    """The weights in a folder of open_clip. Raises UserError when there are none."""
    found = next((folder / name for name in OPEN_CLIP_WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise UserError(
            f"{folder} has {OPEN_CLIP_SETTINGS}, but no {OPEN_CLIP_WEIGHTS[0]}; copy it there, or name a file"
        )
    return found


def open_clip_settings(file: Path) -> dict[str, Any]:
    """{"open_clip": the settings beside weights that are named as open_clip names them}, if they are there."""
    settings = file.with_name(OPEN_CLIP_SETTINGS)
    if file.name not in OPEN_CLIP_WEIGHTS or not settings.is_file():
        return {}
    return {"open_clip": read_json(settings, "settings of open_clip"), **calibration_in(file.parent)}


def calibration_in(folder: Path) -> dict[str, Any]:
    """{"calibration": what an exported folder says of scores}, if it does. Raises UserError when it is no mapping."""
    file = folder / CALIBRATION
    if not file.is_file():
        return {}
    found = read_json(file, "calibration")
    if not isinstance(found, dict):
        raise UserError(f"{file} is not a calibration; export the model again, or delete it")
    return {"calibration": found}


def read_exported(folder: Path) -> dict[str, Any]:
    """An exported folder in the form of a checkpoint. Raises UserError when it does not hold a whole model."""
    if not (folder / SETTINGS).is_file():
        raise UserError(
            f"checkpoint {folder} is a folder; name a file in it (it is not an exported model: it has no {SETTINGS})"
        )
    settings = read_json(folder / SETTINGS, "settings of an exported model")
    try:
        weights = load_file(folder / WEIGHTS)
        tokenizer = (folder / TOKENIZER).read_text(encoding="utf-8")
    except (OSError, SafetensorError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder} does not hold a whole exported model ({reason}); export it again") from None
    about = {"config": settings, "tokenizer": tokenizer, **calibration_in(folder)}
    return {"path": str(folder / WEIGHTS), "model": weights, **about}
