"""Every configuration, and every recipe on every data set, trains and is evaluated by the driver.

With tiny networks on the tiny benchmark.
"""

import json

import pytest
from benchmark_data import REPOSITORY, TINY, data_settings
from in_process import call
from tiny_clip_files import CLIP_SETTINGS, WIDTH

import Retrieval
from configs.loading import load_config
from evaluation.studies.ablation_plan import all_runs, read_plan, trainings

FOLDER = REPOSITORY / "configs"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
# a recipe of another system goes on top of where a data set lies
RECIPES = sorted(
    f"recipes/{path.name}" for path in (FOLDER / "recipes").glob("*.yaml") if "system:" not in path.read_text()
)
ABLATIONS = sorted((FOLDER / "ablations").glob("*.yaml"))
DATA_SETS = [name for name in FILES if name.startswith("PS_")]


@pytest.mark.parametrize("names", [*FILES, *(f"{data} {recipe}" for data in DATA_SETS for recipe in RECIPES)])
def test_a_configuration_trains_and_is_evaluated(names, benchmark, tmp_path):
    config = [FOLDER / name for name in names.split()]
    tiny = {"mars": TINY, "rde": [*CLIP_SETTINGS, f"selection_width={WIDTH}"]}.get(
        load_config(config).system, CLIP_SETTINGS
    )
    settings = [*tiny, *data_settings(benchmark), "batch_size_train=8", "schedular.epochs=1", "max_steps=2"]
    ending = call(Retrieval.main, "--config", *config, "--output_dir", tmp_path / "run", "--set", *settings)
    assert ending.code == 0, ending.errors
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"r1", "r5", "r10", "mAP", "mINP"} <= metrics["stage1"].keys()


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.name)
def test_an_ablation_has_valid_settings(path, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    runs = all_runs(trainings(read_plan(path, [], None), tmp_path))
    assert len(runs) > 3
    for run in runs:
        assert run.made_with()["settings"]
