"""A loss is a function and an entry: two more (tests/added_losses.py) train, are logged, drawn and resumed by name."""

import json
import sys

import pytest
import torch
from added_losses import ADDED
from benchmark_data import REPOSITORY, run
from harness import driver, finish

from configs.loading import load_config
from configs.schema import MarsConfig
from dataset.batch import SpecialTokens
from models.build import build_model
from models.objectives import LOSSES
from utils.checkpoints.files import read_checkpoint

SCRIPT = "tests/added_losses.py"
SETTINGS = [
    "max_steps=2",
    "hard_negatives_within=4",
    "weights.sdm=0.5",
    "bert_config.hidden_dropout_prob=0",
    "bert_config.attention_probs_dropout_prob=0",
    "workers=0",
]
YAML_FILES = sorted(
    path.name for path in (REPOSITORY / "configs").glob("*.yaml") if isinstance(load_config(path), MarsConfig)
)


@pytest.fixture
def added(monkeypatch):
    """The two in the table, for the time of a test."""
    for name, loss in ADDED.items():
        monkeypatch.setitem(LOSSES, name, loss)


@pytest.fixture(scope="module")
def runs(benchmark, tmp_path_factory):
    """A run of one process, and one of two."""
    folder = tmp_path_factory.mktemp("added")
    for processes in (1, 2):
        settings = [*SETTINGS, f"batch_size_train={8 // processes}"]
        finish(
            driver(folder / str(processes), benchmark, processes=processes, settings=settings, script=SCRIPT), folder
        )
    return folder


def log_of(folder) -> dict:
    return json.loads((folder / "log.txt").read_text().splitlines()[-1])


def test_two_added_losses_are_trained_by_their_weights_and_logged_by_their_names(runs, added):
    record = log_of(runs / "1")
    assert set(record["train"]) == {*LOSSES, "sdm", "hit", "total"}
    total = sum(load_config(runs / "1" / "config.yaml").weights[name] * record["train"][name] for name in LOSSES)
    assert record["train"]["total"] == pytest.approx(total, rel=1e-5)
    assert {"sdm", "hit"} <= record["curve"].keys()
    moved = read_checkpoint(runs / "1" / "checkpoint_last.pth")
    assert moved["config"]["weights"]["hit"] == 0.25 and "hit_head.weight" in moved["model"]


def test_two_processes_give_the_added_losses_of_one(runs):
    one, two = (log_of(runs / processes)["train"] for processes in ("1", "2"))
    assert one == pytest.approx(two, rel=1e-5)


def test_their_curves_are_drawn_by_name(runs, tmp_path):
    run(sys.executable, "-m", "evaluation", "curves", "--checkpoint", runs / "1", "--output_dir", tmp_path)
    assert {"train/sdm", "train/hit"} <= set((tmp_path / "curves.csv").read_text().splitlines()[0].split(","))


def test_a_run_with_them_resumes(runs, benchmark, tmp_path):
    settings = [*SETTINGS, "batch_size_train=8"]
    finish(driver(tmp_path, benchmark, processes=1, settings=[*settings, "max_steps=1"], script=SCRIPT), tmp_path)
    finish(driver(tmp_path, benchmark, "--resume", processes=1, settings=settings, script=SCRIPT), tmp_path)
    one, other = (read_checkpoint(folder / "checkpoint_last.pth")["model"] for folder in (tmp_path, runs / "1"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", YAML_FILES)
def test_every_file_and_list_of_weights_means_what_it_meant(name, added):
    weights = load_config(REPOSITORY / "configs" / name).weights
    assert weights["sdm"] == 0 and weights["hit"] in (0, 0.25)  # a list says 0 of what it does not name
    for value, expected in (([1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0, 0]), ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7])):
        found = load_config(REPOSITORY / "configs" / name, [f"weights={value}"]).weights
        assert list(found.values()) == [*expected, 0, 0]


def test_what_a_loss_needs_is_built_for_it_alone_and_learns_as_fast_as_its_entry_says(added):
    with_head, without = (
        build_model(load_config(REPOSITORY / "configs/demo.yaml", [f"weights.hit={weight}"]), SpecialTokens(0, 1, 2, 3))
        for weight in (1, 0)
    )
    assert {name for name in with_head.state_dict() if name not in without.state_dict()} == {
        "hit_head.weight",
        "hit_head.bias",
    }
    assert {"hit_head.weight", "prd_head.weight"} <= with_head.fast()
