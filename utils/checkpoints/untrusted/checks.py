"""Checks of a whole file before torch reads it: nothing in it may claim more than there is.

torch.save writes an archive of NAME/data.pkl, a pickle, and NAME/data/KEY, the bytes of each storage; before
version 1.6 it wrote five pickles and then the storages, one behind another.
"""

import io
import struct
from typing import BinaryIO, NoReturn

from utils.checkpoints.untrusted import archive
from utils.checkpoints.untrusted.archive import Extent
from utils.checkpoints.untrusted.pickle_reader import read_outline
from utils.checkpoints.untrusted.pickle_values import Storage
from utils.checkpoints.untrusted.refusal import TOO_MANY, Refused, damaged

MAX_BYTES = 64 * 2**20  # of a pickle; that of a large checkpoint has one million
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class PlainFile(io.BufferedReader):
    """A file without a descriptor, which torch does not try to read as a tar archive, as its first versions wrote.

    Python's own reader of those does not guard against hostile ones.
    """

    def fileno(self) -> NoReturn:
        raise io.UnsupportedOperation("fileno")


def require_sound(file: BinaryIO) -> None:
    """Check a file that torch.load is to read, and go back to its start.

    Raises Refused when it holds more than tensors and plain values, claims to hold more than it does, or is damaged.
    """
    file.seek(0)
    is_archive = file.read(len(archive.MAGIC)) == archive.MAGIC
    try:
        require_sound_archive(file) if is_archive else require_sound_legacy(file)
    except (Refused, OSError, MemoryError):
        raise
    except Exception as error:  # whatever may be where something else should be
        raise damaged("its structure is broken") from error
    file.seek(0)


def require_sound_archive(file: BinaryIO) -> None:
    """Check that the pickle of an archive is plain, and that every storage has a record of its size."""
    records = archive.read_records(file, archive.read_directory(file))
    top = next(iter(records), "").partition("/")[0]
    outline = read_outline(read_pickle(file, records.get(f"{top}/data.pkl", Extent())))
    for storage in outline.storages.values():
        require_stored(storage, records.get(f"{top}/data/{storage.key}", Extent()))


def read_pickle(file: BinaryIO, extent: Extent) -> bytes:
    """The bytes of data.pkl. Raises Refused when there are none, or more than in any checkpoint."""
    if not extent.size:
        raise damaged("it holds no data.pkl")
    if extent.size > MAX_BYTES:
        raise Refused(TOO_MANY)
    file.seek(extent.offset)
    return file.read(extent.size)


def require_stored(storage: Storage, extent: Extent) -> None:
    """Raises Refused unless a storage has a record of its size."""
    if extent.size != storage.size:
        raise damaged(f"storage {storage.key[:20]!r} has {extent.size} bytes instead of {storage.size}")


def require_sound_legacy(file: BinaryIO) -> None:
    """Check five pickles (mark, version, system, content, keys of storages) and the storages that follow."""
    file.seek(0)
    data, end, outlines = file.read(MAX_BYTES), 0, []
    for expected in (LEGACY_MAGIC, LEGACY_PROTOCOL, None, None, None):
        outlines.append(read_outline(data, end))
        end = outlines[-1].end
        if expected not in (None, outlines[-1].content):
            raise damaged("no checkpoint begins like it")
    require_storages(file, end, outlines[3].storages, outlines[4].content)


def require_storages(file: BinaryIO, offset: int, storages: dict[str, Storage], keys: list) -> None:
    """Check storages from `offset` on, in the order of `keys`: the number of elements in 8 bytes, then the elements.

    Raises Refused when they are not those of the content; torch would allocate them before it compares.
    """
    if type(keys) is not list or sorted(keys) != sorted(storages):
        raise damaged("its storages are not those of its content")
    size = file.seek(0, 2)
    for key in keys:
        file.seek(offset)
        (numel,) = struct.unpack("<q", file.read(8))
        offset += 8 + storages[key].size
        if numel != storages[key].numel or offset > size:
            raise damaged(f"storage {key[:20]!r} is cut off")
