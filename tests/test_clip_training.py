"""Training of CLIP's family by the driver: it learns, resumes to the same bits, is verified, and divides its pairs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_data import data_settings
from harness import finish, start, state_of
from in_process import Ending, call
from tiny_clip_files import CLIP_SETTINGS, WIDTH

import Retrieval
from utils.checkpoints.files import read_checkpoint, save_checkpoint
from utils.checkpoints.run_folder import LAST

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


@pytest.mark.parametrize("system", ["irra", "rde"])
def test_a_killed_run_ends_with_the_same_state(benchmark, tmp_path, system):
    settings = [*settings_of(system, benchmark), "checkpoint_steps=2", "noisy_rate=0.3", "augment_words=0.2"]
    command = [sys.executable, "Retrieval.py", "--config", f"configs/{system}_cuhk_pedes.yaml", "--output_dir"]
    finish([*command, tmp_path / "whole", "--set", *settings], tmp_path)
    killed = start([*command, tmp_path / "killed", "--set", *settings], tmp_path / "first")
    killed.wait_until(lambda: (tmp_path / "killed" / LAST).exists())
    killed.kill()
    resume = [sys.executable, "Retrieval.py", "--resume", "--output_dir", tmp_path / "killed"]
    finish(resume, tmp_path / "second")
    assert state_of(tmp_path / "killed") == state_of(tmp_path / "whole")


def test_noisy_pairs_are_divided_and_the_log_says_how_well(benchmark, tmp_path):
    settings = ["schedular.epochs=4", "noisy_rate=0.4", "mixture=tight"]
    ending = train("rde", benchmark, tmp_path / "run", *settings)
    assert ending.code == 0, ending.errors
    divisions = [entry["division"] for entry in log_of(tmp_path / "run")]
    assert all(division.keys() == {"clean", "noisy_right", "noisy_found"} for division in divisions)
    saved = torch.load(tmp_path / "run/checkpoint_last.pth", weights_only=True)["clean_pairs"]
    assert divisions[-1]["clean"] == pytest.approx(saved.double().mean().item())
    permutation = np.load(tmp_path / "run/noisy_pairs.npy")
    noisy = permutation != np.arange(len(permutation))
    assert divisions[-1]["noisy_right"] == pytest.approx(noisy[~saved.numpy()].mean())
    assert divisions[-1]["noisy_found"] == pytest.approx((~saved.numpy())[noisy].mean())


def test_a_division_of_other_data_is_refused(benchmark, tmp_path):
    assert train("rde", benchmark, tmp_path / "run", "max_steps=1").code == 0
    file = tmp_path / "run" / LAST
    content = read_checkpoint(file)
    for wrong in (torch.ones(3, dtype=torch.bool), content["clean_pairs"].float()):
        save_checkpoint(file, {**content, "clean_pairs": wrong})
        resumed = call(Retrieval.main, "--resume", "--output_dir", tmp_path / "run", "--set", "max_steps=null")
        assert resumed.code == 2 and "its division of clean and noisy pairs" in resumed.errors.splitlines()[-1]


def test_a_look_at_a_run_writes_nothing(benchmark, tmp_path):
    for system in SYSTEMS:
        given = ["--config", f"configs/{system}_cuhk_pedes.yaml", "--output_dir", tmp_path / "run", "--dry_run"]
        ending = call(Retrieval.main, *given, "--set", *settings_of(system, benchmark))
        assert ending.code == 0, ending.errors
        assert "[8, 3, 64, 32]" in ending.output and "GiB" in ending.output
    assert not (tmp_path / "run").exists()


def test_a_loss_without_weight_is_not_computed(benchmark, tmp_path):
    for system, weight, left in (("rde", "weights.tse=0", {"bge"}), ("irra", "weights.mlm=0", {"sdm", "id"})):
        ending = train(system, benchmark, tmp_path / system, weight, "max_steps=2")
        assert ending.code == 0, ending.errors
        assert log_of(tmp_path / system)[0]["train"].keys() == left | {"total"}
    assert not any(name.startswith("mlm_head.") for name in weights_of(tmp_path / "irra"))


def test_blocks_may_be_compiled(benchmark, tmp_path):
    ending = train("irra", benchmark, tmp_path / "run", "compile=layers", "max_steps=2")
    assert ending.code == 0, ending.errors
    refused = train("irra", benchmark, tmp_path / "step", "compile=step")
    assert refused.code == 2 and "compiles its layers alone" in refused.errors.splitlines()[-1]


def test_fewer_identities_than_the_data_have_are_refused(benchmark, tmp_path):
    ending = train("irra", benchmark, tmp_path / "run", "identities=1")
    assert ending.code == 2 and "`identities` 1 is less than the" in ending.errors.splitlines()[-1]
