"""Checkpoint files: written whole or not at all, read without running anything they hold.

A file of this program ends with the SHA-256 of all bytes before it, as the comment of the zip archive that
torch.save writes, so that any other program can still read it.
"""

import argparse
import errno
import hashlib
import io
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from utils.checkpoints.named import similar_checkpoint
from utils.checkpoints.torchscript import is_torchscript, read_torchscript
from utils.checkpoints.untrusted import NOT_PLAIN, PlainFile, Refused, damaged, require_sound
from utils.checkpoints.weights import Ambiguous, find_weights
from utils.errors import UserError
from utils.files import atomic_write
from utils.paths import not_a_file
from utils.text import counted
from utils.values import Unsuitable, first_non_finite, require_plain, sha256_of

__all__ = ["read_checkpoint", "read_newest", "save_checkpoint", "sha256_of"]

logger = logging.getLogger(__name__)

FORMAT = 2  # in files that end with a checksum
MARK = b"sha256:"
DIGITS = 64
SHARING = 100  # tensors that share storages, as equal layers do, may have so many times the size of their file


def save_checkpoint(
    path: str | os.PathLike, content: dict[str, Any], previous: str | os.PathLike | None = None
) -> None:
    """Write tensors and plain values; the file that was there stays until the new one is complete.

    previous: the name in the same folder under which it is kept then. At every moment one of the two is complete.

    Raises UserError when the file cannot be written, or a number in `content` is not finite; `path` is left as it
    was. Raises TypeError for content that could not be read back.
    """
    content = {**content, "format": FORMAT}
    require_storable(path, content)
    with atomic_write(path, previous) as temporary, open(temporary, "w+b") as file:
        write_archive(path, content, file)
        require_readable(path, file)
        add_checksum(file)


def require_storable(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Raises UserError for numbers that are not finite, TypeError for values that are not read back."""
    try:
        require_plain(content)
        wrong = first_non_finite(content)
    except Unsuitable as error:
        raise TypeError(f"checkpoint {path} cannot be written: it would hold {error}") from None
    if wrong:
        raise UserError(
            f"checkpoint {path} is not written, as it would hold numbers that are not finite ({wrong}); resume from an"
            " earlier one, with a lower learning rate or another precision"
        )


def write_archive(path: str | os.PathLike, content: dict[str, Any], file: BinaryIO) -> None:
    """Write what torch.save writes. Raises OSError, or TypeError when torch has no way to write it."""
    try:
        torch.save(content, file)
    except RuntimeError as error:
        if "view the same data" in str(error):
            raise TypeError(f"checkpoint {path} cannot be written: {error}") from None
        raise OSError(errno.ENOSPC, "the disk is full, or failed") from error  # torch does not tell which


def require_readable(path: str | os.PathLike, file: BinaryIO) -> None:
    """Raises TypeError when what torch wrote would be refused when it is read."""
    try:
        require_sound(file)
    except Refused as error:
        raise TypeError(f"checkpoint {path} cannot be written: read back, {error}") from None


def read_checkpoint(path: str | os.PathLike, role: str = "checkpoint") -> dict[str, Any]:
    """A checkpoint as {"model": {name: tensor}, ...}, wherever other programs keep their weights (`find_weights`).

    Only tensors and plain values are read (`weights_only=True`), and command lines (argparse.Namespace), as mappings;
    of a TorchScript archive its parameters and buffers, as {"model": ...}.
    role: what messages call the file.
    Raises UserError when the file is missing, damaged, hostile, or holds no named tensors, or several sets of them.
    """
    if not Path(path).is_file():
        hint = "; name a file in it" if Path(path).is_dir() else similar_checkpoint(Path(path))
        raise UserError(f"{role} {path} {not_a_file(path)}{hint}")
    try:
        content = read_content(path)
    except Exception as error:  # damaged and foreign files make torch raise nearly any type
        raise UserError(f"{role} {path} cannot be read: {reason(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{role} {path} holds {type(content).__name__}, not named tensors")
    try:
        key, weights = find_weights(content)
    except Ambiguous as error:
        raise UserError(f"{role} {path} {error}") from None
    if not weights:
        raise UserError(f"{role} {path} holds no named tensors under `model`, `state_dict` or the like")
    if key != "model":  # of another program, whose other values mean other things
        logger.info("%s %s: %s%s", role, path, counted(len(weights), "tensor"), f" under `{key}`" if key else "")
    return {**(content if key == "model" else {}), "model": weights}


def read_newest(path: str | os.PathLike, previous: str | os.PathLike) -> dict[str, Any]:
    """The checkpoint at `path`, or, when that is damaged or missing, the one before it; "path" says which.

    Raises UserError about `path` when neither can be read.
    """
    try:
        return {**read_checkpoint(path), "path": str(path)}
    except UserError as error:
        problem = error
    try:
        content = read_checkpoint(previous)
    except UserError:
        if not Path(previous).exists():
            raise problem from None
        raise UserError(f"{problem}; {previous}, the one before it, cannot be read either") from None
    step = content.get("step")
    logger.warning("%s; going back to step %s in %s", problem, step if type(step) is int else "unknown", previous)
    return {**content, "path": str(previous)}


def read_content(path: str | os.PathLike) -> Any:
    """Read a file of any format after checking it. Raises nearly any exception."""
    if str(path).endswith(".safetensors"):  # holds numbers alone by design, and is read by its own program
        weights = torch.load(path, map_location="cpu", weights_only=True)
        about = read_about(path)
        return {"model": weights, **about} if about else weights
    with PlainFile(io.FileIO(path)) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on files of other programs
        has_checksum = check_checksum(file)
        content = read_torchscript(file) if is_torchscript(file) else read_saved(file)
        require_plain(content, most_bytes=SHARING * file.seek(0, os.SEEK_END))
    written = content.get("format") if isinstance(content, dict) else None
    if isinstance(written, int) and written >= FORMAT and not has_checksum:
        raise damaged("its checksum is missing; another program that writes it again must leave out its `format`")
    return content


def read_saved(file: BinaryIO) -> Any:
    """What torch.save has written, once it is known to be sound. Raises nearly any exception."""
    require_sound(file)
    # from the file that was checked, also when another has taken its name
    with torch.serialization.safe_globals([argparse.Namespace]):
        return with_mappings(torch.load(file, map_location="cpu", weights_only=True))


def read_about(path: str | os.PathLike) -> dict[str, Any]:
    """Settings ("config") and word pieces ("tokenizer") that `search export FILE.safetensors` writes beside weights.

    "calibration": what scores mean, where that is known.
    Raises ValueError when they are damaged; {} when there are none.
    """
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
    if not {"config", "tokenizer"} <= about.keys():
        return {}
    values = {name: json.loads(about[name]) for name in ("config", "calibration") if name in about}
    if not all(isinstance(value, dict) for value in values.values()):
        raise ValueError("its settings are no mapping")
    return {**values, "tokenizer": about["tokenizer"]}


def with_mappings(content: Any) -> Any:
    """A checkpoint with its command lines (argparse.Namespace) as mappings."""
    if type(content) is not dict:
        return content
    return {name: dict(vars(value)) if type(value) is argparse.Namespace else value for name, value in content.items()}


def reason(error: Exception) -> str:
    """The gist of a failure to load, on one line."""
    text = " ".join(str(error).split())
    if isinstance(error, Refused):
        return text
    if isinstance(error, Unsuitable):
        return f"it holds {text}"
    if "weights_only" in text or "Weights only" in text or "Unsupported" in text:
        return NOT_PLAIN
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return "there is not enough memory for it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(damaged((text or type(error).__name__)[:100]))


# ---- checksums -------------------------------------------------------------------------


def add_checksum(file: BinaryIO) -> None:
    """Append the checksum to an archive as its comment, whose length stands in the last two bytes before it."""
    file.seek(-2, os.SEEK_END)
    file.write((len(MARK) + DIGITS).to_bytes(2, "little") + MARK)
    file.write(checksum(file, file.tell()))


def check_checksum(file: BinaryIO) -> bool:
    """Whether a file ends with a checksum; those of other programs do not. Raises Refused when it does not match."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(MARK) - DIGITS))
    mark, digits = file.read(len(MARK)), file.read()
    if mark != MARK:
        return False
    if digits != checksum(file, size - DIGITS):
        raise damaged("its checksum does not match; copy it again, or use an earlier one")
    return True


def checksum(file: BinaryIO, size: int) -> bytes:
    """SHA-256 of the first bytes of a file, as digits."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, 2**20))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest().encode()
