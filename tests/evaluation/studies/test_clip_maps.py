"""gradcam and grounding of dual encoders, alone and beside a MARS."""

import csv
import json
from pathlib import Path

import pytest
import torch
from benchmark_data import data_settings
from in_process import call_here
from PIL import Image
from tiny_clip_files import CLIP_SETTINGS, WIDTH, clip_files

from configs.loading import load_config
from dataset.prepare import main as prepare
from dataset.synthetic.__main__ import main as synthetic
from evaluation.studies.caption_maps import MapChoice, maps_on_images, read_caption
from evaluation.studies.gradcam import main as gradcam
from evaluation.studies.grounding import main as grounding
from evaluation.trained import TrainedModel
from utils.config import save_yaml
from utils.errors import UserError

FILES = {"clip": "ViT-B-16.pt", "irra": "IRRA.pth", "rde": "RDE.pth"}


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """The tiny benchmark with masks."""
    root = tmp_path_factory.mktemp("clip-maps") / "data"
    call_here(synthetic, root, "--preset", "tiny", "--workers", "1")
    call_here(prepare, "CUHK-PEDES", root)
    return root


@pytest.fixture(scope="module")
def checkpoints(masked, tmp_path_factory) -> dict[str, str]:
    """By system, each with its configuration beside it; bare: a CLIP that is read as an IRRA."""
    found = {}
    for name, file in {**FILES, "bare": FILES["clip"]}.items():
        folder, system = tmp_path_factory.mktemp(name), name.replace("bare", "irra")
        torch.save(clip_files()[file], folder / file)
        settings = [*CLIP_SETTINGS, *data_settings(masked), "precision=fp32"]
        settings += [f"selection_width={WIDTH}"] if name == "rde" else []
        settings += ["identities=5"] if name == "irra" else []
        save_yaml(folder / "config.yaml", load_config(f"configs/{system}_cuhk_pedes.yaml", settings))
        found[name] = str(folder / file)
    return found


def read(folder: Path) -> tuple[list[dict], dict]:
    with open(folder / "gradcam.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with Image.open(folder / "gradcam.png") as sheet:
        assert sheet.width > 600
    return rows, json.loads((folder / "gradcam.json").read_text())


def test_punctuation_belongs_to_no_word_and_attributes_are_found(checkpoints):
    trained = TrainedModel.open(Path(checkpoints["irra"]))
    text, image = "A red coat, (blue) jeans.", torch.randn(1, 3, 64, 32)
    spans = [[(2, 5), (6, 10)], [(11, 15), (16, 21)]]  # of "a red coat blue jeans"
    offsets = read_caption(trained, text).offsets
    assert offsets == [(0, 0), (0, 1), (2, 5), (6, 10), (0, 0), (0, 0), (11, 15), (0, 0), (16, 21), (0, 0), (0, 0)]
    one, alone = (
        maps_on_images(trained, image, [text], [spans], MapChoice("word", 0), with_words=with_words)[0]
        for with_words in (True, False)
    )
    torch.testing.assert_close(one.attributes[0], one.words[2:4].mean(0))
    torch.testing.assert_close(one.attributes[1], one.words[[6, 8]].mean(0))
    assert one.present == [True, True] and not one.words[[0, 4, 5, 7]].any()
    assert alone.words.shape == (0, 8) and torch.equal(alone.attributes, one.attributes)


@pytest.mark.parametrize("name", ["clip", "irra", "rde", "bare"])
def test_every_dual_encoder_is_drawn(checkpoints, tmp_path, name, capsys):
    arguments = ["--checkpoint", checkpoints[name], "--queries", "2", "--words", "--output_dir", str(tmp_path)]
    gradcam(arguments)
    rows, content = read(tmp_path)
    assert content["target"] == "similarity" and list(content["layers"].values()) == [1]
    whole = [row for row in rows if not row["attribute"]]
    assert len(whole) == 2 and len(rows) >= 6
    assert all(-1 < float(row["similarity"]) < 1 for row in rows) and "match_logit" not in rows[0]
    assert all(row["added_similarity"] for row in rows if row["attribute"])
    assert {(row["grid_rows"], row["grid_columns"]) for row in rows} == {("4", "2")}
    assert "| added to the cosine |" in capsys.readouterr().out


def test_masked_words_of_an_irra_and_a_mars_side_by_side(checkpoints, tiny_run, tmp_path, capsys, masked):
    both = [checkpoints["irra"], str(tiny_run / "checkpoint_last.pth")]
    gradcam(["--checkpoint", *both, "--label", "IRRA", "MARS", "--queries", "1", "--output_dir", str(tmp_path)])
    rows, content = read(tmp_path)
    assert content["target"] == "similarity and match" and content["layers"] == {"IRRA": 1, "MARS": 0}
    assert {row["model"]: bool(row["match_logit"]) for row in rows} == {"IRRA": False, "MARS": True}
    for row in rows:
        assert bool(row["similarity"]) != bool(row["match_logit"])
    assert "| match logit |" in capsys.readouterr().out
    gradcam(["--checkpoint", checkpoints["irra"], "--target", "word", "--queries", "1", "--output_dir", str(tmp_path)])
    rows, content = read(tmp_path)
    assert content["target"] == "word" and all(
        0 <= float(row["words_predicted"]) <= 1 for row in rows if row["attribute"]
    )


def test_an_irra_without_its_cross_modal_encoder_says_so(checkpoints, tmp_path):
    for name in ("bare", "clip", "rde"):
        with pytest.raises(UserError, match="maps of word are of an IRRA with its cross-modal encoder; this model has"):
            gradcam(["--checkpoint", checkpoints[name], "--target", "word", "--output_dir", str(tmp_path)])


def test_grounding_measures_both_families(checkpoints, tiny_run, masked, tmp_path):
    paths = [checkpoints["rde"], str(tiny_run / "checkpoint_last.pth")]
    arguments = ["--label", "RDE", "MARS", "--captions", "6", "--output_dir", str(tmp_path)]
    with pytest.raises(UserError, match="layer 1 is the last one"):
        grounding(["--checkpoint", *paths, *arguments, "--set", *data_settings(masked), "--layer", "1"])
    config = ["--checkpoint", checkpoints["rde"], checkpoints["irra"], "--label", "RDE", "IRRA"]
    grounding([*config, "--captions", "6", "--every_layer", "--output_dir", str(tmp_path)])
    content = json.loads((tmp_path / "grounding.json").read_text())
    names = [row["map"] for row in content["rows"] if row["attribute"] == "all"]
    assert names[3:] == [
        *("RDE, layer 1", "RDE, layer 1, other attribute"),
        *("IRRA, layer 1", "IRRA, layer 1, other attribute"),
    ]
    assert content["target"] == "similarity" and set(content["layers"].values()) == {1}
