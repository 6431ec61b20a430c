"""A checkpoint is checked against its own record, and every untruth is found."""

import json

import pytest
import torch
from in_process import call, call_here, retrieve

import Retrieval
from evaluation.verify import verify
from utils.checkpoints.files import read_checkpoint, save_checkpoint

pytestmark = pytest.mark.promise("What was saved is what scored")


@pytest.fixture(scope="module")
def trained(benchmark, tmp_path_factory):
    output = tmp_path_factory.mktemp("verified") / "run"
    retrieve(output, benchmark)
    return output


def verified(path):
    return call(lambda: verify(path, torch.device("cpu")))


@pytest.mark.parametrize("name", ["checkpoint_best.pth", "checkpoint_last.pth"])
def test_what_was_saved_is_what_scored(trained, name):
    done = call_here(Retrieval.main, "--verify", "--checkpoint", trained / name)
    for line in (
        "the checksum is right",
        "all values are finite",
        "the configuration is valid",
        "the data are those",
        "the metrics on the val split are those of its run",
    ):
        assert line in done.errors
    logged = [json.loads(line)["val"] for line in (trained / "log.txt").read_text().splitlines()]
    content = read_checkpoint(trained / name)
    assert content["metrics"]["val"] == logged[content["epoch"]]


def change_parameters(content):
    content["model"]["text_proj.weight"] = -content["model"]["text_proj.weight"]


def change_metrics(content):
    content["metrics"]["val"]["stage1"]["mAP"] += 1e-4


def change_form_of_metrics(content):
    content["metrics"] = {"val": {"stage1": 3}}


def change_split(content):
    content["metrics"] = {"all": content["metrics"]["val"]}


def change_skipped(content):
    content["skipped_images"] = 3


def change_data(content):
    content["data"] = {**content["data"], "val": "0" * 64}


def forget_data(content):
    del content["data"]


def change_config(content):
    content["config"] = {**content["config"], "max_word": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_parameters, "and its run had"),
        (change_metrics, "stage1 mAP is"),
        (change_form_of_metrics, "its metrics are not those of an evaluation"),
        (change_split, "its metrics are not those of an evaluation"),
        (change_skipped, "does not say on which data"),
        (change_data, "val_file"),
        (forget_data, "does not say on which data"),
        (change_config, "unknown key `max_word` (did you mean 'max_words'?)"),
    ],
)
def test_every_untruth_is_told(trained, tmp_path, change, message):
    content = read_checkpoint(trained / "checkpoint_best.pth")
    change(content)
    save_checkpoint(tmp_path / "changed.pth", content)
    done = verified(tmp_path / "changed.pth")
    assert done.code == 2
    assert message in done.errors.splitlines()[-1] and str(tmp_path / "changed.pth") in done.errors.splitlines()[-1]


def test_changed_images_are_noticed(trained, benchmark, tmp_path):
    # the fingerprint of the data holds sizes; metrics tell of the rest
    content = read_checkpoint(trained / "checkpoint_best.pth")
    content["config"] = {**content["config"], "val_file": str(benchmark / "processed_data" / "test.json")}
    save_checkpoint(tmp_path / "changed.pth", content)
    assert "are not those of its run" in verified(tmp_path / "changed.pth").errors
