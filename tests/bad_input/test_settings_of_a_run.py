"""A run that is resumed or evaluated has its own settings, and is told from one with others."""

import shutil
from pathlib import Path

import pytest
import torch
from in_process import Ending, call
from refusals import DEMO, check_refusal
from ruamel.yaml import YAML

import Retrieval
from configs.loading import load_config
from utils.checkpoints.files import read_checkpoint, save_checkpoint


def resume(folder: Path, *more: str | Path) -> Ending:
    return call(Retrieval.main, "--device", "cpu", "--output_dir", folder, "--resume", *more)


def step_of(folder: Path) -> int:
    return read_checkpoint(folder / "checkpoint_last.pth")["step"]


def test_a_run_is_resumed_by_the_name_of_its_folder_alone(ground, run_folder):
    before = load_config(run_folder / "config.yaml")
    ending = resume(run_folder, "--set", "max_steps=3")
    assert ending.code == 0, ending.errors
    assert step_of(run_folder) == 3
    assert "settings are changed: max_steps 2 -> 3" in ending.errors
    assert load_config(run_folder / "config.yaml") == before.model_copy(update={"max_steps": 3})


def test_what_a_checkpoint_records_does_where_its_configuration_is_gone(ground, run_folder):
    (run_folder / "config.yaml").unlink()
    ending = resume(run_folder, "--set", "max_steps=3")
    assert ending.code == 0, ending.errors
    assert step_of(run_folder) == 3


def test_a_run_keeps_its_seed(ground):
    assert ground.retrieve("--seed", "7").code == 0
    ending = resume(ground.output, "--set", "max_steps=3")
    assert ending.code == 0, ending.errors
    assert read_checkpoint(ground.output / "checkpoint_last.pth")["seed"] == 7
    check_refusal(resume(ground.output, "--seed", "8"), "is of a run with --seed 7; leave out --seed", alone=False)


def test_settings_that_stay_are_not_told_as_changed(ground, run_folder):
    ending = resume(run_folder)
    assert ending.code == 0, ending.errors
    assert "settings are changed" not in ending.errors


@pytest.mark.parametrize("config", [DEMO, DEMO.with_name("PS_icfg_pedes.yaml")], ids=["demo", "data set"])
def test_a_configuration_of_another_run_is_told_from_its_own(ground, run_folder, config):
    ending = resume(run_folder, "--config", config, "--set", "workers=0")
    check_refusal(ending, "without --config, the run's own settings are taken", str(run_folder / "config.yaml"))
    assert step_of(run_folder) == 2


def test_a_configuration_of_another_model_is_told_from_its_own(ground, run_folder):
    own = run_folder / "config.yaml"
    part = f"the settings of its run, from {own}, are those of --resume without --config"
    ground.refuses("another embed_dim", part, arguments=("--resume",), settings=("embed_dim=8",))


def test_a_configuration_that_is_damaged_is_named(ground, run_folder):
    (run_folder / "config.yaml").write_text("epochs: [1")
    check_refusal(resume(run_folder), f"config {run_folder / 'config.yaml'}", "not valid YAML")


def test_a_checkpoint_is_evaluated_with_the_settings_of_its_run(ground, finished):
    checkpoint = finished / "checkpoint_best.pth"
    ending = call(Retrieval.main, "--evaluate", "--checkpoint", checkpoint, "--output_dir", ground.folder / "results")
    assert ending.code == 0, ending.errors
    moved = ground.folder / "moved.pth"
    shutil.copy(checkpoint, moved)
    ending = call(Retrieval.main, "--evaluate", "--checkpoint", moved, "--output_dir", ground.folder / "moved")
    assert ending.code == 0, ending.errors
    same = [(ground.folder / name / "metrics.json").read_text() for name in ("results", "moved")]
    assert same[0] == same[1] == (finished / "metrics.json").read_text()


def test_data_that_were_moved_are_named_in_the_settings_of_the_run(ground, run_folder):
    path = run_folder / "config.yaml"
    settings = YAML(typ="safe").load(path.read_text())
    with open(path, "w") as file:
        YAML(typ="safe").dump({**settings, "train_file": ["gone.json"]}, file)
    ending = resume(run_folder)
    check_refusal(ending, "train_file gone.json does not exist")
    assert "without --config" not in ending.errors


def test_a_checkpoint_that_records_nothing_is_resumed_with_the_configuration_named(ground, run_folder):
    last = run_folder / "checkpoint_last.pth"
    content = torch.load(last, weights_only=True)
    save_checkpoint(last, {name: value for name, value in content.items() if name != "config"})
    ending = ground.retrieve("--resume", settings=("max_steps=3",))
    assert ending.code == 0, ending.errors
