"""Several processes compute what one does: real torchrun over gloo, the real driver."""

import json
import sys

import pytest
import torch
from benchmark_data import TINY, data_settings, run

from utils.checkpoints.files import read_checkpoint

# hard negatives among the same 4 samples, however many processes share the batch of 8
RUN = ["max_steps=5", "hard_negatives_within=4", "weak_pos_pair_probability=0.5", "mlm_distill_axis=positions"]


def train(output, benchmark, processes: int, *settings: str) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    run(
        sys.executable,
        *(launcher if processes > 1 else []),
        "Retrieval.py",
        "--config",
        "configs/demo_from_nothing.yaml",
        "--output_dir",
        output,
        "--set",
        *TINY,
        *data_settings(benchmark),
        *RUN,
        f"batch_size_train={8 // processes}",
        *settings,
        new=processes > 1,
    )


def without_key_bias(name: str, value: torch.Tensor) -> torch.Tensor:
    """A parameter without the part that moves at random.

    A bias of attention keys shifts all scores of a query alike: its gradient is 0 but for rounding, which Adam
    blows up to full steps.
    """
    if name.endswith("key.bias"):
        return value[:0]
    if name.endswith("qkv.bias"):
        query, _, values = value.chunk(3)
        return torch.cat([query, values])
    return value


@pytest.fixture(scope="module")
def runs(benchmark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for processes in (1, 2):
        train(folder / str(processes), benchmark, processes)
    return folder


def test_two_processes_give_the_same_losses(runs):
    one, two = (
        [json.loads(line)["train"] for line in (runs / n / "log.txt").read_text().splitlines()] for n in ("1", "2")
    )
    assert len(one) == len(two)
    for single, double in zip(one, two, strict=True):
        assert single == pytest.approx(double, rel=1e-5)


def test_two_processes_give_the_same_parameters_and_queues(runs):
    one, two = (read_checkpoint(runs / n / "checkpoint_last.pth")["model"] for n in ("1", "2"))
    start = read_checkpoint(runs / "1" / "checkpoint_last.pth")
    assert start["step"] == 5
    for name, value in one.items():
        ours, theirs = without_key_bias(name, two[name]), without_key_bias(name, value)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_two_processes_give_identical_metrics(runs):
    one, two = (json.loads((runs / n / "metrics.json").read_text()) for n in ("1", "2"))
    assert one == two


def test_evaluation_of_one_checkpoint_is_identical_for_one_and_two_processes(runs, benchmark, tmp_path):
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        run(
            sys.executable,
            *(launcher if processes > 1 else []),
            "Retrieval.py",
            "--evaluate",
            "--config",
            runs / "1" / "config.yaml",
            "--checkpoint",
            runs / "1" / "checkpoint_best.pth",
            "--output_dir",
            tmp_path / str(processes),
        )
    one, two = ((tmp_path / n / "metrics.json").read_text() for n in ("1", "2"))
    assert one == two
    logged = json.loads((runs / "1" / "metrics.json").read_text())
    assert json.loads(one) == logged
