"""Checkpoint files that would take memory or time without end.

RESOURCES: name -> function of the path of a marker file that returns the bytes of the file.
"""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from hostile_parts import (
    FAR,
    HEAD,
    ORDERED,
    REBUILD,
    archive,
    call,
    checkpoint,
    group,
    item,
    legacy,
    name,
    old_checkpoint,
    shell,
    storage,
    tensor,
    text,
    whole,
)


def forged(data: bytes, edit: Callable[[bytearray, int, int], None], record: str = "archive/data/0") -> bytes:
    """An archive with an edited record: edit(bytes, place of its own header, place of its entry in the list)."""
    data = bytearray(data)
    places = [i for i in range(len(data)) if data.startswith(record.encode(), i)]
    edit(data, places[0] - 30, places[-1] - 46)
    return bytes(data)


def beyond_the_file(data: bytearray, header: int, entry: int) -> None:
    for place in (header + 18, header + 22, entry + 20, entry + 24):
        data[place : place + 4] = struct.pack("<I", 0x7FFFFFFF)


def encrypted(data: bytearray, header: int, entry: int) -> None:
    data[header + 6] |= 1
    data[entry + 8] |= 1


def said_to_be_compressed(data: bytearray, header: int, entry: int) -> None:
    data[header + 8] = data[entry + 10] = 8


def listed(one: bytes, entries: list[tuple[str, int, int]], stated: int | None = None) -> bytes:
    """An archive with another list of records: (name, place of its header, bytes); `stated` = how many it says."""
    with zipfile.ZipFile(io.BytesIO(one)) as records:
        start = records.start_dir
    list_ = b"".join(
        b"PK\x01\x02"
        + struct.pack("<6HI", 20, 20, 0, 0, 0, 0, 0)
        + struct.pack("<II", size, size)
        + struct.pack("<5HII", len(name), 0, 0, 0, 0, 0, header)
        + name.encode()
        for name, header, size in entries
    )
    stated = len(entries) if stated is None else stated
    wide = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, stated, stated, len(list_), start)
    place = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + len(list_), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return one[:start] + list_ + wide + place + end


def entries_of(one: bytes) -> list[tuple[str, int, int]]:
    with zipfile.ZipFile(io.BytesIO(one)) as records:
        return [(record.filename, record.header_offset, record.file_size) for record in records.infolist()]


def many_records(count: int, stated: int | None = None) -> bytes:
    """An archive of many records that are all the same eight bytes."""
    one = archive(checkpoint(b"N"))
    header = {name: header for name, header, _ in entries_of(one)}["archive/data/0"]
    return listed(one, [(f"archive/data/{number}", header, 8) for number in range(count)], stated)


def records_in_one_another(marker: Path) -> bytes:
    """Each storage holds the header and the bytes of the next, so that all together are far larger than the file."""
    inner, headers = bytes(2**20), []
    for key in range(9, -1, -1):
        name = f"archive/data/{key}".encode()
        inner = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name + inner
        headers.append((name.decode(), len(inner), len(inner) - 30 - len(name)))
    tensors = [tensor(storage(name[-1], size // 4), (size // 4,)) for name, _, size in headers]
    inner += bytes(-len(inner) % 4)
    content = checkpoint(b"](" + b"".join(tensors) + b"e", tensors[0])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as records:
        records.writestr("archive/data.pkl", content)
        records.writestr("archive/data/x", inner)
        records.writestr("archive/version", "3\n")
    one = file.getvalue()
    end = one.index(inner) + len(inner)
    nested = [(name, end - length, size // 4 * 4) for name, length, size in headers]
    return listed(one, [entry for entry in entries_of(one) if entry[0] != "archive/data/x"] + nested)


def laughs(opening: bytes, closing: bytes, levels: int = 40, times: int = 10) -> bytes:
    """A list of containers, each of ten times the one before: small, and endless for whoever looks at every value."""
    keys = [whole(number) if opening == b"}(" else b"" for number in range(times)]
    return (
        b"](K\x01q\x00"
        + b"".join(
            opening + b"".join(key + b"h" + bytes([level]) for key in keys) + closing + b"q" + bytes([level + 1])
            for level in range(levels)
        )
        + b"e"
    )


def doubled_tuples(levels: int) -> bytes:
    """A tuple of twice the tuple before, and so on."""
    return b")" + b"".join(b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(levels))


def rebuilt(function: str, *arguments: bytes) -> Callable[[Path], bytes]:
    """A special tensor."""
    return item(call(name("torch._utils", function), *arguments))


def nested_archive(marker: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as records:
        records.writestr("archive/inner.pth", archive(checkpoint(b"N")))
    return file.getvalue()


def twins(marker: Path) -> bytes:
    """Two records whose names torch takes for one."""
    file = io.BytesIO(archive(checkpoint(b"N")))
    with zipfile.ZipFile(file, "a") as records:
        records.writestr("archive/DATA.PKL", checkpoint(call(name("os", "system"), shell(marker))))
    return file.getvalue()


def old_storage(numel: int, stated: int, data: bytes) -> Callable[[Path], bytes]:
    """An old file, in which the content tells of `numel` numbers, and the storage says that it has `stated`."""
    return lambda marker: legacy(old_checkpoint(b"N", numel), {"0": (stated, data)})


def shared_by_many(marker: Path) -> bytes:
    """Forty thousand tensors of a megabyte each, on one storage."""
    one = tensor(storage("0", 2**18), (2**18,))
    arguments = call(REBUILD, storage("0", 2**18), b"K\0", group(whole(2**18)), group(whole(1)), b"\x89", ORDERED)
    many = b"](" + (REBUILD + arguments[len(REBUILD) : -1] + b"q\x01" + b"R")
    return archive(checkpoint(many + (REBUILD + b"h\x01R") * 40_000 + b"e", one), {"0": bytes(2**20)})


SPARSE = call(
    name("torch._utils", "_rebuild_sparse_tensor"),
    call(name("torch.serialization", "_get_layout"), text("torch.sparse_coo")),
    group(
        tensor(storage("1", 0, "LongStorage"), (1, 0), (1, 1)),
        tensor(storage("2", 0), (0,)),
        call(name("torch", "Size"), group(whole(FAR))),
    ),
)

RESOURCES: dict[str, Callable[[Path], bytes]] = {
    "zip bomb in the pickle": lambda marker: archive(
        checkpoint(b"](" + b"N" * 2**27 + b"e"), method=zipfile.ZIP_DEFLATED
    ),
    "zip bomb in a storage": lambda marker: archive(
        checkpoint(b"N", tensor(storage("0", 2**25), (2**25,))), {"0": bytes(2**27)}, zipfile.ZIP_DEFLATED
    ),
    "record said to be compressed": lambda marker: forged(archive(checkpoint(b"N")), said_to_be_compressed),
    "record beyond the file": lambda marker: forged(archive(checkpoint(b"N")), beyond_the_file),
    "pickle beyond the file": lambda marker: forged(archive(checkpoint(b"N")), beyond_the_file, "archive/data.pkl"),
    "encrypted record": lambda marker: forged(archive(checkpoint(b"N")), encrypted),
    "a hundred thousand records": lambda marker: many_records(100_001),
    "records that are not there": lambda marker: many_records(3, stated=2**60),
    "records on one another": lambda marker: many_records(3_000),
    "records in one another": records_in_one_another,
    "an archive in the archive": nested_archive,
    "two records of one name": twins,
    "compiled module": lambda marker: scripted(),
    "storage far beyond its record": lambda marker: archive(checkpoint(b"N", tensor(storage("0", FAR)))),
    "storage longer than its record": lambda marker: archive(checkpoint(b"N", tensor(storage("0", 3)))),
    "negative storage": lambda marker: archive(checkpoint(b"N", tensor(storage("0", -2)))),
    "storage that is not there": lambda marker: archive(checkpoint(storage("7", 2))),
    "one storage of two lengths": item(tensor(storage("0", 1), (1,))),
    "one storage of two types": item(tensor(storage("0", 2, "IntStorage"))),
    "tensor beyond its storage": lambda marker: archive(checkpoint(b"N", tensor(storage(), (FAR,)))),
    "tensor of bytes beyond its storage": item(
        call(
            name("torch._utils", "_rebuild_tensor_v3"),
            group(text("storage"), name("torch.storage", "UntypedStorage"), text("1"), text("cpu"), whole(0)) + b"Q",
            whole(0),
            group(whole(FAR)),
            group(whole(1)),
            b"\x89",
            ORDERED,
            name("torch", "uint16"),
        )
    ),
    "tensor that begins beyond its storage": lambda marker: archive(checkpoint(b"N", tensor(storage(), offset=FAR))),
    "tensor of repeated numbers": lambda marker: archive(checkpoint(b"N", tensor(storage(), (FAR,), (0,)))),
    "tensor of overlapping windows": lambda marker: archive(
        checkpoint(b"N", tensor(storage("0", 2**13), (2**12, 2**12), (1, 1))), {"0": bytes(2**15)}
    ),
    "tensor of strides that wrap around": lambda marker: archive(
        checkpoint(b"N", tensor(storage("0", 4), (2, 2), (2**63 - 1, 1))), {"0": bytes(16)}
    ),
    "tensor of a hundred thousand dimensions": lambda marker: archive(
        checkpoint(b"N", tensor(storage(), (2**62,) * 100_000, (1,) * 100_000))
    ),
    "tensors that share a storage": shared_by_many,
    "old file, storage beyond the file": old_storage(FAR, FAR, bytes(8)),
    "old file, storage of another length": old_storage(2**30, 2, bytes(8)),
    "old file, storage said to be longer": old_storage(2, FAR, bytes(8)),
    "old file, storage without numbers": lambda marker: legacy(old_checkpoint(storage("1", FAR, "FloatStorage", b"N"))),
    "old file, view of a storage": lambda marker: legacy(
        old_checkpoint(b"N", view=group(text("v"), whole(0), whole(FAR)))
    ),
    "sparse tensor": lambda marker: archive(checkpoint(SPARSE), {"0": bytes(8), "1": b"", "2": b""}),
    "quantized tensor": rebuilt(
        "_rebuild_qtensor",
        storage("0", 2, "QInt8Storage"),
        whole(0),
        group(whole(FAR)),
        group(whole(1)),
        group(name("torch", "per_tensor_affine"), b"G" + bytes(8), whole(0)),
        b"\x89",
        ORDERED,
    ),
    "tensor without numbers": rebuilt(
        "_rebuild_meta_tensor_no_storage", name("torch", "float32"), group(whole(FAR)), group(whole(1)), b"\x89"
    ),
    "nested tensor": rebuilt(
        "_rebuild_nested_tensor", tensor(storage()), *[tensor(storage("1", 1, "LongStorage"), (1, 1), (1, 1))] * 3
    ),
    "tensor of another class": rebuilt(
        "_rebuild_wrapper_subclass",
        name("torch", "Tensor"),
        name("torch", "float32"),
        group(whole(FAR)),
        group(whole(1)),
        whole(0),
        b"N",
        text("cpu"),
        b"\x89",
    ),
    "tensor with any attributes": lambda marker: archive(
        checkpoint(
            call(
                name("torch._tensor", "_rebuild_from_type_v2"),
                REBUILD,
                name("torch", "Tensor"),
                group(storage(), whole(0), group(whole(2)), group(whole(1)), b"\x89", ORDERED),
                b"}" + text("numel") + whole(FAR) + b"s",
            )
        )
    ),
    "memory of a tensor": item(call(name("torch", "FloatTensor"), whole(2**34))),
    "memory of a new tensor": item(name("torch", "Tensor") + group(whole(2**34)) + b"\x81"),
    "memory of a storage": item(call(name("torch.storage", "UntypedStorage"), whole(2**36))),
    "memory of a bytearray": item(call(name("builtins", "bytearray"), whole(2**36))),
    "encoding that takes squares of time": item(
        call(name("_codecs", "encode"), text("\u00e4" * 2_000_000), text("punycode"))
    ),
    "laughs of lists": item(laughs(b"](", b"e")),
    "laughs of tuples": item(laughs(b"(", b"t")),
    "laughs of mappings": item(laughs(b"}(", b"u")),
    "wide laughs": item(laughs(b"](", b"e", levels=9, times=100_000)),
    "laughs within an attribute": item(ORDERED + b"}" + text("_metadata") + laughs(b"](", b"e") + b"s" + b"b"),
    "key that takes for ever to hash": item(b"}" + doubled_tuples(60) + b"Ns"),
    "set that takes for ever to hash": item(call(name("builtins", "set"), b"]" + doubled_tuples(60) + b"a")),
    "pairs that take for ever to hash": item(
        call(name("collections", "OrderedDict"), b"](](" + doubled_tuples(60) + b"Nee")
    ),
    "key too deep to hash": item(b"})" + b"\x85" * 900_000 + b"Ns"),
    "keys of one hash": item(
        b"}(" + b"".join(whole(number * (2**61 - 1)) + b"N" for number in range(2**10, 2**10 + 100_000)) + b"u"
    ),
    "400,000 lists in one another": item(b"]" * 400_000 + b"a" * 399_999),
    "list in itself": item(b"]q\x01h\x01a"),
    "method replaced by a value": item(ORDERED + b"}" + text("update") + b"Nsb"),
    "hook that is a number": lambda marker: archive(
        checkpoint(b"N", tensor(storage(), hooks=ORDERED + text("hook") + b"K\x05s"))
    ),
    "model whose methods are replaced": lambda marker: archive(
        HEAD + b"}(" + text("model") + ORDERED + text("a") + tensor(storage()) + b"s}" + text("items") + b"Nsb" + b"u."
    ),
    "state of a parameter": item(
        call(name("torch._utils", "_rebuild_parameter"), tensor(storage()), b"\x89", ORDERED)
        + group(b"\x89", b"N", b"}" + text("x") + name("collections", "OrderedDict") + b"s")
        + b"b"
    ),
    "class under a name of megabytes": item(b"}" + text("x\n" * 2_000_000) + name("collections", "OrderedDict") + b"s"),
    "class as a value": item(name("collections", "OrderedDict")),
    "storage as a value": item(storage()),
    "persistent id of a module": item(group(text("module"), name("collections", "OrderedDict"), b"N", b"N") + b"Q"),
    "persistent id within a persistent id": item(group(storage() + b"Q") + b"Q"),
    "bytes of length 2**62": lambda marker: archive(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x."),
    "text of length 2**32 - 1": lambda marker: archive(HEAD + b"X\xff\xff\xff\xffx."),
    "number of length 2**31 - 1": lambda marker: archive(HEAD + b"\x8b\xff\xff\xff\x7fx."),
    "number of millions of digits": lambda marker: archive(b"L" + b"9" * 4_000_000 + b"L\n."),
    "memo of number 2**32 - 1": lambda marker: archive(HEAD + b"Nr\xff\xff\xff\xff."),
    "frame of length 2**62": lambda marker: archive(b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N."),
    "millions of values": item(b"](" + b"N" * 3_000_000 + b"e"),
    "hundreds of thousands of calls": item(
        b"](" + name("collections", "OrderedDict") + b"q\x01)R" + b"h\x01)R" * 500_000 + b"e"
    ),
    "pickle of 70 megabytes": item(text("x" * 70_000_000)),
}


def scripted() -> bytes:
    """A TorchScript archive: it has constants.pkl and code."""
    file = io.BytesIO(archive(checkpoint(b"N")))
    with zipfile.ZipFile(file, "a") as records:
        records.writestr("archive/constants.pkl", HEAD + b").")
        records.writestr("archive/code/__torch__.py", "def forward(self): return 1\n")
    return file.getvalue()
