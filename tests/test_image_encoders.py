"""Runs with a Vision Mamba: begun from two files, resumed, evaluated and verified as those with a ViT."""

import json
import sys

import pytest
import torch
from benchmark_data import TINY, data_settings, run
from harness import driver, finish, state_of

from models.image_encoder import VisionSize
from models.vision_mamba import VisionMamba
from utils.checkpoints.files import read_checkpoint

VIM = ["image_encoder=vim", "vision_depth=2"]
ONE_EPOCH = ["schedular.epochs=1"]


def retrieve(output, benchmark, *flags, settings=()):
    return run(
        sys.executable,
        "Retrieval.py",
        "--config",
        "configs/demo.yaml",
        "--output_dir",
        output,
        *flags,
        "--set",
        *TINY,
        *data_settings(benchmark),
        *settings,
    )


@pytest.fixture(scope="module")
def files(benchmark, tmp_path_factory):
    """A run with a ViT, and a file of a Vision Mamba for larger square images, with a classifier."""
    folder = tmp_path_factory.mktemp("files")
    retrieve(folder / "vit", benchmark, settings=ONE_EPOCH)
    torch.manual_seed(5)
    encoder = VisionMamba(VisionSize((32, 32), 8, 32, 2))
    torch.save({"model": {**encoder.state_dict(), "head.weight": torch.zeros(3, 32)}}, folder / "vim.pth")
    return folder


@pytest.fixture(scope="module")
def mamba(benchmark, files):
    """A run from both."""
    done = retrieve(
        files / "vim",
        benchmark,
        "--checkpoint",
        files / "vit" / "checkpoint_best.pth",
        "--vision_checkpoint",
        files / "vim.pth",
        settings=[*VIM, *ONE_EPOCH],
    )
    return files / "vim", done.stderr


def test_it_says_what_it_took_from_which_file(mamba, files):
    said = mamba[1]
    assert f"checkpoint {files}/vit/checkpoint_best.pth: " in said and "(comes from another file)" in said
    assert f"vision_checkpoint {files}/vim.pth: " in said and "resized: visual_encoder.pos_embed" in said
    assert "head.weight (classifier)" in said


def test_it_learned_and_kept_what_it_started_from(mamba, files):
    content = read_checkpoint(mamba[0] / "checkpoint_last.pth")
    start = torch.load(files / "vim.pth", weights_only=True)["model"]
    name = "layers.1.mixer.in_proj.weight"
    now, before = content["model"][f"visual_encoder.{name}"], start[name]
    assert 0 < (now - before).norm() < 0.5 * before.norm()
    assert content["config"]["vision_checkpoint"] == str(files / "vim.pth")
    assert content["config"]["checkpoint"] == str(files / "vit" / "checkpoint_best.pth")
    record = json.loads((mamba[0] / "log.txt").read_text())
    assert record["train"]["mae"] > 0


def test_its_trained_encoder_is_evaluated_and_not_the_one_it_started_from(mamba, benchmark, files, tmp_path):
    (files / "vim.pth").rename(files / "moved.pth")
    try:
        retrieve(
            tmp_path,
            benchmark,
            "--evaluate",
            "--checkpoint",
            mamba[0] / "checkpoint_best.pth",
            settings=[*VIM, f"vision_checkpoint={files}/vim.pth"],
        )
        assert (tmp_path / "metrics.json").read_text() == (mamba[0] / "metrics.json").read_text()
        run(sys.executable, "Retrieval.py", "--verify", "--checkpoint", mamba[0] / "checkpoint_best.pth")
    finally:
        (files / "moved.pth").rename(files / "vim.pth")


def test_both_files_may_stand_in_the_configuration(mamba, benchmark, files, tmp_path):
    where = [f"checkpoint={files}/vit/checkpoint_best.pth", f"vision_checkpoint={files}/vim.pth"]
    retrieve(tmp_path / "run", benchmark, settings=[*VIM, *ONE_EPOCH, *where])
    assert state_of(tmp_path / "run")["model"] == state_of(mamba[0])["model"]


@pytest.mark.parametrize("flag", ["--evaluate", "--resume", "--verify"])
def test_a_start_is_refused_where_nothing_starts(flag, tmp_path):
    done = run(
        sys.executable,
        "Retrieval.py",
        flag,
        "--checkpoint",
        "a.pth",
        "--vision_checkpoint",
        "b.pth",
        "--output_dir",
        tmp_path / "run",
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --vision_checkpoint is what a new run starts from; --checkpoint has the")


def test_an_interrupted_run_ends_with_the_bits_of_an_undisturbed_one(benchmark, tmp_path):
    settings = [*VIM, "drop_path=0.3", "gradient_checkpointing=true", "checkpoint_steps=1"]
    finish(driver(tmp_path / "one", benchmark, settings=[*settings, "max_steps=6"]), tmp_path / "a")
    for steps, flags in ((2, ()), (5, ("--resume",)), (6, ("--resume",))):
        command = driver(tmp_path / "other", benchmark, *flags, settings=[*settings, f"max_steps={steps}"])
        finish(command, tmp_path / "b")
    assert state_of(tmp_path / "one") == state_of(tmp_path / "other")
