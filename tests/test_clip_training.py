"""Training of CLIP's family by the driver: it learns, resumes to the same bits, is verified, and divides its pairs."""

import json
from pathlib import Path

import pytest
import torch
from benchmark_data import data_settings
from in_process import Ending, call
from tiny_clip_files import CLIP_SETTINGS, WIDTH

import Retrieval

SYSTEMS = ("clip", "irra", "rde")
SHORT = ["schedular.epochs=2", "batch_size_train=8", "precision=fp32", "schedular.warmup_epochs=0", "optimizer.lr=1e-3"]


def settings_of(system: str, data: Path) -> list[str]:
    own = {"rde": [f"selection_width={WIDTH}"], "irra": ["cross_depth=1"], "clip": []}[system]
    return [*CLIP_SETTINGS, *SHORT, *own, *data_settings(data)]


def train(system: str, data: Path, folder: Path, *more: str, resume: bool = False) -> Ending:
    start = ["--resume"] if resume else ["--config", f"configs/{system}_cuhk_pedes.yaml"]
    given = settings_of(system, data) if not resume else []
    return call(Retrieval.main, *start, "--output_dir", folder, *(["--set", *given, *more] if given or more else []))


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint_last.pth", weights_only=True)["model"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_learns_and_leaves_what_all_runs_leave(benchmark, tmp_path, system):
    ending = train(system, benchmark, tmp_path / "run", "schedular.epochs=6")
    assert ending.code == 0, ending.errors
    losses = {"clip": {"itc"}, "irra": {"sdm", "mlm", "id"}, "rde": {"bge", "tse"}}[system]
    log = log_of(tmp_path / "run")
    assert losses | {"total"} == log[0]["train"].keys()
    assert log[-1]["train"]["total"] < log[0]["train"]["total"]
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.yaml", "checkpoint_best.pth", "metrics.json"} <= left
    again = call(Retrieval.main, "--verify", "--checkpoint", tmp_path / "run/checkpoint_best.pth")
    assert again.code == 0, again.errors


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_resumed_run_ends_with_the_same_bits(benchmark, tmp_path, system):
    assert train(system, benchmark, tmp_path / "whole").code == 0
    steps = log_of(tmp_path / "whole")[-1]["steps"]
    assert train(system, benchmark, tmp_path / "parts", f"max_steps={steps // 2 + 1}").code == 0
    resumed = call(Retrieval.main, "--resume", "--output_dir", tmp_path / "parts", "--set", "max_steps=null")
    assert resumed.code == 0, resumed.errors
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
