"""TorchScript archives are read as torch reads them, and no code in them is ever run."""

import enum
import io
import logging
import random
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from utils.checkpoints.files import read_checkpoint
from utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")

FLIPS = 400


# ---- archives that torch writes --------------------------------------------------------


class Nested(nn.Module):
    """Modules in modules, with all that is not in a state_dict beside what is."""

    resolution: int

    def __init__(self) -> None:
        super().__init__()
        self.resolution = 224
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.BatchNorm1d(3)))
        self.by_name = nn.ModuleDict({"last": nn.Linear(3, 2, bias=False)})
        self.list = nn.ModuleList([nn.LayerNorm(2) for _ in range(11)])
        self.parameters_ = nn.ParameterList([nn.Parameter(torch.rand(2)) for _ in range(2)])
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.frozen = nn.Parameter(torch.rand(2), requires_grad=False)
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("passing", torch.rand(2), persistent=False)
        self.register_buffer("nothing", None)
        self.plain, self.several, self.named = torch.rand(2), [torch.rand(1)], {"a": torch.rand(1)}
        self.sizes, self.pair, self.text, self.place = [1, 2], (1, torch.rand(1)), "text", torch.device("cpu")
        self.complex, self.switch, self.rates = 1j, True, [0.5]

    def forward(self, x: Tensor) -> Tensor:
        x = self.by_name["last"](self.layers(x * self.scale + self.frozen + self.plain))
        for layer in self.list:
            x = layer(x)
        return x + self.several[0] + self.named["a"] + self.pair[1] + self.resolution + self.sizes[0] + self.count


class Color(enum.Enum):
    RED = 1


class Pair:
    """No module, though it has a tensor."""

    def __init__(self, left: Tensor):
        self.left = left


class OwnClasses(nn.Module):
    color: Color
    pair: Pair

    def __init__(self) -> None:
        super().__init__()
        self.color, self.pair, self.weight = Color.RED, Pair(torch.rand(1)), nn.Parameter(torch.rand(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight + self.pair.left


class Tied(nn.Module):
    """One parameter under two names, one module under two names, two views of a storage."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head, numbers = nn.Embedding(5, 3), nn.Linear(3, 5), torch.rand(6)
        self.head.weight = self.table.weight
        self.again = self.head
        self.upper, self.lower = nn.Parameter(numbers[:4]), nn.Parameter(numbers[2:].view(2, 2))

    def forward(self, index: Tensor) -> Tensor:
        return self.again(self.table(index)) + self.upper.sum() + self.lower.sum()


class Strided(nn.Module):
    """Tensors that are not contiguous, have no numbers, or are of other dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.turned = nn.Parameter(torch.rand(2, 3, 4).permute(2, 0, 1))
        self.every_other = nn.Parameter(torch.rand(10)[1::2])
        self.empty = nn.Parameter(torch.empty(0, 3))
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.bool):
            self.register_buffer(f"of_{dtype}".replace(".", "_"), torch.tensor([[0, 1], [1, 1]]).to(dtype).t())
        self.register_buffer("complex64", torch.rand(3, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.turned.sum() + self.every_other.sum()


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


def traced(module: nn.Module, *arguments: Tensor) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module, arguments)


MODULES: dict[str, Callable[[], torch.jit.ScriptModule]] = {
    "one layer": lambda: scripted(nn.Linear(2, 3)),
    "nested": lambda: scripted(Nested()),
    "nested, traced": lambda: traced(Nested().eval(), torch.rand(4, 2)),
    "classes of its own": lambda: scripted(OwnClasses()),
    "tied": lambda: scripted(Tied()),
    "tied, traced": lambda: traced(Tied(), torch.tensor([1])),
    "strided": lambda: scripted(Strided()),
    "half": lambda: scripted(Nested().half()),
    "bfloat16": lambda: scripted(Nested().bfloat16()),
    "attention": lambda: scripted(nn.TransformerEncoderLayer(8, 2, 16)),
    "frozen, which has no marks": lambda: torch.jit.freeze(
        scripted(Nested().eval()), preserved_attrs=["layers", "scale"], optimize_numerics=False
    ),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.pt"


@pytest.mark.parametrize("case", MODULES)
def test_names_values_and_dtypes_are_those_of_torch(path, case):
    torch.jit.save(MODULES[case](), path)
    expected = torch.jit.load(path).state_dict()
    found = read_checkpoint(path)
    assert list(found) == ["model"] and list(found["model"]) == list(expected)
    for name, tensor in found["model"].items():
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
        assert torch.equal(tensor, expected[name])
        assert type(tensor) is Tensor and tensor.device.type == "cpu" and not tensor.requires_grad


def test_tensors_that_share_numbers_share_them_when_they_are_read(path):
    torch.jit.save(scripted(Tied()), path)
    read = read_checkpoint(path)["model"]
    assert read["table.weight"].data_ptr() == read["head.weight"].data_ptr() == read["again.weight"].data_ptr()
    read["upper"][2] = 9
    assert read["lower"][0, 0] == 9


def test_each_read_has_numbers_of_its_own(path):
    torch.jit.save(scripted(nn.Linear(2, 3)), path)
    first = read_checkpoint(path)["model"]["weight"].fill_(5)
    assert not torch.equal(first, read_checkpoint(path)["model"]["weight"])


class Parallel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def test_names_lose_the_prefix_of_distributed_training(path, caplog):
    torch.jit.save(scripted(Parallel()), path)
    with caplog.at_level(logging.INFO):
        assert list(read_checkpoint(path, "vision_checkpoint")["model"]) == ["weight", "bias"]
    assert caplog.messages == [f"vision_checkpoint {path}: 2 tensors"]


def test_a_module_without_tensors_is_one_line(path):
    torch.jit.save(scripted(nn.ReLU()), path)
    with pytest.raises(UserError, match="holds no named tensors"):
        read_checkpoint(path)


# ---- code ------------------------------------------------------------------------------


class Restored(nn.Module):
    """A module whose own code restores it, and fails."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(2))

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]
        assert state[1] is None, "restored"

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class HoldsRestored(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.restored, self.plain = Restored(), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(self.restored(x))


def test_a_module_that_code_would_restore_is_left_out(path, caplog):
    torch.jit.save(scripted(HoldsRestored()), path)
    with pytest.raises(Exception, match="restored"):
        torch.jit.load(path)
    assert list(read_checkpoint(path)["model"]) == ["plain.weight", "plain.bias"]
    assert "code of the file could restore are left out, such as 'restored'" in caplog.text


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], more: dict[str, bytes] | None = None) -> Path:
    """The archive with other content of its records (None: without one), and more of them."""
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of two records with one name
        for name, content in records.items():
            changed = change(name.partition("/")[2], content)
            if changed is not None:
                method = zipfile.ZIP_DEFLATED if "/code/" in name or "constants" in name else zipfile.ZIP_STORED
                archive.writestr(name, changed, method)
        for name, content in (more or {}).items():
            archive.writestr(f"a/{name}", content)
    return path


def test_code_is_not_even_read(path):
    torch.jit.save(scripted(nn.Linear(2, 3)), path)
    expected = torch.jit.load(path).state_dict()
    rewritten(path, lambda name, content: b"raise this\0\xff" if name.startswith(("code/", "constants")) else content)
    with pytest.raises(RuntimeError):
        torch.jit.load(path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as records:
        (start,) = (
            each.header_offset + 30 + len(each.filename)
            for each in records.infolist()
            if "linear.py" in each.filename and "debug" not in each.filename
        )
    data[start : start + 4] = b"\xff" * 4  # not what a compressed record begins with
    path.write_bytes(data)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in read_checkpoint(path)["model"].items())


# ---- archives by hand -----------------------------------------------------------------


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
