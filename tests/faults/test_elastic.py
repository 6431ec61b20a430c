"""A run goes on with another number of processes as if nothing had happened."""

import pytest
import torch
from harness import driver, finish, start

from utils.checkpoints.files import read_checkpoint
from utils.checkpoints.run_folder import LAST

pytestmark = pytest.mark.promise("Elastic")

# dropout differs from process to process; negatives among 2 samples are the same however 8 samples are shared out
SETTINGS = [
    "bert_config.hidden_dropout_prob=0",
    "bert_config.attention_probs_dropout_prob=0",
    "hard_negatives_within=2",
    "optimizer.lr=1e-4",
]


def model_of(folder) -> dict[str, torch.Tensor]:
    content = read_checkpoint(folder / LAST)
    return {name: value.double() for name, value in content["model"].items()}


@pytest.fixture(scope="module")
def two_processes(benchmark, tmp_path_factory):
    """A run of two processes from its first step to its last."""
    folder = tmp_path_factory.mktemp("two")
    finish(driver(folder / "run", benchmark, settings=[*SETTINGS, "max_steps=9"]), folder)
    return folder / "run"


def test_from_two_processes_to_one_to_four(two_processes, benchmark, tmp_path, trials):
    trial = trials("2, then 1, then 4 processes", 1)
    elastic, said = tmp_path / "elastic", ""
    for processes, steps in ((2, 3), (1, 6), (4, 9)):
        resume = ["--resume"] if steps > 3 else []
        command = driver(elastic, benchmark, *resume, processes=processes, settings=[*SETTINGS, f"max_steps={steps}"])
        said += finish(command, tmp_path / str(processes)).said()
    assert "batch_size_train is now 8: 1 process, 8 samples of a step" in said
    assert "batch_size_train is now 2: 4 processes, 8 samples of a step" in said
    undisturbed, found = model_of(two_processes), model_of(elastic)
    squares = [
        (((found[name] - value) ** 2).sum(), (value**2).sum())
        for name, value in undisturbed.items()
        if name not in ("idx_queue", "queue_ptr")
    ]
    apart, size = (torch.stack(part).sum().sqrt() for part in zip(*squares, strict=True))
    trial.measure("parameters differ by", float(apart / size), "of their norm")
    assert apart <= 1e-6 * size
    for name in ("idx_queue", "queue_ptr"):  # the same samples in the same order
        assert found[name].equal(undisturbed[name])
    trial.survive()


def test_a_number_of_processes_that_cannot_share_a_step_is_refused(two_processes, benchmark, tmp_path):
    running = start(driver(two_processes, benchmark, "--resume", processes=3), tmp_path)
    assert running.wait() == 2
    assert "8 samples per step, which 3 processes with accumulate_steps 1 cannot share" in running.said()
