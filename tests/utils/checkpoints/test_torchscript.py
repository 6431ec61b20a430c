"""TorchScript archives are read as torch reads them, and no code in them is ever run."""

import enum
import logging
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from script_archives import Tied, rewritten, scripted
from torch import Tensor, nn

from utils.checkpoints.files import read_checkpoint
from utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")

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
