"""Parts that hostile checkpoint files are made of: pickles by hand, archives, calls."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

FAR = 2**40  # numbers; nobody has room for so many
HEAD = b"\x80\x02"

# ---- parts of pickles ------------------------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, function: str) -> bytes:
    return f"c{module}\n{function}\n".encode()


def group(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + group(*arguments) + b"R"


ORDERED = name("collections", "OrderedDict") + b")R"
REBUILD = name("torch._utils", "_rebuild_tensor_v2")


def storage(key: str = "0", numel: int = 2, kind: str = "FloatStorage", *more: bytes) -> bytes:
    return group(text("storage"), name("torch", kind), text(key), text("cpu"), whole(numel), *more) + b"Q"


def tensor(of: bytes, size: tuple = (2,), stride: tuple = (1,), offset: int = 0, hooks: bytes = ORDERED) -> bytes:
    sizes, strides = group(*map(whole, size)), group(*map(whole, stride))
    return call(REBUILD, of, whole(offset), sizes, strides, b"\x89", hooks)


def checkpoint(more: bytes, model: bytes | None = None) -> bytes:
    """The pickle of {"model": {"a": tensor}, "more": ...}, for an archive."""
    model = tensor(storage()) if model is None else model
    return HEAD + b"}(" + text("model") + b"}" + text("a") + model + b"s" + text("more") + more + b"u."


# ---- files -----------------------------------------------------------------------------


def archive(content: bytes, storages: Mapping[str, bytes] = {"0": bytes(8)}, method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive as torch.save writes them."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as records:
        records.writestr("archive/data.pkl", content)
        records.writestr("archive/byteorder", "little", zipfile.ZIP_STORED)
        for key, data in storages.items():
            records.writestr(f"archive/data/{key}", data)
        records.writestr("archive/version", "3\n", zipfile.ZIP_STORED)
    return file.getvalue()


def old_checkpoint(more: bytes, numel: int = 2, view: bytes = b"N") -> bytes:
    """The same for the format before version 1.6."""
    return checkpoint(more, tensor(storage("0", numel, "FloatStorage", view)))


def legacy(content: bytes, storages: Mapping[str, tuple[int, bytes]] = {"0": (2, bytes(8))}) -> bytes:
    """A file as torch.save wrote them before version 1.6: of each storage, how many numbers it says it has."""
    heads = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    data = b"".join(struct.pack("<q", numel) + bytes_ for numel, bytes_ in storages.values())
    return b"".join(heads) + content + pickle.dumps(list(storages), 2) + data


def saved(content: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


class Call:
    """Pickled, it asks for a call when it is read."""

    def __init__(self, function: Callable, *arguments: Any):
        self.request = function, arguments

    def __reduce__(self) -> tuple:
        return self.request


def calling(module: str, function: str, argument: Callable[[Path], bytes], *more: bytes) -> Callable[[Path], bytes]:
    """An archive that asks for a call with one argument, made from the marker's path."""
    return lambda marker: archive(checkpoint(call(name(module, function), argument(marker), *more)))


def item(more: bytes) -> Callable[[Path], bytes]:
    return lambda marker: archive(checkpoint(more))


def shell(marker: Path) -> bytes:
    return text(f"touch {marker}")


def source(marker: Path) -> bytes:
    return text(f"open({str(marker)!r}, 'w').close()")
