"""A calibration stays with its model: beside a checkpoint, within one, and in what is exported."""

import json

import pytest
import torch
from in_process import call_here
from known_scores import KNOWN, calibrated_copy

from evaluation.calibration import calibration_beside, read_calibration, write_calibration
from evaluation.studies import calibrate
from evaluation.trained import TrainedModel
from search.__main__ import main
from search.encoder import Encoder
from search.export import export
from utils.checkpoints.exported import read_trained
from utils.errors import UserError


@pytest.fixture
def calibrated(trained, tmp_path):
    """A copy of the checkpoint with a calibration beside it."""
    return calibrated_copy(trained, tmp_path / "checkpoint.pth")


def known_to(source):
    found = Encoder.open(source).trained.calibration
    return None if found is None else found.model_copy(update={"model": None})


def test_a_calibration_goes_with_its_checkpoint_into_exports(calibrated, tmp_path):
    assert known_to(calibrated) == KNOWN
    encoder = Encoder.open(calibrated)
    for flags in ((), ("--bf16",)):
        file = tmp_path / f"model{len(flags)}.safetensors"
        call_here(main, "export", file, "--checkpoint", calibrated, *flags)
        assert known_to(file) == KNOWN and not calibration_beside(file).exists()
        call_here(main, "export", tmp_path / f"again{len(flags)}.safetensors", "--checkpoint", file)
        assert known_to(tmp_path / f"again{len(flags)}.safetensors") == KNOWN
    assert "calibration.json" in export(encoder, tmp_path / "folder", None, with_onnx=False)
    assert known_to(tmp_path / "folder") == KNOWN
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "So are phrases that describe people, of 1 category, on 4 drawn ones." in card
    assert "Calibrated on validation people (stage 1: 8 captions of 4 people, 16 images; re-ranked: " in card


def test_without_a_calibration_exports_are_what_they_were(encoder, tmp_path):
    names = export(encoder, tmp_path / "folder", None, with_onnx=False)
    assert names == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert known_to(tmp_path / "folder") is None and "calibration" not in read_trained(tmp_path / "folder")
    assert "Not calibrated" in (tmp_path / "folder" / "README.md").read_text()


def test_a_calibration_within_a_checkpoint_is_found(trained, tmp_path):
    content = torch.load(trained, weights_only=True)
    content.pop("format")
    torch.save({**content, "calibration": KNOWN.model_dump(mode="json")}, tmp_path / "own.pth")
    assert known_to(tmp_path / "own.pth") == KNOWN


def test_a_calibration_of_weights_that_were_there_before_is_not_used(calibrated, caplog):
    write_calibration(calibrated, KNOWN.model_copy(update={"model": "0" * 64}))
    assert known_to(calibrated) is None
    assert "is of other weights than" in caplog.text


@pytest.mark.parametrize("damage", ["{", "[]", '{"stages": {"stage1": {}}}'])
def test_damaged_calibrations_are_told_in_one_line(calibrated, encoder, tmp_path, damage):
    calibration_beside(calibrated).write_text(damage)
    with pytest.raises(UserError, match=r"calibration.json") as told:
        known_to(calibrated)
    assert "\n" not in str(told.value)
    export(encoder, tmp_path / "folder", None, with_onnx=False)
    (tmp_path / "folder" / "calibration.json").write_text(damage)
    with pytest.raises(UserError, match=r"calibration") as told:
        known_to(tmp_path / "folder")
    assert "\n" not in str(told.value)


def test_a_command_calibrates_a_checkpoint_without_touching_it(trained, tmp_path):
    copy = tmp_path / "checkpoint.pth"
    copy.write_bytes(trained.read_bytes())
    before = copy.stat()
    options = ["--config", str(trained.parent / "config.yaml"), "--output_dir", str(tmp_path / "studies")]
    calibrate.main(["--checkpoint", str(copy), *options])
    after = copy.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    found = TrainedModel.open(copy).calibration
    assert found == read_calibration(calibration_beside(copy), "it") and set(found.stages) == {"stage1", "reranked"}
    record = json.loads((tmp_path / "studies" / "calibrate.json").read_text())
    assert record["split"] == "val" and record["calibration"]["stages"].keys() == found.stages.keys()
    split = TrainedModel.open(trained).open_split("val")
    assert (found.stages["stage1"].images, found.stages["stage1"].captions) == (len(split.images), len(split.texts))
