"""The study of open galleries on a tiny model: what it leaves, on which split, and with which calibration."""

import json

import pytest
import torch
from PIL import Image

from evaluation.calibration import calibration_beside, write_calibration
from evaluation.studies import open_set
from evaluation.studies.open_searches import calibration_for, fit_calibration, half_of
from evaluation.trained import TrainedModel
from utils.errors import UserError

KEYS = ("auroc", "tpir_0.01", "fpir_0.01", "tpir_0.1", "fpir_0.1", "r1", "ece", "ece_others")


def test_half_of_the_captions_lose_their_person_by_the_seed():
    absent = half_of(9, seed=3)
    assert absent.dtype == torch.bool and int(absent.sum()) == 4
    assert torch.equal(absent, half_of(9, seed=3)) and not torch.equal(absent, half_of(9, seed=4))


@pytest.fixture(scope="module")
def studied(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("open_set")
    checkpoints = [str(tiny_run / f"checkpoint_{name}.pth") for name in ("best", "last")]
    open_set.main(["--checkpoint", *checkpoints, "--label", "one", "two", "--output_dir", str(folder)])
    return folder


def test_every_model_and_stage_has_all_figures_with_intervals(studied, tiny_run):
    found = json.loads((studied / "open_set.json").read_text())
    rows = found["rows"]
    stages = ("stage1", "reranked")
    assert [(row["model"], row["stage"]) for row in rows] == [(m, s) for m in ("one", "two") for s in stages]
    split = TrainedModel.open(tiny_run / "checkpoint_best.pth").open_split("test")
    assert (found["split"], found["images"], found["absent"]) == ("test", len(split.images), len(split.texts) // 2)
    for row in rows:
        assert row["captions"] == len(split.texts)
        for key in (*KEYS, *(("ece_raw",) if row["stage"] == "reranked" else ())):
            assert 0 <= row[f"{key}_low"] <= row[f"{key}_high"] <= 100 and 0 <= row[key] <= 100, key
    assert (
        (studied / "open_set.csv").read_text().startswith("model,stage,captions,auroc,auroc_low,auroc_high,tpir_0.01")
    )
    with Image.open(studied / "open_set.png") as picture:
        assert picture.width > 1000


def test_a_model_without_a_calibration_has_one_of_its_validation_people(studied, tiny_run):
    found = json.loads((studied / "open_set.json").read_text())
    trained = TrainedModel.open(tiny_run / "checkpoint_best.pth")
    fitted = fit_calibration(trained, trained.open_split("val"))
    assert found["calibrations"]["one"] == json.loads(fitted.model_dump_json())
    assert found["calibration_of_checkpoint"] == {"one": False, "two": False}
    assert not calibration_beside(trained.checkpoint).exists()


def test_that_of_a_checkpoint_is_what_is_measured(tiny_run, tmp_path):
    copy = tmp_path / "copy.pth"
    copy.write_bytes((tiny_run / "checkpoint_best.pth").read_bytes())
    fitted, own = calibration_for(TrainedModel.open(copy))
    assert not own
    write_calibration(copy, fitted)
    assert calibration_for(TrainedModel.open(copy, overrides=["val_file=null"])) == (fitted, True)
    write_calibration(copy, fitted.model_copy(update={"stages": {"stage1": fitted.stages["stage1"]}}))
    assert calibration_for(TrainedModel.open(copy, overrides=["k_test=0"]))[1]
    assert calibration_for(TrainedModel.open(copy)) == (fitted, False)  # it says nothing of re-ranked scores


def test_bad_input_is_one_line(tiny_run, tmp_path):
    best = ["--checkpoint", str(tiny_run / "checkpoint_best.pth"), "--output_dir", str(tmp_path)]
    with pytest.raises(UserError, match="key `val_file` is not set"):
        open_set.main([*best, "--set", "val_file=null"])
    with pytest.raises(UserError, match="unrecognized arguments: --split val"):
        open_set.main([*best, "--split", "val"])
    assert not list(tmp_path.iterdir())
