"""`configs.yaml` of the published IRRA and RDE is read as our keys, every option of it."""

import logging
from typing import Any

import pytest
from benchmark_data import REPOSITORY
from documents import rows_of
from published_options import irra, rde

from configs.clip import RdeConfig
from configs.published_clip import PublishedOptions, WithoutEffect, is_published, translate
from utils.config import parse_yaml, validate

NONE = {"sdm": 0.0, "id": 0.0, "mlm": 0.0}
VIT_B16 = {"patch_size": 16, "vision_width": 768, "vision_depth": 12, "text_width": 512, "embedding": 512}
BOTH = {  # what both become
    "data": REPOSITORY / "configs/data/cuhk_pedes.yaml",
    "image_res": [384, 128],
    "stride_size": 16,
    "max_words": 77,
    "clip": VIT_B16,
    "temperature": 0.02,
    "batch_size_train": 64,
    "batch_size_test": 512,
    "workers": 8,
    "sampler": "random",
    "samples_per_identity": 4,
    "augmentation": {"flip": 0.5, "crop": 10, "erase": 0.5, "erased": "published"},
    "model_selection": "test",
    "optimizer": {
        "opt": "adam",
        "lr": 1e-5,
        "lr_factor": 5.0,
        "bias_lr_factor": 2.0,
        "weight_decay": 4e-5,
        "weight_decay_bias": 0.0,
        "betas": [0.9, 0.999],
        "momentum": 0.9,
        "eps": 1e-3,
    },
    "schedular": {
        "sched": "cosine",
        "epochs": 60,
        "min_lr": 0.0,
        "warmup_factor": 0.1,
        "warmup_epochs": 5,
        "milestones": [20, 50],
        "gamma": 0.1,
    },
}


def differs(options: dict[str, Any], published: dict[str, Any]) -> dict[str, Any]:
    """What of the translation is not that of the published run."""
    ours, before = translate(options, "here"), translate(published, "here")
    return {
        key: {name: value for name, value in ours[key].items() if value != before.get(key, {}).get(name)}
        if isinstance(ours[key], dict)
        else ours[key]
        for key in ours
        if ours[key] != before.get(key)
    }


def test_the_published_irra():
    weights = {"sdm": 1.0, "id": 1.0, "mlm": 1.0, "itc": 0.0, "cmpm": 0.0}
    assert translate(irra(), "here") == {**BOTH, "system": "irra", "weights": weights, "cross_depth": 4}


def test_the_published_rde():
    assert translate(rde(), "here") == {
        **BOTH,
        "system": "rde",
        "pair_loss": "TAL",
        "tau": 0.015,
        "margin": 0.1,
        "select_ratio": 0.3,
        "noisy_file": "./noiseindex/CUHK-PEDES_0.2.npy",
        "mixture": "loose",
        "augment_words": 0.2,
    }


@pytest.mark.parametrize(
    ("options", "ours"),
    [
        ({"img_size": [256, 64]}, {"image_res": [256, 64]}),
        ({"stride_size": 12}, {"stride_size": 12}),
        ({"text_length": 32}, {"max_words": 32}),
        ({"temperature": 0.07}, {"temperature": 0.07}),
        ({"cmt_depth": 2}, {"cross_depth": 2}),
        ({"loss_names": "sdm+mlm"}, {"weights": {"id": 0.0}}),
        ({"loss_names": " cmpm + itc", "MLM": False}, {"weights": {**NONE, "itc": 1.0, "cmpm": 1.0}}),
        ({"loss_names": "itc", "MLM": False, "id_loss_weight": 2.0}, {"weights": {**NONE, "itc": 1.0}}),
        ({"id_loss_weight": 0.5}, {"weights": {"id": 0.5}}),
        ({"mlm_loss_weight": 2}, {"weights": {"mlm": 2.0}}),
        ({"optimizer": "AdamW"}, {"optimizer": {"opt": "adamW", "eps": 1e-8}}),
        ({"lr": 3e-6}, {"optimizer": {"lr": 3e-6}}),
        ({"lr_factor": 10}, {"optimizer": {"lr_factor": 10.0}}),
        ({"bias_lr_factor": 1.0}, {"optimizer": {"bias_lr_factor": 1.0}}),
        ({"weight_decay": 0}, {"optimizer": {"weight_decay": 0.0}}),
        ({"weight_decay_bias": 4e-5}, {"optimizer": {"weight_decay_bias": 4e-5}}),
        ({"alpha": 0.8, "beta": 0.99}, {"optimizer": {"betas": [0.8, 0.99]}}),
        ({"momentum": 0.5}, {"optimizer": {"momentum": 0.5}}),
        ({"num_epoch": 30}, {"schedular": {"epochs": 30}}),
        ({"lrscheduler": "step"}, {"schedular": {"sched": "step"}}),
        ({"target_lr": 1e-7}, {"schedular": {"min_lr": 1e-7}}),
        ({"warmup_factor": 0.01}, {"schedular": {"warmup_factor": 0.01}}),
        ({"warmup_epochs": 0}, {"schedular": {"warmup_epochs": 0}}),
        ({"milestones": [10]}, {"schedular": {"milestones": [10]}}),
        ({"gamma": 0.5}, {"schedular": {"gamma": 0.5}}),
        ({"dataset_name": "RSTPReid"}, {"data": REPOSITORY / "configs/data/rstp_reid.yaml"}),
        ({"dataset_name": "ICFG-PEDES"}, {"data": REPOSITORY / "configs/data/icfg_pedes.yaml"}),
        ({"batch_size": 128}, {"batch_size_train": 128}),
        ({"test_batch_size": 64}, {"batch_size_test": 64}),
        ({"num_workers": 0}, {"workers": 0}),
        ({"sampler": "identity"}, {"sampler": "identity"}),
        ({"num_instance": 2}, {"samples_per_identity": 2}),
        ({"val_dataset": "val"}, {"model_selection": "val"}),
        ({"pretrain_choice": "ViT-B/32"}, {"clip": {"patch_size": 32}}),
        ({"pretrain_choice": "runs/CLIP.pt"}, {"checkpoint": "runs/CLIP.pt"}),
        ({"pretrain_choice": "/models/clip"}, {"checkpoint": "/models/clip"}),
        (dict.fromkeys(WithoutEffect.model_fields, "anything"), {}),
    ],
    ids=lambda value: "+".join(value)[:40],
)
def test_an_option_changes_its_key_alone(options, ours):
    assert differs(irra(**options), irra()) == ours


@pytest.mark.parametrize(
    ("options", "ours"),
    [
        ({"tau": 0.05}, {"tau": 0.05}),
        ({"margin": 0}, {"margin": 0.0}),
        ({"select_ratio": 0.5}, {"select_ratio": 0.5}),
        ({"txt_aug": False}, {"augment_words": 0.0}),
        ({"loss_names": "SDM+x+TRL"}, {"pair_loss": "TRL"}),  # by RDE's order, not by that of the parts
        ({"loss_names": "InfoNCE"}, {"pair_loss": "InfoNCE"}),
        ({"noisy_file": "other.npy"}, {"noisy_file": "other.npy"}),
        ({"noisy_file": ""}, {"noisy_rate": 0.2}),
        ({"noisy_rate": 0.0}, {"noisy_rate": 0.0}),  # the file is named in every run, and not read here
        ({"noisy_rate": 0.4}, {}),
        ({"noisy_rate": 0.5}, {"mixture": "tight"}),
        ({"dataset_name": "RSTPReid"}, {"mixture": "tight", "data": REPOSITORY / "configs/data/rstp_reid.yaml"}),
        ({"cmt_depth": 2, "MLM": True}, {}),
    ],
    ids=lambda value: "+".join(value)[:40],
)
def test_an_option_of_rde_changes_its_key_alone(options, ours):
    assert differs(rde(**options), rde()) == ours


@pytest.mark.parametrize(
    ("settings", "mixture"),
    [
        ({}, "loose"),
        ({"noisy_rate": 0.4}, "loose"),
        ({"noisy_rate": 0.41}, "tight"),
        ({"noisy_rate": 0.5, "mixture": "loose"}, "loose"),
        ({"mixture": "tight"}, "tight"),
    ],
)
def test_the_mixture_is_that_of_the_noise_unless_it_is_named(settings, mixture):
    assert RdeConfig(**settings).chosen_mixture == mixture


def test_sgd_has_no_eps():
    optimizer = translate(irra(optimizer="SGD"), "here")["optimizer"]
    assert (optimizer["opt"], "eps" in optimizer) == ("sgd", False)


def test_images_are_only_mirrored_without_augmentation():
    assert translate(irra(img_aug=False), "here")["augmentation"] == {"flip": 0.5, "crop": 0, "erase": 0.0}


def test_sizes_are_those_of_the_model_that_is_named():
    large = {"patch_size": 14, "vision_width": 1024, "vision_depth": 24, "text_width": 768, "embedding": 768}
    for name in ("ViT-L/14", "ViT-L/14@336px"):
        assert translate(irra(pretrain_choice=name), "here")["clip"] == large
    of_file = translate(irra(pretrain_choice="CLIP.pt"), "here")
    assert "clip" not in of_file
    assert "checkpoint" not in translate(irra(), "here")


@pytest.mark.parametrize("mark", [{"noisy_rate": 0.2}, {"tau": 0.1}, {"txt_aug": False}, {"select_ratio": 0.3}])
def test_one_option_of_rde_tells_that_it_is_rde(mark):
    assert translate({"loss_names": "TAL", "pretrain_choice": "ViT-B/16", **mark}, "here")["system"] == "rde"


def test_options_that_a_file_lacks_have_the_defaults_of_the_command_line():
    ours = translate({"loss_names": "sdm+id", "pretrain_choice": "ViT-B/16"}, "here")
    assert ours["batch_size_train"] == 128
    assert ours["augmentation"]["crop"] == 0
    assert ours["optimizer"] == BOTH["optimizer"]
    assert ours["schedular"] == BOTH["schedular"]


def test_keys_of_ours_are_not_published_options():
    assert is_published(irra())
    assert is_published(rde())
    assert not is_published({"system": "rde", "select_ratio": 0.3})
    assert not is_published({"loss_names": "TAL"})
    for path in (REPOSITORY / "configs").rglob("*.yaml"):
        assert not is_published(parse_yaml(path.read_text(), str(path)))


# keys that a configuration of RDE has so far
def test_keys_of_evaluation_fit_their_configuration():
    ours = translate(rde(), "here")
    names = ("system", "image_res", "stride_size", "max_words", "clip", "select_ratio", "batch_size_test", "workers")
    config = validate(RdeConfig, {name: ours[name] for name in names}, "here")
    assert config.size == RdeConfig().size


def test_what_is_read_differently_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        translate(irra(), "here")
        translate(rde(), "here")
        assert not caplog.messages
        translate(irra(eval_period=5), "here")
        translate(irra(loss_names="sdm+id"), "here")
    assert caplog.messages == [
        "here: eval_period 5 is read as 1: every epoch is evaluated",
        "here: MLM without mlm in loss_names masks no words here, and did in the published code",
    ]


def test_the_page_of_clip_has_every_option():
    named = [cell.split("`")[1::2] for _, cell, *_ in rows_of(REPOSITORY / "docs/clip.md")]
    names = [name for cell in named for name in cell]
    assert set(PublishedOptions.model_fields) <= set(names)
