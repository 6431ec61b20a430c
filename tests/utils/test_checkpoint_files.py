"""Checkpoints are read as written, and nothing in them is ever run."""

import argparse
import contextlib
import os
import pickle
import resource

import pytest
import torch

from utils.checkpoint import read_checkpoint, save_checkpoint
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


def test_a_failure_while_saving_leaves_the_old_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "a.pth", CONTENT)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        save_checkpoint(tmp_path / "a.pth", {"model": CONTENT["model"], "bad": lambda: None})
    assert read_checkpoint(tmp_path / "a.pth")["step"] == 7
    assert os.listdir(tmp_path) == ["a.pth"]


def test_a_full_disk_is_told_and_leaves_the_old_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "a.pth", CONTENT)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # no file may grow beyond
    try:
        with pytest.raises(UserError, match=r"cannot write .*a\.pth"):
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
    torch.save({**CONTENT, "args": argparse.Namespace(x=1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="nothing else is ever loaded"):
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
