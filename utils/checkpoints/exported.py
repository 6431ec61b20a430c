"""A trained model in a file: a checkpoint of a run, or an exported folder.

FOLDER/model.safetensors   all weights that are of use without training
FOLDER/config.json         the settings, FOLDER/tokenizer.json the word pieces
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


def read_trained(source: Path) -> dict[str, Any]:
    """What a checkpoint or an exported folder holds, as {"model": {name: tensor}, ...} with the "path" of its weights.

    Raises UserError when it cannot be read.
    """
    source = checkpoint_path(source)
    return read_exported(source) if source.is_dir() else {**read_checkpoint(source), "path": str(source)}


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
    return {"path": str(folder / WEIGHTS), "model": weights, "config": settings, "tokenizer": tokenizer}
