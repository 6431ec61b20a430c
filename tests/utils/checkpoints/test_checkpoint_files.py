"""Checkpoints are read as written, and nothing in them is ever run."""

import argparse
import contextlib
import logging
import math
import os
import pickle
import random
import resource
import tarfile
import types
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.checkpoints.files import read_checkpoint, read_newest, save_checkpoint, sha256_of
from utils.errors import UserError

CONTENT = {
    "model": {"a.weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)},
    "config": {"lr": 1e-5, "files": ["a", None], "on": True},
    "step": 7,
}


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    save_checkpoint(tmp_path / "new" / "a.pth", CONTENT)
    found = read_checkpoint(tmp_path / "new" / "a.pth")
    assert os.listdir(tmp_path / "new") == ["a.pth"]
    assert list(found["model"]) == ["a.weight", "count"]
    assert torch.equal(found["model"]["a.weight"], CONTENT["model"]["a.weight"])
    assert found["model"]["count"].dtype == torch.int64
    assert (found["config"], found["step"]) == (CONTENT["config"], 7)


def test_the_state_of_an_optimizer_survives(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path / "a.pth", {**CONTENT, "optimizer": optimizer.state_dict()})
    again = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], lr=0.5)
    again.load_state_dict(read_checkpoint(tmp_path / "a.pth")["optimizer"])
    assert again.param_groups[0]["lr"] == 0.1
    assert torch.equal(again.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_a_bare_state_dict_is_the_model(tmp_path):
    torch.save(CONTENT["model"], tmp_path / "a.pth")
    assert set(read_checkpoint(tmp_path / "a.pth")["model"]) == {"a.weight", "count"}


def test_names_lose_the_prefix_of_distributed_training(tmp_path):
    torch.save({"model": {"module.a": torch.ones(1), "b.module.c": torch.ones(1)}}, tmp_path / "a.pth")
    assert set(read_checkpoint(tmp_path / "a.pth")["model"]) == {"a", "b.module.c"}


def test_what_is_no_tensor_is_left_out_of_the_model(tmp_path):
    torch.save({"model": {"a": torch.ones(1), "note": "x"}}, tmp_path / "a.pth")
    assert set(read_checkpoint(tmp_path / "a.pth")["model"]) == {"a"}


def a_parameter_with_an_attribute():
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.decays = False
    return parameter


NOT_READ_BACK = {
    "a function": (lambda: None, "more.a, which is of type function"),
    "a number of NumPy": (np.float64(1), "more.a, which is of type float64"),
    "a path": (Path("x"), "more.a, which is of type PosixPath"),
    "a sparse tensor": (torch.eye(3).to_sparse(), "more.a, a sparse"),
    "a tensor without numbers": (torch.zeros(3, device="meta"), "more.a, a sparse, quantized or empty shell"),
    "a repeated number": (torch.zeros(1).expand(3), "more.a, a tensor that repeats its numbers; make it contiguous"),
    "a parameter with an attribute": (a_parameter_with_an_attribute(), "read back, it holds a sparse"),
    "a key of two": ({(1, 2): 3}, "read back, it is not a checkpoint of tensors and plain values"),
    "no bytes": (b"", "read back, it is not a checkpoint"),
    "two types on one storage": ([(t := torch.zeros(4)), t.view(torch.int32)], "view the same data as different"),
}


@pytest.mark.parametrize("case", NOT_READ_BACK)
def test_what_could_not_be_read_back_is_not_written(tmp_path, case):
    value, message = NOT_READ_BACK[case]
    save_checkpoint(tmp_path / "a.pth", CONTENT)
    with pytest.raises(TypeError, match=message):
        save_checkpoint(tmp_path / "a.pth", {"model": CONTENT["model"], "more": {"a": value}})
    assert read_checkpoint(tmp_path / "a.pth")["step"] == 7
    assert os.listdir(tmp_path) == ["a.pth"]


def test_content_nested_in_itself_is_not_written(tmp_path):
    content = {"model": CONTENT["model"], "more": []}
    content["more"].append(content)
    with pytest.raises(TypeError, match="nested more than 100 deep"):
        save_checkpoint(tmp_path / "a.pth", content)
    assert os.listdir(tmp_path) == []


def test_all_plain_values_and_types_of_numbers_are_read_as_they_were_written(tmp_path):
    types = [
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.uint16,
        torch.bool,
        torch.complex64,
    ]
    values = [{1}, set(), b"x", bytearray(), 2**100, -1, 1j, torch.Size([1]), torch.device("cuda", 1), torch.int8]
    more = {"counter": Counter("aab"), "ordered": OrderedDict([(None, 1), (True, 2)]), "parts": (1, (2,), [3.5])}
    linear = torch.nn.Linear(2, 3)
    content = {
        "model": linear.state_dict(),
        "types": [torch.ones(2, 3).to(dtype) for dtype in types],
        "values": values,
        "empty": [torch.zeros(0, 3), torch.zeros(0, dtype=torch.uint16)],
        "columns": torch.arange(6).reshape(2, 3).T,
        "weight": linear.weight,
        **more,
    }
    save_checkpoint(tmp_path / "a.pth", content)
    found = read_checkpoint(tmp_path / "a.pth")
    assert found["values"] == values
    assert [type(value) for value in found["values"]] == [type(value) for value in values]
    assert {name: found[name] for name in more} == more
    assert type(found["weight"]) is torch.nn.Parameter
    assert sha256_of(found) == sha256_of({**content, "format": 2})


def test_views_of_one_storage_are_written_and_still_one(tmp_path):
    whole = torch.arange(10.0)
    save_checkpoint(tmp_path / "a.pth", {"model": {"whole": whole, "end": whole[5:], "again": whole}})
    model = read_checkpoint(tmp_path / "a.pth")["model"]
    model["end"].zero_()
    assert model["whole"].sum() == 10 and model["again"].data_ptr() == model["whole"].data_ptr()


def test_a_full_disk_is_told_and_leaves_the_old_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "a.pth", CONTENT)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # no file may grow beyond
    try:
        with pytest.raises(UserError, match=r"cannot write .*a\.pth: .*; the earlier a\.pth there is whole"):
            save_checkpoint(tmp_path / "a.pth", {"model": {"a": torch.zeros(1_000_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_checkpoint(tmp_path / "a.pth")["step"] == 7
    assert os.listdir(tmp_path) == ["a.pth"]


class Code:
    """Pickled, it asks for a command to be run when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("where", ["whole file", "model", "beside the model"])
def test_code_in_a_file_is_never_run(tmp_path, where):
    code = Code(tmp_path / "pwned")
    if where == "whole file":
        (tmp_path / "a.pth").write_bytes(pickle.dumps(code))
    else:
        content = {"model": code} if where == "model" else {**CONTENT, "more": code}
        torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match="nothing else is ever loaded"):
        read_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "pwned").exists()
    with contextlib.suppress(RuntimeError):
        torch.load(tmp_path / "a.pth", weights_only=False)  # shows that the trap works
    assert (tmp_path / "pwned").exists()


def test_objects_of_other_programs_are_refused(tmp_path):
    torch.save({**CONTENT, "args": types.SimpleNamespace(x=1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="nothing else is ever loaded"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("is_archive", [True, False])
def test_the_command_line_that_other_programs_keep_is_a_mapping(tmp_path, is_archive):
    line = argparse.Namespace(lr=0.1, sizes=[1, 2], resume=None, rates={"a": (1, 2)})
    content = {"model": {"a": torch.ones(2)}, "args": line}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=is_archive)
    found = read_checkpoint(tmp_path / "a.pth")
    assert found["args"] == vars(line) and found["model"]["a"].equal(torch.ones(2))


@pytest.mark.parametrize(
    "args",
    [
        [argparse.Namespace(lr=0.1)],  # where nobody looks for one
        argparse.Namespace(__setstate__=1),
        argparse.Namespace(inner=argparse.Namespace()),
        argparse.Namespace(kind=argparse.Namespace),
    ],
)
def test_other_uses_of_command_lines_are_refused(tmp_path, args):
    torch.save({"model": {"a": torch.ones(2)}, "args": args}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"cannot be read: it (is not a checkpoint of tensors|holds .*of type)"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("length", [0, 1, 10, 100, -30, -1])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, length, recwarn):
    save_checkpoint(tmp_path / "a.pth", CONTENT)
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:length])
    with pytest.raises(UserError, match=r"a\.pth cannot be read: it is ") as caught:
        read_checkpoint(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)
    assert not list(recwarn)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_files_of_other_programs_bring_no_warnings(tmp_path, protocol, recwarn):
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"a": 1}, protocol))
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "a.pth")
    assert not list(recwarn)


# ---- checksums ------------------------------------------------------------------------


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


# ---- numbers that are not finite -------------------------------------------------------


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_a_tensor_with_a_number_that_is_not_finite_is_not_written(tmp_path, number, dtype):
    save_checkpoint(tmp_path / "a.pth", CONTENT)
    before = (tmp_path / "a.pth").read_bytes()
    moments = [torch.zeros(2, 5000, dtype=dtype), torch.zeros(2, 5000, dtype=dtype)]
    moments[1][1, 777] = number
    with pytest.raises(UserError, match=r"a\.pth is not written, .*\(optimizer\.state\.3\.1 with 1 of 10,000 values\)"):
        save_checkpoint(tmp_path / "a.pth", {**CONTENT, "optimizer": {"state": {3: moments}}}, tmp_path / "b.pth")
    assert (tmp_path / "a.pth").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.pth"]


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"best": math.nan}, r"best = nan"),
        ({"log": [{"loss": (1.0, math.inf)}]}, r"log\.0\.loss\.1 = inf"),
        ({"a": complex(0, math.inf)}, r"a = infj"),
        ({"a": torch.tensor(math.nan)}, r"a with 1 of 1 values"),
        ({"a": torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn)}, r"a with 1 of 2 values"),
        ({"a": torch.tensor([[1.0, 2.0], [math.inf, 0.0]]).T}, r"a with 1 of 4 values"),
    ],
)
def test_numbers_that_are_not_finite_are_found_wherever_they_are(tmp_path, more, name):
    with pytest.raises(UserError, match=rf"\({name}\)"):
        save_checkpoint(tmp_path / "a.pth", {**CONTENT, **more})
    assert os.listdir(tmp_path) == []


def test_large_and_small_finite_numbers_are_written(tmp_path):
    largest = torch.finfo(torch.float32).max
    content = {**CONTENT, "a": torch.tensor([largest, largest, -largest]), "best": -1.0, "tiny": 5e-324}
    save_checkpoint(tmp_path / "a.pth", content)
    assert torch.equal(read_checkpoint(tmp_path / "a.pth")["a"], content["a"])


# ---- the checkpoint before -------------------------------------------------------------


def step(number: int) -> dict:
    return {"model": {"a": torch.full((3,), float(number))}, "step": number}


def test_the_checkpoint_before_is_kept(tmp_path):
    last, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    save_checkpoint(last, step(1), previous)
    assert os.listdir(tmp_path) == ["last.pth"]
    for number in (2, 3):
        save_checkpoint(last, step(number), previous)
        assert (read_checkpoint(last)["step"], read_checkpoint(previous)["step"]) == (number, number - 1)
        assert sorted(os.listdir(tmp_path)) == ["last.pth", "previous.pth"]


def test_a_refused_write_moves_nothing(tmp_path):
    last, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    for number in (1, 2):
        save_checkpoint(last, step(number), previous)
    with pytest.raises(UserError, match="not finite"):
        save_checkpoint(last, {**step(3), "best": math.nan}, previous)
    assert (read_checkpoint(last)["step"], read_checkpoint(previous)["step"]) == (2, 1)


@pytest.mark.promise("Atomic files")
@pytest.mark.parametrize("harm", ["missing", "cut off", "one bit", "empty"])
def test_the_newest_is_the_one_before_when_the_last_is_harmed(tmp_path, caplog, harm):
    last, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    for number in (1, 2):
        save_checkpoint(last, step(number), previous)
    with caplog.at_level(logging.WARNING):
        found = read_newest(last, previous)
    assert (found["step"], found["path"], caplog.messages) == (2, str(last), [])
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 4
    last.write_bytes({"cut off": data[: len(data) // 2], "one bit": data}.get(harm, b""))
    if harm == "missing":
        last.unlink()
    with caplog.at_level(logging.WARNING):
        found = read_newest(last, previous)
    assert (found["step"], found["path"], float(found["model"]["a"][0])) == (1, str(previous), 1.0)
    (message,) = caplog.messages
    assert f"{last} " in message and message.endswith(f"going back to step 1 in {previous}")


def test_without_a_whole_one_the_newest_is_an_error_of_the_last(tmp_path):
    last, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    with pytest.raises(UserError, match=r"last\.pth does not exist"):
        read_newest(last, previous)
    save_checkpoint(last, step(1))
    last.write_bytes(last.read_bytes()[:-1])
    previous.write_bytes(b"x")
    with pytest.raises(UserError, match=r"last\.pth cannot be read"):
        read_newest(last, previous)


# ---- SHA-256 ---------------------------------------------------------------------------


def test_a_sha256_does_not_depend_on_order_strides_or_type_of_mapping():
    number = torch.arange(6.0).reshape(2, 3)
    one = {"a": number, "b": [1, {"x": 2.0, 3: None}], "c": torch.ones(2, dtype=torch.bfloat16)}
    other = OrderedDict(
        [("c", torch.ones(4, dtype=torch.bfloat16)[::2]), ("b", [1, {3: None, "x": 2.0}]), ("a", number.T.clone().T)]
    )
    assert sha256_of(one) == sha256_of(other)
    assert len(sha256_of(one)) == 64


def test_every_difference_makes_another_sha256():
    different = [
        1,
        1.0,
        True,
        "1",
        b"1",
        None,
        0.0,
        -0.0,
        [],
        (),
        {},
        [1],
        (1,),
        [[1]],
        [1, 1],
        {1: 1},
        {"1": 1},
        {1: [1]},
        {1},
        torch.ones(1),
        torch.ones(1, dtype=torch.int64),
        torch.ones(1, dtype=torch.int32),
        torch.tensor(1.0),
        torch.zeros(1, dtype=torch.int32),
        torch.zeros(1, 1),
        torch.ones(1, 1),
        torch.ones(1, dtype=torch.bool),
        torch.ones(1, dtype=torch.bfloat16),
        torch.zeros(0),
        torch.ones(1, dtype=torch.float16),
        torch.zeros(0, 1),
        torch.tensor([-0.0]),
        torch.tensor([0.0]),
        ["ab", "c"],
        ["a", "bc"],
        ["a", ["b"]],
        [["a"], "b"],
        "ab",
        torch.float32,
        {"a": 1, "b": 2},
        {"a": 2, "b": 1},
    ]
    digests = [sha256_of(value) for value in different]
    assert len(set(digests)) == len(different)


def test_there_is_no_sha256_of_what_a_checkpoint_cannot_hold():
    with pytest.raises(TypeError, match="no SHA-256 of function"):
        sha256_of({"a": [lambda: None]})
