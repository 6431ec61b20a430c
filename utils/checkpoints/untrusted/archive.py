"""Zip archives as torch.save writes them: uncompressed records, one behind another, then a list of them.

Anything else is refused; torch.jit.save compresses code and constants, which are never read. Numbers are little-endian,
offsets are bytes from the start of the file; the structures are those of the zip specification (APPNOTE 4.3).
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from utils.checkpoints.untrusted.refusal import Refused, damaged

MAGIC = b"PK\x03\x04"
MAX_RECORDS = 100_000  # a large checkpoint has some 5,000
LONGEST_COMMENT = 100

# signature, disks (2), records (2), size and offset of the list, length of the comment
END = struct.Struct("<4s4H2LH")
# signature, disk, offset of the wide end, disks
WIDE_END_OFFSET = struct.Struct("<4sLQL")
# signature, size, versions (2), disks (2), records (2), size and offset of the list
WIDE_END = struct.Struct("<4sQ2H2L4Q")
# signature, versions (2), flags, method, time, date, checksum, stored size, size, lengths of name, extra and comment,
# disk, attributes (2), offset of the header
ENTRY = struct.Struct("<4s6H3L5H2L")
# signature, version, flags, method, time, date, checksum, stored size, size, lengths of name and extra
HEADER = struct.Struct("<4s5H3L2H")
IN_EXTRA, WIDE = 0xFFFFFFFF, 1  # a number that is too large stands in the extra field of this number
HARMLESS_FLAGS = 0b1000_0000_1110  # compression level, sizes behind the data, names in UTF-8
COMPRESSED = "it holds a record that is compressed or encrypted, which torch.save never writes"


@dataclass(frozen=True)
class Directory:
    """The list of records: where it begins and ends, how many it has."""

    start: int
    end: int
    count: int


@dataclass(frozen=True)
class ArchiveRecord:
    """A file in an archive: its name, the offset of its header, how many bytes it takes, and their checksum (CRC-32).

    method: how it is compressed, 0 = not.
    """

    name: str
    header: int
    size: int
    checksum: int
    method: int


class Extent(NamedTuple):
    """Where the bytes of a record are in the file, and their checksum (CRC-32)."""

    offset: int = 0
    size: int = 0
    checksum: int = 0


def read_directory(file: BinaryIO) -> Directory:
    """Find the list of records. Raises Refused unless the file ends as an archive does."""
    size = file.seek(0, 2)
    length = min(size, WIDE_END.size + WIDE_END_OFFSET.size + END.size + LONGEST_COMMENT)
    file.seek(size - length)
    tail = file.read(length)
    at = tail.rfind(b"PK\x05\x06", 0, max(0, length - END.size + 4))
    if at < 0:
        raise damaged("its end is missing")
    *_, count, extent, start, commented = END.unpack_from(tail, at)
    end = size - length + at
    if at + END.size + commented != length:
        raise damaged("something follows its end")
    wide = at - WIDE_END_OFFSET.size - WIDE_END.size
    if wide >= 0 and tail.startswith(b"PK\x06\x07", at - WIDE_END_OFFSET.size):
        signature, *_, count, extent, start = WIDE_END.unpack_from(tail, wide)
        end -= WIDE_END_OFFSET.size + WIDE_END.size
        if signature != b"PK\x06\x06" or WIDE_END_OFFSET.unpack_from(tail, wide + WIDE_END.size)[2] != end:
            raise damaged("its end is not where it should be")
    if start + extent != end:
        raise damaged("its list of records does not lie before its end")
    return Directory(start, end, count)


def is_code(name: str) -> bool:
    """Whether a record NAME/... is what torch.jit.save compresses: the code of a module, and its constants."""
    return name.partition("/")[2].startswith(("code/", "constants.pkl"))


def read_records(file: BinaryIO, directory: Directory, with_code: bool = False) -> dict[str, Extent]:
    """The extent of every record by name, in the order of the list.

    with_code: code and constants may be there, also compressed; they are left out of the result.
    Raises Refused when one is compressed or encrypted, reaches beyond the list, overlaps another or has its name;
    struct.error or UnicodeError when the list is damaged.
    """
    records = list_records(file, directory)
    if any(record.method and not (with_code and is_code(record.name)) for record in records):
        raise Refused(COMPRESSED)
    if len({record.name.lower() for record in records}) != len(records):  # torch does not tell cases apart
        raise damaged("two records have one name")
    extents = {record.name: Extent(offset_of(file, record), record.size, record.checksum) for record in records}
    next_header = directory.start
    for record in sorted(records, key=lambda record: record.header, reverse=True):
        if extents[record.name].offset + record.size > next_header:
            raise damaged("records overlap, or reach beyond the file")
        next_header = record.header
    return {name: extent for name, extent in extents.items() if not (with_code and is_code(name))}


def list_records(file: BinaryIO, directory: Directory) -> list[ArchiveRecord]:
    """The records as listed; only how they are stored is checked. Raises Refused, struct.error or UnicodeError."""
    if directory.count > MAX_RECORDS:
        raise Refused("it holds more records than any checkpoint")
    file.seek(directory.start)
    data = file.read(directory.end - directory.start)
    records, at = [], 0
    for _ in range(directory.count):
        fields = ENTRY.unpack_from(data, at)
        signature, _, _, flags, method, _, _, checksum, stored, size, named, extra, noted, disk, _, _, header = fields
        name, at = data[at + ENTRY.size : at + ENTRY.size + named].decode(), at + ENTRY.size + named
        size, stored, header = widened((size, stored, header), data[at : at + extra])
        at += extra + noted
        if signature != b"PK\x01\x02" or disk:
            raise damaged("its list of records is broken")
        if flags & ~HARMLESS_FLAGS or (stored != size and not method):
            raise Refused(COMPRESSED)
        records.append(ArchiveRecord(name, header, stored, checksum, method))
    if at != len(data):
        raise damaged("its list of records has another length")
    return records


def widened(numbers: tuple[int, ...], extra: bytes) -> list[int]:
    """Numbers of an entry, with those that are too large for it taken from its extra field."""
    wide, at = b"", 0
    while at + 4 <= len(extra):
        number, length = struct.unpack_from("<2H", extra, at)
        wide = extra[at + 4 : at + 4 + length] if number == WIDE else wide
        at += 4 + length
    large = iter(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
    return [next(large, number) if number == IN_EXTRA else number for number in numbers]


def offset_of(file: BinaryIO, record: ArchiveRecord) -> int:
    """Where the bytes of a record begin. Raises Refused when its own header differs from the list."""
    file.seek(record.header)
    signature, _, flags, method, *_, named, extra = HEADER.unpack(file.read(HEADER.size))
    is_same = (signature, method, file.read(named)) == (MAGIC, record.method, record.name.encode())
    if not is_same or flags & ~HARMLESS_FLAGS:
        raise damaged(f"record {record.name[:40]!r} is not where it should be")
    return record.header + HEADER.size + named + extra
