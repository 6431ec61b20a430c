"""Every configuration, and every recipe on every data set, trains and is evaluated by the driver.

With tiny networks on the tiny benchmark.
"""

import json

import pytest
from benchmark_data import REPOSITORY, TINY, data_settings
from in_process import call

import Retrieval
from configs.loading import load_config
from configs.systems import SYSTEMS
from evaluation.studies.ablation_plan import all_runs, read_plan, trainings

FOLDER = REPOSITORY / "configs"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml") if SYSTEMS[load_config(path).system].start)
RECIPES = sorted(f"recipes/{path.name}" for path in (FOLDER / "recipes").glob("*.yaml"))
ABLATIONS = sorted((FOLDER / "ablations").glob("*.yaml"))
DATA_SETS = [name for name in FILES if name.startswith("PS_")]


@pytest.mark.parametrize("names", [*FILES, *(f"{data} {recipe}" for data in DATA_SETS for recipe in RECIPES)])
def test_a_configuration_trains_and_is_evaluated(names, benchmark, tmp_path):
    config = [FOLDER / name for name in names.split()]
    settings = [*TINY, *data_settings(benchmark), "schedular.epochs=1", "max_steps=2"]
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
