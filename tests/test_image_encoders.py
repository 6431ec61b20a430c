"""Runs with a Vision Mamba: begun from two files, resumed, evaluated and verified as those with a ViT."""

import json

import pytest
import torch
from benchmark_data import TINY, data_settings
from harness import LIVELY, driver, finish, state_of
from in_process import call, call_here, retrieve

import Retrieval
from models.image_encoder import VisionSize
from models.vision_mamba import VisionMamba
from search.__main__ import main as search
from utils.checkpoints.files import read_checkpoint

VIM = ["image_encoder=vim", "vision_depth=2"]
ONE_EPOCH = ["schedular.epochs=1"]


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
    return files / "vim", done.errors


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
        call_here(Retrieval.main, "--verify", "--checkpoint", mamba[0] / "checkpoint_best.pth")
    finally:
        (files / "moved.pth").rename(files / "vim.pth")


def test_both_files_may_stand_in_the_configuration(mamba, benchmark, files, tmp_path):
    where = [f"checkpoint={files}/vit/checkpoint_best.pth", f"vision_checkpoint={files}/vim.pth"]
    retrieve(tmp_path / "run", benchmark, settings=[*VIM, *ONE_EPOCH, *where])
    assert state_of(tmp_path / "run")["model"] == state_of(mamba[0])["model"]


@pytest.mark.parametrize("flag", ["--evaluate", "--resume", "--verify"])
def test_a_start_is_refused_where_nothing_starts(flag, tmp_path):
    files = ["--checkpoint", "a.pth", "--vision_checkpoint", "b.pth"]
    done = call(Retrieval.main, flag, *files, "--output_dir", tmp_path / "run")
    assert done.code == 2
    assert done.errors.startswith("error: --vision_checkpoint is what a new run starts from; --checkpoint has the")


def test_an_interrupted_run_ends_with_the_bits_of_an_undisturbed_one(benchmark, tmp_path):
    settings = [*LIVELY, *VIM, "drop_path=0.3", "gradient_checkpointing=true", "checkpoint_steps=1"]
    retrieve(tmp_path / "one", benchmark, settings=[*settings, "max_steps=6"])
    for steps, flags in ((2, ()), (5, ("--resume",)), (6, ("--resume",))):
        retrieve(tmp_path / "other", benchmark, *flags, settings=[*settings, f"max_steps={steps}"])
    assert state_of(tmp_path / "one") == state_of(tmp_path / "other")


# ---- a model of timm -------------------------------------------------------------------

NAME = "timm:vit_tiny_patch16_224"
SIZES = ["vision_width=192", "vision_depth=12", "patch_size=16", "bert_config.encoder_width=192"]  # in place of TINY's
OF_TIMM = [f"image_encoder={NAME}", "image_res=[64,32]", *SIZES]


@pytest.fixture(scope="module")
def timm_run(benchmark, tmp_path_factory):
    """Two steps with all losses on two processes, the second one after a pause."""
    folder = tmp_path_factory.mktemp("timm")
    for steps, flags in ((1, ()), (2, ("--resume",))):
        settings = [*OF_TIMM, "drop_path=0.2", f"max_steps={steps}"]
        finish(driver(folder / "run", benchmark, *flags, settings=settings), folder)
    return folder / "run"


def test_a_model_of_timm_trains_with_all_losses_on_two_processes_and_resumes(timm_run, benchmark, tmp_path):
    content = read_checkpoint(timm_run / "checkpoint_last.pth")
    assert content["step"] == 2 and all(weight > 0 for weight in content["config"]["weights"].values())
    assert any(name.startswith("visual_encoder.trunk.blocks.11.") for name in content["model"])
    settings = [*OF_TIMM, "drop_path=0.2", "max_steps=2"]
    finish(driver(tmp_path / "whole", benchmark, settings=settings), tmp_path)
    assert state_of(tmp_path / "whole")["model"] == state_of(timm_run)["model"]


def test_a_model_of_timm_is_evaluated_again_with_the_same_metrics(timm_run, benchmark, tmp_path):
    command = ["--evaluate", "--checkpoint", str(timm_run / "checkpoint_best.pth")]
    finish(driver(tmp_path / "again", benchmark, *command, settings=OF_TIMM), tmp_path)
    assert (tmp_path / "again" / "metrics.json").read_text() == (timm_run / "metrics.json").read_text()


def test_a_model_of_timm_is_searched_with(timm_run, benchmark, tmp_path):
    gallery, checkpoint = tmp_path / "gallery", timm_run / "checkpoint_best.pth"
    call_here(search, "index", benchmark / "imgs" / "test", "--gallery", gallery, "--checkpoint", checkpoint)
    done = call_here(search, "query", "a man in a red coat", "--gallery", gallery, "--top", "3", "--json")
    assert [hit["rank"] for hit in json.loads(done.output)["hits"]] == [1, 2, 3]


def test_the_sizes_of_a_dry_run_follow_from_the_name(benchmark, tmp_path):
    own = [setting for setting in TINY if not setting.startswith(("vision_", "patch_size", "image_res"))]
    own = [setting for setting in own if not setting.startswith("bert_config.encoder_width")]
    settings = [*own, *data_settings(benchmark), f"image_encoder={NAME}", "image_res=[64,32]"]
    flags = ["--config", "configs/PS_cuhk_pedes.yaml", "--dry_run", "--output_dir", tmp_path / "run"]
    done = call_here(Retrieval.main, *flags, "--set", *settings)
    lines = dict(line.split(maxsplit=1) for line in done.output.splitlines() if "parameters" in line)
    assert lines["visual_encoder"].startswith("5,")  # ViT-Ti has 5.5 million of them
    assert "[8, 3, 64, 32]" in done.output
