"""What no shape of a tensor tells is compared with what a checkpoint records, in evaluation and at a start."""

import logging

import pytest
from benchmark_data import REPOSITORY

from configs.loading import load_config
from configs.untold import UNTOLD, warn_of_other_settings
from models.clip.open_clip import settings_from_open_clip

MARS, CLIP = "configs/PS_cuhk_pedes.yaml", "configs/clip_cuhk_pedes.yaml"


def said(caplog, file: str, trained: dict | list[str], *settings: str) -> list[str]:
    """What is said of a checkpoint that was trained so, beside a configuration."""
    path = REPOSITORY / file
    saved = trained if isinstance(trained, dict) else load_config(path, trained).model_dump(mode="json")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        checkpoint = {"path": "run/best.pth", "config": saved}
        warn_of_other_settings(load_config(path, settings), checkpoint, UNTOLD, "is evaluated with")
    return caplog.messages


@pytest.mark.parametrize(
    ("file", "setting", "before"),
    [
        (MARS, "vision_heads=6", "12"),
        (MARS, "decoder_heads=4", "8"),
        (MARS, "bert_config.num_attention_heads=6", "12"),
        (MARS, "bert_config.fusion_layer=3", "6"),
        (CLIP, "clip.quick_gelu=false", "True"),
        (CLIP, "clip.vision_heads=16", "12"),
        (CLIP, "clip.text_heads=4", "8"),
    ],
)
def test_a_setting_that_no_shape_tells_is_said_where_it_differs(caplog, file, setting, before):
    key, value = setting.split("=")
    expected = f"checkpoint run/best.pth was trained with {key} {before}, and is evaluated with {value.capitalize()}"
    assert said(caplog, file, [], setting) == [expected]
    assert not said(caplog, file, [setting], setting)


def test_heads_are_compared_as_they_are_and_not_as_they_are_written(caplog):
    assert not said(caplog, CLIP, ["clip.vision_heads=12"])
    assert len(said(caplog, CLIP, ["clip.vision_heads=16"])) == 1


def test_an_encoder_without_heads_is_asked_for_none(caplog):
    assert not said(caplog, MARS, ["vision_heads=6"], "image_encoder=vim")


@pytest.mark.parametrize("recorded", [{}, {"bert_config": "bert.json", "clip": 3}, {"clip": {"vision_width": "wide"}}])
def test_what_is_not_recorded_is_not_compared(caplog, recorded):
    assert not said(caplog, MARS, recorded) and not said(caplog, CLIP, recorded)


def test_a_folder_of_open_clip_tells_its_activation(caplog):
    model = {"embed_dim": 512, "vision_cfg": {"layers": 12}, "text_cfg": {"layers": 12}}  # GELU, as LAION's
    found = settings_from_open_clip({"model_cfg": model}, "here")
    assert said(caplog, CLIP, found) == [
        "checkpoint run/best.pth was trained with clip.quick_gelu False, and is evaluated with True"
    ]
