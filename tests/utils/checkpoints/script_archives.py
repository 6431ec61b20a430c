"""TorchScript archives that the tests of reading them have in common."""

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn


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


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


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
