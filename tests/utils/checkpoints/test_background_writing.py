"""Checkpoints that are written while training goes on: what is in them, what fails, and how long the caller waits."""

import os
import signal
import threading
import time
from collections import OrderedDict

import pytest
import torch
from torch import nn

from utils.checkpoints import background, run_folder
from utils.checkpoints.background import BackgroundWriter, HostMemory
from utils.checkpoints.files import read_checkpoint, save_checkpoint
from utils.checkpoints.run_folder import BEST, LAST, PREVIOUS, RunFolder
from utils.errors import UserError
from utils.interruption import Interruption, Stopped
from utils.values import sha256_of

SECONDS = 0.3  # that a file takes on the disk of these tests


@pytest.fixture
def held():
    """An event that files wait for before they are written."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def slow_disk(monkeypatch):
    """Names of files in the order in which they are written, each in SECONDS."""
    written = []

    def save(path, content, previous=None):
        time.sleep(SECONDS)
        save_checkpoint(path, content, previous)
        written.append(path.name)

    monkeypatch.setattr(run_folder, "save_checkpoint", save)
    return written


def content_of(number: int) -> dict:
    return {"model": {"weight": torch.full((50,), float(number))}, "step": number}


def test_a_file_holds_what_was_there_when_it_was_begun(tmp_path, held):
    writer, content = BackgroundWriter(), {**content_of(1), "log": {"losses": [1.0, 2.0]}}

    def write(given):
        held.wait()
        save_checkpoint(tmp_path / "a.pth", given)

    writer.start(write, content)
    content["model"]["weight"].zero_()  # as the next optimizer step does
    content["log"]["losses"].append(3.0)
    assert not (tmp_path / "a.pth").exists()
    held.set()
    writer.wait()
    found = read_checkpoint(tmp_path / "a.pth")
    assert found["model"]["weight"].tolist() == [1.0] * 50 and found["log"]["losses"] == [1.0, 2.0]


def test_a_copy_is_the_same_content_of_any_type_in_the_same_memory_each_time(monkeypatch):
    monkeypatch.setattr(background, "SLAB", 1000)
    layer, memory = nn.Linear(7, 300), HostMemory()
    moments = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 7)).sum().backward()
    moments.step()
    state = layer.state_dict()
    assert isinstance(state, OrderedDict)
    whole = torch.arange(20)
    content = {
        "model": state,
        "optimizer": moments.state_dict(),
        "views": [whole[2:5], whole.view(4, 5).t(), whole[::3], nn.Parameter(torch.ones(2))],
        "types": (torch.ones(3, dtype=torch.bool), torch.ones(2, dtype=torch.bfloat16), torch.tensor(1 + 2j)),
        "turned": torch.tensor([1 + 2j]).conj(),
        "empty": [torch.empty(0), torch.zeros(3, 0)],
        "plain": [None, "text", 1.5, {"a": b"x"}, torch.Size([1]), {1, 2}],
    }
    for _ in range(2):
        twin = memory.copy(content)
        assert sha256_of(twin) == sha256_of(content)
        assert twin["model"]._metadata == state._metadata
        held = sum(len(slab) for slab in memory.slabs)
    assert held == sum(len(slab) for slab in memory.slabs)
    memory.copy({"model": state})  # less of it
    memory.copy(content)
    assert held == sum(len(slab) for slab in memory.slabs)


def test_tensors_that_share_their_numbers_are_written_once(tmp_path):
    whole, writer = torch.randn(10_000), BackgroundWriter()
    content = {"model": {"one": whole, "tied": whole, "half": whole[5000:]}}
    writer.start(lambda given: save_checkpoint(tmp_path / "a.pth", given), content)
    save_checkpoint(tmp_path / "b.pth", content)
    writer.wait()
    assert (tmp_path / "a.pth").stat().st_size == pytest.approx((tmp_path / "b.pth").stat().st_size, rel=0.02)


def test_the_caller_waits_for_the_file_before_and_no_longer(tmp_path, slow_disk):
    folder, waited = RunFolder(tmp_path), []
    for save in (folder.save_last, folder.save_best, folder.finish, folder.finish):
        began = time.monotonic()
        save(content_of(1)) if save != folder.finish else save()
        waited.append(time.monotonic() - began)
    assert waited[0] < SECONDS / 2 and waited[3] < SECONDS / 2
    assert min(waited[1], waited[2]) > SECONDS / 2
    assert slow_disk == [LAST, BEST]


@pytest.mark.parametrize("then", ["check", "finish", "save_last", "best", "claimed"])
def test_a_disk_that_is_full_is_told_by_what_comes_next_once(tmp_path, monkeypatch, then):
    folder = RunFolder(tmp_path)
    folder.save_last(content_of(1))
    folder.finish()

    def no_space(descriptor):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        folder.save_last(content_of(2))
        while not folder.writer.pending.done():
            time.sleep(0.01)
    with pytest.raises(
        UserError, match=f"^cannot write {tmp_path}/{LAST}: No space left on device; free space there; the"
    ):
        if then == "claimed":
            with folder.claimed():
                pass
        elif then == "save_last":
            folder.save_last(content_of(3))
        else:
            getattr(folder, then)()
    folder.check()
    folder.finish()
    assert folder.newest()["step"] == 1 and not (tmp_path / PREVIOUS).exists()


def test_numbers_that_are_not_finite_are_told_too(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save_last({"model": {"weight": torch.tensor([1.0, float("nan")])}})
    with pytest.raises(UserError, match=r"not finite .*model\.weight with 1 of 2 values"):
        folder.finish()


def test_content_that_no_checkpoint_may_have_is_refused_at_once(tmp_path):
    endless = {"model": {}}
    endless["again"] = endless
    for content in (endless, {"model": {}, "state": object()}):
        with pytest.raises(TypeError, match="it would hold"):
            RunFolder(tmp_path).save_last(content)
    assert not list(tmp_path.iterdir())


def test_a_folder_stays_claimed_until_its_file_is_written(tmp_path, slow_disk):
    folder = RunFolder(tmp_path)
    with pytest.raises(ZeroDivisionError), folder.claimed():
        folder.save_last(content_of(1))
        raise ZeroDivisionError
    assert slow_disk == [LAST]


def test_a_signal_ends_a_run_after_the_file_is_written(tmp_path, slow_disk):
    folder, interruption = RunFolder(tmp_path), Interruption()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    interruption.listen()
    try:
        folder.save_last(content_of(1))
        threading.Timer(SECONDS / 4, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Stopped, match="SIGTERM"):
            folder.finish()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert slow_disk == [LAST] and folder.newest()["step"] == 1
