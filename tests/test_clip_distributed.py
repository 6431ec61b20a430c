"""Two processes train IRRA and RDE as one does: losses, parameters, the division of pairs; real driver, real gloo."""

import json
import sys

import pytest
import torch
from benchmark_data import data_settings, run
from tiny_clip_files import CLIP_SETTINGS, WIDTH

from utils.checkpoints.files import read_checkpoint

RUNS = {
    "irra": ["cross_depth=1"],
    "rde": [f"selection_width={WIDTH}", "batch_norm=batch", "noisy_rate=0.4", "accumulate_steps=2"],
}
SHORT = ["schedular.epochs=2", "schedular.warmup_epochs=0", "max_steps=5", "precision=fp32", "optimizer.lr=1e-3"]


@pytest.fixture(scope="module", params=RUNS)
def runs(request, benchmark, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        settings = [*CLIP_SETTINGS, *RUNS[request.param], *SHORT, *data_settings(benchmark)]
        run(
            sys.executable,
            *(launcher if processes > 1 else []),
            "Retrieval.py",
            "--config",
            f"configs/{request.param}_cuhk_pedes.yaml",
            "--output_dir",
            folder / str(processes),
            "--set",
            *settings,
            f"batch_size_train={8 // processes}",
            new=processes > 1,
        )
    return folder


def test_losses_are_the_same(runs):
    one, two = ([json.loads(line) for line in (runs / n / "log.txt").read_text().splitlines()] for n in ("1", "2"))
    assert len(one) == len(two)
    for single, double in zip(one, two, strict=True):
        assert single["train"] == pytest.approx(double["train"], rel=1e-4)
        assert single.get("division") == double.get("division")


def test_parameters_and_the_division_are_the_same(runs):
    one, two = (read_checkpoint(runs / n / "checkpoint_last.pth") for n in ("1", "2"))
    assert one["step"] == two["step"] >= 4
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    clean = one.get("clean_pairs")
    assert (clean is None) == (two.get("clean_pairs") is None)
    if clean is not None:
        assert torch.equal(clean, two["clean_pairs"])
        assert 0 < clean.float().mean() < 1


def test_metrics_are_the_same(runs):
    one, two = (json.loads((runs / n / "metrics.json").read_text()) for n in ("1", "2"))
    assert one == two
