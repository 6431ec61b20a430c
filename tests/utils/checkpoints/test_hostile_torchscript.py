"""TorchScript archives that are damaged, hostile or made by hand are refused in one line, or read as they are."""

import io
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from script_archives import Tied, rewritten, scripted
from torch import nn

from utils.checkpoints.files import read_checkpoint
from utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")

FLIPS = 400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.pt"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def whole(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def group(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def storage(key: str = "0", numel: int = 2, type_: str = "Float", device: str = "cpu") -> bytes:
    return group(text("storage"), f"ctorch\n{type_}Storage\n".encode(), text(key), text(device), whole(numel)) + b"Q"


def tensor(of: bytes, size: tuple[int, ...] = (2,), stride: tuple[int, ...] = (1,), offset: int = 0) -> bytes:
    parts = (of, whole(offset), group(*map(whole, size)), group(*map(whole, stride)), b"\x89", b"N")
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + group(*parts) + b"R"


def module(**attributes: bytes) -> bytes:
    return started() + filled(*(text(name) + value for name, value in attributes.items()))


def started() -> bytes:
    return b"c__torch__\nM\n)\x81"


def filled(*items: bytes) -> bytes:
    return b"}(" + b"".join(items) + b"ub"


def laughs(levels: int, width: int) -> bytes:
    """Modules that hold the one before `width` times: small in a file, endless by their names."""
    content = module(w=tensor(storage())) + b"q\x01"
    for _ in range(levels):
        content += started() + filled(*(text(f"m{number}") + b"h\x01" for number in range(width))) + b"q\x01"
    return content


def deep(levels: int) -> bytes:
    content = module(w=tensor(storage()))
    for _ in range(levels):
        content = started() + b"}(" + text("m") + content + b"ub"
    return content


def archive(content: bytes) -> bytes:
    """A TorchScript archive with one storage of eight bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as records:
        records.writestr("a/data.pkl", b"\x80\x02" + content + b".")
        records.writestr("a/data/0", bytes(8))
        records.writestr("a/code/__torch__.py", "raise", zipfile.ZIP_DEFLATED)
        records.writestr("a/constants.pkl", b"\x80\x02).")
    return file.getvalue()


def test_an_archive_of_a_gpu_is_read_on_the_cpu(path):
    half = tensor(storage(numel=4, type_="Half", device="cuda:0"), (2, 2), (1, 2))
    path.write_bytes(archive(module(proj=half, training=b"\x88", visual=module(proj=half, training=b"\x88"))))
    found = read_checkpoint(path)["model"]
    assert list(found) == ["proj", "visual.proj"]
    assert all(each.equal(torch.zeros(2, 2).half()) and each.stride() == (1, 2) for each in found.values())


SYSTEM = b"cposix\nsystem\n(" + text("touch pwned") + b"tR"

HOSTILE: dict[str, tuple[bytes, str]] = {
    "a command as an attribute": (archive(module(w=SYSTEM)), r"it asks for 'posix\.system'; it is not a checkpoint"),
    "a command as a module": (archive(SYSTEM), r"it asks for 'posix\.system'"),
    "a class of Python": (archive(b"cbuiltins\neval\n)\x81" + filled()), r"it asks for 'builtins\.eval'"),
    "nearly a class of its own": (archive(b"c__torch__x.a\nM\n)\x81" + filled()), r"it asks for '__torch__x\.a\.M'"),
    "a name to confuse terminals": (archive(b"c\x1b[2J\xc3\xa9\nM\n)\x81"), r"it asks for '\\x1b\[2J\\xe9\.M'"),
    "a function as a class": (archive(b"ctorch\ndevice\n)\x81" + filled()), "nothing else is ever"),
    "a constructor with arguments": (archive(b"c__torch__\nM\nK\x01\x85\x81" + filled()), "nothing else is ever"),
    "attributes twice": (archive(module(w=tensor(storage())) + filled()), "nothing else is ever"),
    "attributes of a list": (archive(b"]" + filled()), "nothing else is ever"),
    "an attribute without a name": (archive(started() + filled(b"K\x01N")), "an attribute has no name"),
    "a quantized tensor": (archive(b"ctorch._utils\n_rebuild_qtensor\n)R"), "quantized or other special"),
    "no module": (archive(b"}"), "a TorchScript archive without a module"),
    "a tensor alone": (archive(tensor(storage())), "a TorchScript archive without a module"),
    "a module not built": (archive(started()), "holds no named tensors"),
    "no storage": (archive(module(w=tensor(storage("../../etc/passwd")))), "has 0 bytes instead of 8"),
    "a storage in the code": (archive(module(w=tensor(storage("../code/__torch__.py")))), "has 0 bytes instead of 8"),
    "a larger storage": (archive(module(w=tensor(storage(numel=2**40)))), "has 8 bytes instead of 4398046511104"),
    "a storage of two types": (
        archive(module(w=tensor(storage()), v=tensor(storage(type_="Int")))),
        "described in two ways",
    ),
    "a tensor beyond its storage": (archive(module(w=tensor(storage(), (3,)))), r"shape \[3\] on a storage of 2"),
    "strides beyond the storage": (archive(module(w=tensor(storage(), (2,), (2,)))), r"shape \[2\] on a storage of 2"),
    "an offset beyond the storage": (archive(module(w=tensor(storage(), offset=1))), r"shape \[2\] on a storage of 2"),
    "a negative offset": (archive(module(w=tensor(storage(), offset=-1))), "impossible shape"),
    "a negative size": (archive(module(w=tensor(storage(), (-1,)))), "impossible shape"),
    "terabytes of one number": (archive(module(w=tensor(storage(), (2**40,), (0,)))), "on a storage of 2 elements"),
    "an overflow": (archive(module(w=tensor(storage(), (2**62, 4), (0, 0)))), "on a storage of 2 elements"),
    "an overflow of nothing": (archive(module(w=tensor(storage(), (2**62, 2**62, 0), (1, 1, 1)))), "it "),
    "one attribute twice": (
        archive(started() + filled(text("w") + tensor(storage()), text("w") + b"N")),
        "two attributes have one name",
    ),
    "one attribute later again": (
        archive(started() + b"}(" + text("w") + b"Nu(" + text("w") + tensor(storage()) + b"ub"),
        "two attributes have one name",
    ),
    "one name by dots": (
        archive(started() + filled(text("m.w") + tensor(storage()), text("m") + module(w=tensor(storage())))),
        "two tensors have the name 'm.w'",
    ),
    "a module in itself": (archive(started() + b"q\x01" + filled(text("m") + b"h\x01")), "nested more than 100 deep"),
    "modules in one another": (archive(deep(150)), "nested more than 100 deep"),
    "modules without end": (archive(deep(20_000)), "nested more than 100 deep"),
    "laughs": (archive(laughs(25, 10)), "more values than any checkpoint"),
    "tensors that share a storage": (archive(laughs(3, 40)), "on far smaller storages"),
    "narrow laughs": (archive(laughs(90, 2)), "more values than any checkpoint"),
    "long names": (
        archive(started() + filled(text("m" * 1_000_000) + module(**{f"w{i}": b"N" for i in range(30)}))),
        "more values than any checkpoint",
    ),
    "a pickle without end": (archive(b"(" * 10_000 + b"N"), "holds no named tensors|without a module"),
    "half a pickle": (archive(started() + b"}(" + text("w")[:-1]), "damaged"),
    "an empty pickle": (archive(b""), "damaged"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_in_one_line(path, case, monkeypatch):
    monkeypatch.chdir(path.parent)
    content, words = HOSTILE[case]
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(UserError, match=words) as caught:
        read_checkpoint(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 300 + len(str(path))
    assert peak < 32 * 2**20 + 20 * len(content)
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing was run


CHANGED: dict[str, tuple[Callable[[str, bytes], bytes | None], str]] = {
    "a storage too short": (lambda name, data: data[:-4] if name == "data/0" else data, "bytes instead of"),
    "a storage too long": (lambda name, data: data + bytes(4) if name == "data/0" else data, "bytes instead of"),
    "no storage": (lambda name, data: None if name == "data/0" else data, "has 0 bytes instead of"),
    "no pickle": (lambda name, data: None if name == "data.pkl" else data, "holds no data.pkl"),
    "numbers the other way round": (lambda name, data: b"big" if name == "byteorder" else data, "not little-endian"),
    "nothing but code": (lambda name, data: data if name.startswith(("code/", "constants")) else None, "no data.pkl"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_an_archive_of_torch_with_a_changed_record_is_refused(path, case):
    torch.jit.save(scripted(nn.Linear(2, 3)), path)
    change, words = CHANGED[case]
    with pytest.raises(UserError, match=words):
        read_checkpoint(rewritten(path, change))


def test_two_records_of_one_name_are_refused(path):
    torch.jit.save(scripted(nn.Linear(2, 3)), path)
    with pytest.raises(UserError, match="two records have one name"):
        read_checkpoint(rewritten(path, lambda name, data: data, {"data/0": bytes(24)}))


def test_compressed_tensors_are_refused(path):
    torch.jit.save(scripted(nn.Linear(2, 3)), path)
    with zipfile.ZipFile(path) as read:
        records = {record: read.read(record) for record in read.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as changed:
        for name, content in records.items():
            changed.writestr(name, content)
    with pytest.raises(UserError, match="compressed or encrypted"):
        read_checkpoint(path)


@pytest.mark.parametrize("length", [0, 1, 10, 100, 1000, -200, -30, -1])
def test_an_archive_cut_off_anywhere_is_refused(path, length):
    torch.jit.save(scripted(nn.Linear(2, 3)), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"a\.pt cannot be read: it is "):
        read_checkpoint(path)


def test_an_archive_changed_at_random_is_refused_or_read_as_it_was(path):
    torch.jit.save(scripted(Tied()), path)
    expected, whole_file, draw = read_checkpoint(path)["model"], path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(FLIPS):
        data = bytearray(whole_file)
        for _ in range(draw.choice((1, 1, 1, 4))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            found = read_checkpoint(path)["model"]
        except UserError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1
        else:
            assert found.keys() == expected.keys()
            assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert FLIPS // 20 < refused < FLIPS


def test_a_pickle_changed_at_random_is_refused_or_read(path):
    torch.jit.save(scripted(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))), path)
    with zipfile.ZipFile(path) as read:
        pickled = read.read("a/data.pkl")
    original, draw, outcomes = path.read_bytes(), random.Random(0), set()
    for _ in range(FLIPS):
        path.write_bytes(original)
        changed = bytearray(pickled)
        for _ in range(draw.choice((1, 2, 8))):
            changed[draw.randrange(len(changed))] = draw.choice((draw.randrange(256), ord("R"), ord("b"), 0x81))
        rewritten(path, lambda name, data, changed=changed: bytes(changed) if name == "data.pkl" else data)
        try:
            outcomes.add(type(read_checkpoint(path)["model"]))
        except UserError:
            outcomes.add(UserError)
    assert outcomes == {dict, UserError}
