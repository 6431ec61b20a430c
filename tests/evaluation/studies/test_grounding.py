"""Pointing and energy by hand, what mentions are read, and the whole command on a benchmark with masks."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_data import data_settings
from in_process import call_here
from PIL import Image

from dataset.prepare import main as prepare
from dataset.synthetic.__main__ import main as synthetic
from evaluation.studies.caption_maps import CaptionMaps
from evaluation.studies.grounding import draw_captions, main
from evaluation.studies.mentions import Mention, Mentions, spans_of
from evaluation.studies.pointing import centre_prior, mean_of_others, measure, score, score_wordless
from utils.errors import UserError

# ---- by hand ---------------------------------------------------------------------------


def test_a_map_points_where_its_peak_is_and_its_energy_is_shared():
    heat = torch.tensor([[[1.0, 2.0], [0.0, 5.0]], [[4.0, 4.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
    inside = torch.tensor([[[False, True], [False, True]], [[True, False], [True, False]]])
    pointing, energy = score(heat, inside).unbind(-1)
    # the second map has two peaks, one in each mask; the third one is empty: it points nowhere
    assert pointing.tolist() == [[1, 0], [0.5, 0.5], [0, 0]]
    torch.testing.assert_close(energy, torch.tensor([[7 / 8, 1 / 8], [0.6, 0.4], [0, 0]], dtype=torch.float64))


def test_maps_that_read_no_word():
    inside = torch.zeros(1, 4, 4, dtype=torch.bool)
    inside[0, :2, 2:] = True  # the upper right quarter
    found = score_wordless(inside, (2, 2))
    assert found["random"].tolist() == [[0.25, 0.25]]
    torch.testing.assert_close(found["centre"], torch.full((1, 2), 0.25, dtype=torch.float64))  # one of four middles
    # of one patch of four in the mask; scaled up, its heat is 1, 3/4, 1/4 and 0 along each side, its peak one pixel
    assert found["mask on the grid"].tolist() == [[1.0, pytest.approx((1.75 / 2) ** 2)]]


def test_the_centre_prior_is_a_bell_in_shares_of_the_image():
    bell = centre_prior(8, 4)
    assert bell.amax() == bell[3, 1] == bell[4, 2]
    # a quarter of the height above the middle is one standard deviation: rows 1.5 and 2.5 of 8 lie around it
    assert (bell[1, 1] * bell[2, 1]).sqrt() / bell.amax() == pytest.approx(np.exp(-0.5 * 1.0), rel=0.05)


def test_controls_are_the_maps_of_other_attributes():
    scores = torch.arange(18.0).view(3, 3, 2)  # maps x masks x measures
    found = mean_of_others(scores, torch.tensor([5, 7, 5]))
    # on the masks of the first and third mention only the second's map is of another attribute
    assert found[0].tolist() == [6, 7]
    assert found[1].tolist() == [(2 + 14) / 2, (3 + 15) / 2]
    assert found[2].tolist() == [10, 11]
    assert mean_of_others(scores[:1, :1], torch.tensor([5])).isnan().all()


def test_mentions_are_found_in_the_cleaned_caption():
    text = "A T-Shirt, light-blue; and (!) shoes."
    cleaned = "a t shirt light blue and shoes"
    spans = spans_of(text, [Mention(5, 2, 9), Mention(5, 11, 21), Mention(7, 28, 29)])
    assert [[cleaned[start:end] for start, end in one] for one in spans] == [["t shirt"], ["light blue"], []]


def test_captions_are_drawn_once_each():
    assert draw_captions(5, None, 0) == draw_captions(5, 9, 0) == [0, 1, 2, 3, 4]
    drawn = draw_captions(100, 10, 1)
    assert drawn == sorted(set(drawn)) and len(drawn) == 10
    assert drawn == draw_captions(100, 10, 1) != draw_captions(100, 10, 2)


def caption_maps(attributes, present):
    return CaptionMaps(
        [], torch.zeros(3, 4), torch.zeros(4), torch.tensor(attributes), present, 0.0, [0.0] * len(present)
    )


def test_what_is_not_visible_or_cut_off_is_left_out_and_counted(tmp_path):
    label = np.zeros((4, 2), dtype=np.uint8)
    label[:2], label[2:] = 1, 7
    Image.fromarray(label).save(tmp_path / "mask.png")
    mentions = [Mention(1, 0, 1), Mention(7, 2, 3), Mention(9, 4, 5), Mention(1, 6, 7)]  # 9 is nowhere in the mask
    told = Mentions([3], [mentions], [tmp_path / "mask.png"], {1: "hair", 7: "lower", 9: "shoes"})
    upper, lower = [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]
    one = caption_maps([upper, [0.0] * 4, lower, upper], [True] * 4)
    other = caption_maps([lower, lower, lower, upper], [True, True, True, False])
    found = measure(told, {"one": [one], "other": [other]}, {"one": (2, 2), "other": (2, 2)})
    assert found.left_out == {"not visible": 1, "cut off": 1}
    assert found.nowhere == {"one": 1, "other": 0}
    assert found.attribute.tolist() == [1, 7] and found.caption.tolist() == [0, 0]
    assert found.scores["one"]["pointing"].tolist() == [1, 0]
    assert found.scores["other"]["pointing"].tolist() == [0, 1]
    assert found.scores["other, other attribute"]["pointing"].tolist() == [0, 1]
    assert found.scores["one, other attribute"]["energy"].tolist() == [0, pytest.approx(1 / 8)]


# ---- the command -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """The tiny benchmark with masks: the same images and captions."""
    root = tmp_path_factory.mktemp("grounding") / "data"
    call_here(synthetic, root, "--preset", "tiny", "--workers", "1")
    call_here(prepare, "CUHK-PEDES", root)
    return root


def arguments(tiny_run, root, output, *more):
    checkpoint = str(tiny_run / "checkpoint_last.pth")
    return ["--checkpoint", checkpoint, "--output_dir", str(output), "--set", *data_settings(root), *more]


def test_the_command_measures_models_beside_their_controls(tiny_run, masked, tmp_path, capsys):
    paths = [str(tiny_run / name) for name in ("checkpoint_last.pth", "checkpoint_best.pth")]
    settings = ["--set", *data_settings(masked), "max_words=75"]
    main(["--checkpoint", *paths, "--label", "one", "two", "--output_dir", str(tmp_path), *settings])
    content = json.loads((tmp_path / "grounding.json").read_text())
    overall = {row["map"]: row for row in content["rows"] if row["attribute"] == "all"}
    assert list(overall) == [
        "random",
        "centre",
        "mask on the grid",
        "one",
        "one, other attribute",
        "two",
        "two, other attribute",
    ]
    for row in content["rows"]:
        assert row["map"] == "random" or row["map"] in overall
        assert 0 <= row["pointing_low"] <= row["pointing"] <= row["pointing_high"] <= 100
    kinds = [row for row in content["rows"] if row["map"] == "random" and row["attribute"] != "all"]
    assert sum(row["mentions"] for row in kinds) == overall["random"]["mentions"] > 20
    assert overall["random"]["pointing"] == pytest.approx(overall["random"]["energy"])
    assert overall["random"]["energy"] == pytest.approx(known_share(masked, content), rel=1e-6)
    assert 0 < overall["two"]["pointing_p_first"] <= 1 and "pointing_p_first" not in overall["one"]
    with open(tmp_path / "grounding.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(content["rows"])
    with Image.open(tmp_path / "grounding.png") as picture:
        assert picture.width >= 900
    printed = capsys.readouterr().out
    assert "| random" in printed and "against the first one p = " in printed


def known_share(root: Path, content: dict) -> float:
    """The mean share of all masks in per cent, by another way."""
    assert content["left_out"] == {"not visible": 0, "cut off": 0}
    shares = []
    for identity in json.loads((root / "attributes.json").read_text())["identities"]:
        for image in identity["images"] if identity["split"] == "test" else ():
            with Image.open(root / "masks" / image["mask"]) as mask:
                values = np.array(mask)
            mentions = [mention["attribute"] for own in image["captions"] for mention in own["mentions"]]
            shares += [(values == attribute).mean() for attribute in mentions]
    return 100 * float(np.mean(shares))


def test_fewer_captions_and_the_other_target(tiny_run, masked, tmp_path):
    main([*arguments(tiny_run, masked, tmp_path), "--captions", "3", "--target", "attribute", "--layer", "1"])
    content = json.loads((tmp_path / "grounding.json").read_text())
    assert (content["captions"], content["target"], content["layers"]) == (3, "attribute", {"run": 1})


def test_every_layer_is_measured_as_a_model(tiny_run, masked, tmp_path):
    overall = {}
    for name, more in (("all", ["--every_layer"]), ("one", ["--layer", "1"])):
        main([*arguments(tiny_run, masked, tmp_path), "--captions", "4", "--target", "attribute", *more])
        content = json.loads((tmp_path / "grounding.json").read_text())
        overall[name] = {row["map"]: row["energy"] for row in content["rows"] if row["attribute"] == "all"}
        assert content["layers"] == {"all": {"layer 0": 0, "layer 1": 1}, "one": {"run": 1}}[name]
    assert overall["all"]["layer 1"] == overall["one"]["run"] != overall["all"]["layer 0"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--every_layer", "--layer", "0"], "give one of them"),
        (["--captions", "0"], "--captions must be 1 or more"),
        (["--layer", "1"], "layer 1 is the last one"),
        (["--split", "train"], "invalid choice"),
    ],
)
def test_impossible_options_are_refused(tiny_run, masked, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        main([*arguments(tiny_run, masked, tmp_path / "out"), *more])
    assert not (tmp_path / "out").exists()


def test_data_without_masks_say_how_to_make_some(tiny_run, benchmark, tmp_path):
    with pytest.raises(UserError, match="was made without masks; make one with"):
        main(arguments(tiny_run, benchmark, tmp_path))


def copy_of(masked: Path, folder: Path, change) -> Path:
    """The benchmark with another attributes.json, None = without it."""
    folder.mkdir()
    for name in ("imgs", "processed_data", "masks"):
        (folder / name).symlink_to(masked / name)
    content = change(json.loads((masked / "attributes.json").read_text()))
    if content is not None:
        (folder / "attributes.json").write_text(json.dumps(content))
    return folder


def without_images(content):
    return {**content, "identities": content["identities"][:1]}


def with_long_mentions(content):
    for identity in content["identities"]:
        for image in identity["images"]:
            for caption in image["captions"]:
                caption["mentions"] = [{"attribute": 1, "start": 0, "end": 9999}]
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: None, "only the synthetic benchmark knows the pixels of attributes"),
        (lambda content: [], "is not that of the images and captions beside it"),
        (without_images, "does not know image test/"),
        (with_long_mentions, "its mentions are not those of caption 0"),
    ],
)
def test_attribute_files_of_other_data_are_refused(tiny_run, masked, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        main(arguments(tiny_run, copy_of(masked, tmp_path / "data", change), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_mask_that_cannot_be_read_is_named(tiny_run, masked, tmp_path):
    root = copy_of(masked, tmp_path / "data", lambda content: content)
    (root / "masks").unlink()
    with pytest.raises(UserError, match=r"mask .*\.png cannot be read"):
        main(arguments(tiny_run, root, tmp_path / "out"))


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        main(["--checkpoint", str(tmp_path / "nowhere.pth")])
