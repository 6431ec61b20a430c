"""Checkpoint files: written whole or not at all, read without running anything they hold."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError
from utils.files import atomic_write, similar_file


def save_checkpoint(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write tensors and plain values; the previous file stays until the new one is complete."""
    with atomic_write(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # how torch reports a full disk
            raise UserError(f"cannot write {path}: {' '.join(str(error).split())[:200]}") from None


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """A checkpoint as {"model": {name: tensor}, ...}; a bare state dict is taken as the model.

    Only tensors and plain values are read (`weights_only=True`).
    Raises UserError when the file is missing, damaged, or holds no named tensors.
    """
    if not Path(path).is_file():
        found = "is a folder; name a file in it" if Path(path).is_dir() else f"does not exist{similar_file(Path(path))}"
        raise UserError(f"checkpoint {path} {found}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on files of other programs
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged and foreign files make torch raise nearly any type
        raise UserError(f"checkpoint {path} cannot be read: {reason(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path} holds {type(content).__name__}, not named tensors")
    content = content if isinstance(content.get("model"), dict) else {"model": content}
    tensors = {str(name): value for name, value in content["model"].items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"checkpoint {path} holds no named tensors under `model`")
    return {**content, "model": {name.removeprefix("module."): value for name, value in tensors.items()}}


def reason(error: Exception) -> str:
    """The gist of a torch.load failure, on one line."""
    text = " ".join(str(error).split())
    if "weights_only" in text or "Weights only" in text or "Unsupported" in text:
        return "it is no checkpoint of tensors and plain values, and nothing else is ever loaded"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"it is damaged, cut off, or no checkpoint ({(text or type(error).__name__)[:100]})"
