"""TorchScript archives, as torch.jit.save writes them: the tensors of a module by name, and none of its code.

NAME/data.pkl        a pickle of the module: objects of classes `__torch__...` that have attributes
NAME/data/KEY        the bytes of each storage
NAME/code/...        source of the classes, NAME/constants.pkl what it refers to; neither is ever read

As for other checkpoints (utils/checkpoints/untrusted), the pickle is read by a reader that looks up and calls nothing.
What follows is built from the records themselves: torch would compile the code before it hands out a tensor.
"""

import logging
import zlib
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

import torch
from torch import Tensor

from utils.checkpoints.untrusted import archive
from utils.checkpoints.untrusted.archive import Extent
from utils.checkpoints.untrusted.checks import read_pickle, require_stored
from utils.checkpoints.untrusted.pickle_reader import MAX_CALLS
from utils.checkpoints.untrusted.pickle_values import Storage
from utils.checkpoints.untrusted.refusal import TOO_MANY, Refused, damaged
from utils.checkpoints.untrusted.script_reader import ScriptObject, TensorOutline, read_script
from utils.values import MAX_DEPTH

logger = logging.getLogger(__name__)

MAX_LETTERS = 10_000_000  # of the whole names of all attributes; CLIP has some 100,000
MARK = "training"  # an attribute of every module; parameters and buffers come before it, whatever else it has behind


def is_torchscript(file: BufferedReader) -> bool:
    """Whether a file is a TorchScript archive, by the record that only those have."""
    file.seek(0)
    if file.read(len(archive.MAGIC)) != archive.MAGIC:
        return False
    try:
        records = archive.list_records(file, archive.read_directory(file))
    except Exception:  # a damaged archive, whatever it was
        return False
    return any(record.name.partition("/")[2] == "constants.pkl" for record in records)


def read_torchscript(file: BufferedReader) -> dict[str, Tensor]:
    """The parameters and buffers of a TorchScript archive by name, as its module's state_dict has them, on the CPU.

    Raises Refused when it claims to hold more than it does, names anything but its own classes, or is damaged.
    """
    try:
        records = archive.read_records(file, archive.read_directory(file), with_code=True)
        top = next(iter(records), "").partition("/")[0]
        require_little_endian(file, records.get(f"{top}/byteorder"))
        pickled = records.get(f"{top}/data.pkl", Extent())
        data = read_pickle(file, pickled)
        require_checksum(data, pickled)
        outlines = named_tensors(read_script(data))
        return read_tensors(file, outlines, records, f"{top}/data")
    except (Refused, OSError, MemoryError):
        raise
    except Exception as error:  # whatever may be where something else should be
        raise damaged("its structure is broken") from error


# ---- the tree of modules ---------------------------------------------------------------


def named_tensors(root: Any) -> dict[str, TensorOutline]:
    """The parameters and buffers of a module and of those within it, by names joined by dots.

    Raises Refused when there is no module, two tensors have one name, or modules are nested without end.
    """
    if type(root) is not ScriptObject:
        raise Refused("it is a TorchScript archive without a module")
    is_marked = MARK in (root.attributes or {})
    found: dict[str, TensorOutline] = {}
    left_out = ""
    for prefix, module in modules_within(root):
        if module.attributes is None:
            left_out = left_out or prefix[:-1]
        for name, tensor in stored_tensors(module.attributes or {}, is_marked):
            if found.setdefault(prefix + name, tensor) is not tensor:
                raise damaged(f"two tensors have the name {(prefix + name)[:60]!a}")
        if len(found) > MAX_CALLS:
            raise Refused(TOO_MANY)
    if left_out:
        logger.warning("modules that only code of the file could restore are left out, such as %.60a", left_out)
    return found


def modules_within(root: ScriptObject) -> Iterator[tuple[str, ScriptObject]]:
    """A module and all modules within it, depth first, each with what its names begin with ("visual.conv1.").

    Raises Refused when they are nested without end.
    """
    stack, work = [("", 0, root)], 0
    while stack:
        prefix, depth, module = stack.pop()
        attributes = module.attributes or {}
        work += sum(len(prefix) + len(name) + 1 for name in attributes)
        if depth > MAX_DEPTH:
            raise Refused(f"its modules are nested more than {MAX_DEPTH} deep")
        if work > MAX_LETTERS:
            raise Refused(TOO_MANY)
        yield prefix, module
        within = [
            (f"{prefix}{name}.", depth + 1, value) for name, value in attributes.items() if type(value) is ScriptObject
        ]
        stack.extend(reversed(within))


def stored_tensors(attributes: dict[str, Any], is_marked: bool) -> Iterator[tuple[str, TensorOutline]]:
    """The parameters and buffers among the attributes of a module.

    is_marked: what has no MARK is not a module. That of frozen ones is gone, and all their tensors count.
    """
    if is_marked and MARK not in attributes:
        return
    for name, value in attributes.items():
        if is_marked and name == MARK:
            return
        if type(value) is TensorOutline:
            yield name, value


# ---- tensors ---------------------------------------------------------------------------


def read_tensors(
    file: BufferedReader, outlines: dict[str, TensorOutline], records: dict[str, Extent], folder: str
) -> dict[str, Tensor]:
    """Tensors by name, from storages in a folder of the archive; those that share one there share it here."""
    storages: dict[str, Tensor] = {}
    tensors: dict[TensorOutline, Tensor] = {}
    for outline in outlines.values():
        key = outline.storage.key
        if key not in storages:
            storages[key] = read_storage(file, outline.storage, records.get(f"{folder}/{key}", Extent()))
        if outline not in tensors:
            empty, storage = torch.empty(0, dtype=outline.storage.dtype), storages[key].untyped_storage()
            tensors[outline] = empty.set_(storage, outline.offset, outline.size, outline.stride)
    return {name: tensors[outline] for name, outline in outlines.items()}


def read_storage(file: BufferedReader, storage: Storage, extent: Extent) -> Tensor:
    """The bytes of a storage. Raises Refused when they are not those that were written, or of another number."""
    require_stored(storage, extent)
    content = torch.empty(extent.size, dtype=torch.uint8)
    file.seek(extent.offset)
    file.readinto(content.numpy().data)
    require_checksum(content.numpy().data, extent)
    return content


def require_checksum(data: bytes | memoryview, extent: Extent) -> None:
    """Raises Refused unless a record holds the bytes that were written."""
    if zlib.crc32(data) != extent.checksum:
        raise damaged("the checksum of a record does not match")


def require_little_endian(file: BufferedReader, extent: Extent | None) -> None:
    """Raises Refused when numbers have their highest byte first; without such a record they do not."""
    if extent is None:
        return
    file.seek(extent.offset)
    if extent.size != len(b"little") or file.read(extent.size) != b"little":
        raise Refused("its numbers are not little-endian")
