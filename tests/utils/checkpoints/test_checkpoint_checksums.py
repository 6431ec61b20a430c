"""Damage to a checkpoint file is noticed, and equal contents make equal files."""

import contextlib
import math
import os
import random
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from stored_content import CONTENT

from utils.checkpoints.files import read_checkpoint, save_checkpoint, sha256_of
from utils.errors import UserError


def test_any_program_can_read_a_file_with_its_checksum(tmp_path):
    content = {"model": {f"layer.{i}": torch.full((2,), float(i)) for i in range(5000)}, "step": 1}
    save_checkpoint(tmp_path / "a.pth", content)
    plain = torch.load(tmp_path / "a.pth", weights_only=True)
    assert plain["format"] == 2 and sha256_of(plain["model"]) == sha256_of(content["model"])
    assert len(torch.load(tmp_path / "a.pth", weights_only=True, mmap=True)["model"]) == 5000
    with zipfile.ZipFile(tmp_path / "a.pth") as file:
        assert file.testzip() is None
        assert file.comment.startswith(b"sha256:") and len(file.comment) == 71


def test_equal_content_makes_equal_files_in_every_process_and_under_every_name(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "a.pth", CONTENT)
    monkeypatch.setattr(os, "getpid", lambda: 12345)
    save_checkpoint(tmp_path / "b.pth", CONTENT)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def damaged_copies(data: bytes, count: int):
    """(what was done, bytes): single and several flipped bits, overwritten ranges, insertions, removals, appendices."""
    draw = random.Random(0)
    for number in range(count):
        flips = 1 if number < count // 2 else draw.randint(2, 8)
        copy = bytearray(data)
        for place in draw.sample(range(8 * len(data)), flips):
            copy[place // 8] ^= 1 << place % 8
        yield f"{flips} bits", bytes(copy)
    for _ in range(count // 10):
        start = draw.randrange(len(data))
        end = min(len(data), start + draw.choice((1, 16, 500)))
        yield "zeros", data[:start] + bytes(end - start) + data[end:]
        yield "removal", data[:start] + data[end:]
        yield "insertion", data[:start] + draw.randbytes(end - start) + data[start:]
    for more in (b"\0", b"x", data[-71:], data, bytes(4096)):
        yield "appendix", data + more


@pytest.mark.promise("Atomic files")
def test_every_damage_to_a_file_is_noticed(tmp_path, trials):
    save_checkpoint(tmp_path / "a.pth", CONTENT)
    data = (tmp_path / "a.pth").read_bytes()
    unnoticed, copies = [], list(damaged_copies(data, 2000))
    trial = trials("flipped bits or other damage noticed", len(copies))
    for what, copy in copies:
        (tmp_path / "b.pth").write_bytes(copy)
        try:
            read_checkpoint(tmp_path / "b.pth")
        except UserError as error:
            assert str(error).startswith(f"checkpoint {tmp_path / 'b.pth'} cannot be read: it ")
            assert len(str(error).splitlines()) == 1
            trial.survive()
            continue
        if copy == data:  # zeros over zeros
            trial.survive()
        else:
            unnoticed.append(what)
    assert unnoticed == []


def boundaries(path: Path) -> list[int]:
    """Where headers, names, bytes of records, list, ends and checksum of an archive begin."""
    data = path.read_bytes()
    marks = (b"PK\x03\x04", b"PK\x07\x08", b"PK\x01\x02", b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06", b"sha256:")
    places = [place for mark in marks for place in range(len(data)) if data.startswith(mark, place)]
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            with file.open(entry) as record:
                places += [record._orig_compress_start, record._orig_compress_start + entry.file_size]
    return sorted(places)


def test_a_file_cut_off_at_any_part_of_its_structure_is_refused(tmp_path):
    save_checkpoint(tmp_path / "a.pth", CONTENT)
    data, places = (tmp_path / "a.pth").read_bytes(), boundaries(tmp_path / "a.pth")
    assert len(places) > 30
    for length in {place + near for place in places for near in (-1, 0, 1) if 0 <= place + near < len(data)}:
        (tmp_path / "b.pth").write_bytes(data[:length])
        with pytest.raises(UserError, match="cannot be read: it is "):
            read_checkpoint(tmp_path / "b.pth")


def test_a_file_of_this_program_without_its_checksum_is_damaged(tmp_path):
    save_checkpoint(tmp_path / "a.pth", CONTENT)
    data = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(data[:-73] + b"\0\0")  # as torch.save ends a file
    assert torch.load(tmp_path / "a.pth", weights_only=True)["step"] == 7
    with pytest.raises(UserError, match="its checksum is missing"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("is_archive", [True, False])
def test_files_of_other_programs_need_no_checksum(tmp_path, is_archive):
    linear = torch.nn.Linear(2, 3)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    linear(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "model": linear.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random": torch.get_rng_state(),
        "format": 1,
        "epoch": 3,
        "nothing": math.inf,
    }
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=is_archive)
    found = read_checkpoint(tmp_path / "a.pth")
    assert sha256_of(found) == sha256_of(content)
    torch.save(linear.state_dict(), tmp_path / "b.pth", _use_new_zipfile_serialization=is_archive)
    assert sha256_of(read_checkpoint(tmp_path / "b.pth")["model"]) == sha256_of(content["model"])


@pytest.mark.parametrize("more", [b"\0", b"PK", bytes(50), bytes(5000)])
def test_bytes_behind_the_archive_of_another_program_are_refused(tmp_path, more):
    torch.save(CONTENT, tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes() + more)
    with pytest.raises(UserError, match=r"something follows its end|its end is missing"):
        read_checkpoint(tmp_path / "a.pth")


def test_old_files_are_not_tried_as_tar_archives(tmp_path, monkeypatch):
    torch.save(CONTENT, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    opened = []
    monkeypatch.setattr(tarfile, "open", lambda *arguments, **more: opened.append(arguments))
    assert read_checkpoint(tmp_path / "a.pth")["step"] == 7
    assert opened == []
    with contextlib.suppress(Exception):
        torch.load(tmp_path / "a.pth", weights_only=True)
    assert opened  # torch alone does so


def test_a_model_in_the_safetensors_format_is_read(tmp_path):
    from safetensors.torch import save_file

    save_file(CONTENT["model"], tmp_path / "a.safetensors")
    assert sha256_of(read_checkpoint(tmp_path / "a.safetensors")["model"]) == sha256_of(CONTENT["model"])
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-1])
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(tmp_path / "a.safetensors")
