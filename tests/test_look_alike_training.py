"""Training on batches of people who look alike to the model, by the driver."""

import sys

import pytest
import torch
from benchmark_data import TINY, data_settings, run
from harness import state_of
from in_process import retrieve

from configs.systems.look_alikes import most_alike
from utils.checkpoints.files import read_checkpoint
from utils.checkpoints.run_folder import LAST

MINED = ["look_alikes=4", "hard_negatives_within=4", "optimizer.lr=1e-3"]


def test_most_alike_are_the_nearest_by_angle_about_the_mean():
    torch.manual_seed(0)
    clans = torch.randn(5, 16).repeat_interleave(4, 0)
    found = most_alike(3 + clans + 0.05 * torch.randn(20, 16), 3)
    assert found.dtype == torch.int32
    for person, others in enumerate(found.tolist()):
        assert sorted([person, *others]) == list(range(person // 4 * 4, person // 4 * 4 + 4))
    assert most_alike(clans, 50).shape == (20, 19)


@pytest.fixture(scope="module")
def whole(benchmark, tmp_path_factory):
    output = tmp_path_factory.mktemp("mined") / "run"
    retrieve(output, benchmark, settings=MINED)
    return output


def test_an_epoch_that_is_resumed_goes_on_with_its_look_alikes(whole, benchmark, tmp_path):
    output = tmp_path / "run"
    retrieve(output, benchmark, settings=[*MINED, "max_steps=6"])  # amid the second epoch of four steps
    stopped = read_checkpoint(output / LAST)
    assert stopped["next_iteration"] == 2 and stopped["look_alikes"].shape == (8, 7)
    (output / "metrics.json").unlink()
    retrieve(output, benchmark, "--resume", settings=[*MINED, "max_steps=null"])
    parts = ("model", "optimizer", "step")
    assert {part: state_of(output)[part] for part in parts} == {part: state_of(whole)[part] for part in parts}


def test_two_processes_find_the_look_alikes_of_one(whole, benchmark, tmp_path):
    run(
        *(
            sys.executable,
            "-m",
            "utils.processes.launch",
            "2",
            "Retrieval.py",
            "--config",
            "configs/demo_from_nothing.yaml",
        ),
        *("--output_dir", tmp_path / "two", "--set", *TINY, *data_settings(benchmark), *MINED, "batch_size_train=4"),
    )
    one, two = (read_checkpoint(folder / LAST) for folder in (whole, tmp_path / "two"))
    assert torch.equal(one["look_alikes"], two["look_alikes"])
    for name, value in one["model"].items():
        if not name.endswith(("key.bias", "qkv.bias")):
            torch.testing.assert_close(two["model"][name], value, rtol=1e-3, atol=2e-4, msg=name)
