"""Checkpoints are read as written, and nothing in them is ever run."""

import argparse
import contextlib
import logging
import math
import os
import pickle
import resource
import types
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from stored_content import CONTENT

from utils.checkpoints.files import read_checkpoint, read_newest, save_checkpoint, sha256_of
from utils.errors import UserError


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
    torch.save({"model": {"module.a": torch.ones(1), "module.b.module.c": torch.ones(1)}}, tmp_path / "a.pth")
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
