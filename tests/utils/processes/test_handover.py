"""Batches arrive however little shared memory there is, and wherever temporary files are."""

import multiprocessing
import multiprocessing.process
import multiprocessing.util
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from benchmark_data import REPOSITORY, environment
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.pin_memory import pin_memory

from utils.errors import UserError
from utils.processes import handover
from utils.processes.loader_processes import loaded, loader_settings

IMAGES = 16
PIPES, ALONE = "copied through pipes", "the main process loads data itself"
MOUNT = 'mount -t tmpfs -o size="$0" tmpfs /dev/shm && exec "$@"'


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Small images of one shade each."""
    root = tmp_path_factory.mktemp("shades")
    for number in range(IMAGES):
        Image.new("RGB", (4, 4), (10 * number,) * 3).save(root / f"{number:02}.png")
    return root


def load(*arguments: str | Path, memory: str = "", **more: str) -> subprocess.CompletedProcess:
    """Load the images in another process, which has `memory` as its shared memory."""
    command = [sys.executable, "tests/utils/processes/small_machine.py", *map(str, arguments)]
    if memory:
        command = ["unshare", "-m", "sh", "-c", MOUNT, memory, *command]
    more = environment(PYTHONPATH=str(REPOSITORY), **more)
    return subprocess.run(command, cwd=REPOSITORY, env=more, capture_output=True, text=True, timeout=60)


def shades(done: subprocess.CompletedProcess) -> list[int]:
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return [int(shade) for shade in done.stdout.split()]


@pytest.fixture(scope="module")
def mounts() -> bool:
    """Whether this process may mount a disk of its own: root on Linux."""
    command = ["unshare", "-m", "sh", "-c", MOUNT, "64k", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("memory", "workers", "filled", "warning"),
    [("64k", "4", (), ALONE), ("20m", "2", ("/dev/shm/of_another",), PIPES)],
)
def test_batches_arrive_when_shared_memory_is_full(mounts, folder, memory, workers, filled, warning):
    if not mounts:
        pytest.skip("this process may not mount a disk")
    done = load(folder, workers, *filled, memory=memory)
    assert shades(done) == [10 * number for number in range(IMAGES)]
    assert done.stderr.count(warning) == 1 and "--shm-size" in done.stderr


def test_a_long_name_of_the_temporary_folder_is_none_of_sockets(mounts, folder, tmp_path):
    long = tmp_path / ("a folder of größe " + "x" * 90)
    long.mkdir()
    done = load(folder, "2", memory="64k" if mounts else "", TMPDIR=str(long))
    assert shades(done) == [10 * number for number in range(IMAGES)]
    assert done.stderr.count(PIPES) == mounts


@pytest.fixture
def no_sockets_yet(monkeypatch, tmp_path) -> None:
    """multiprocessing has made no folder for them, and temporary files have a long name."""
    monkeypatch.setattr(multiprocessing.process.current_process(), "_config", {})
    monkeypatch.setattr(multiprocessing.util, "Finalize", lambda *_, **__: None)  # pytest removes the folder
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 71)


def test_the_next_short_folder_is_taken(no_sockets_yet, monkeypatch, tmp_path):
    monkeypatch.setattr(handover, "SHORT_FOLDERS", ("/not/there", str(tmp_path)))
    handover.prepare_sockets()
    assert Path(multiprocessing.util.get_temp_dir()).parent == tmp_path
    assert tempfile.gettempdir() == "/" + "x" * 71


def test_no_short_folder_is_one_line(no_sockets_yet, monkeypatch):
    monkeypatch.setattr(handover, "SHORT_FOLDERS", ("/not/there",))
    with pytest.raises(UserError, match="is too long for sockets; set one of at most 70 bytes"):
        handover.prepare_sockets()


@dataclass(frozen=True)
class Pair:
    """An item of two tensors, one of them in a part, and a number."""

    image: torch.Tensor
    rest: "Pair | None" = None
    count: int = 0


def test_what_came_as_bytes_is_pinned_as_what_came_in_shared_memory(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.tolist()) or tensor.clone())
    sent = Pair(torch.tensor([1, 2]), Pair(torch.tensor([[True]]), count=3))
    arrived = handover.AsBytes(handover.map_leaves(sent, torch.Tensor.numpy))
    (item,) = loaded([pin_memory(arrived)])  # as a DataLoader does
    assert pinned == [[1, 2], [[True]]]
    assert item.image.tolist() == [1, 2] and item.rest.image.tolist() == [[True]] and item.rest.count == 3
    (unpinned,) = loaded([arrived])
    assert unpinned.rest.image.dtype == torch.bool


class Unsent(Dataset):
    """Items that cannot be sent."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> object:
        return lambda: index


def test_an_item_that_cannot_be_sent_ends_the_run():
    with pytest.raises(UserError, match="a process that loads data has died"):
        list(loaded(DataLoader(Unsent(), batch_size=None, **loader_settings("dataset.train_set", 1))))


def test_without_processes_nothing_is_shared():
    loader = DataLoader(torch.arange(6).view(3, 2), batch_size=None, **loader_settings("dataset.train_set", 0))
    assert [item.tolist() for item in loaded(loader)] == [[0, 1], [2, 3], [4, 5]]
    assert not any(item.is_shared() for item in loader)


def test_unlimited_or_unknown_shared_memory_has_room(monkeypatch, tmp_path):
    monkeypatch.setattr(handover, "SHARED_MEMORY", tmp_path / "missing")
    assert handover.has_room(2**60)
    monkeypatch.setattr(handover, "SHARED_MEMORY", tmp_path)
    assert handover.has_room(1) and not handover.has_room(2**60)
    monkeypatch.setattr(handover, "SHARED_MEMORY", "/proc")  # without a limit
    assert handover.has_room(2**60)
