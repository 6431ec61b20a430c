"""Exactly the asked part of an image is removed, the same every time, and no image is touched at 0."""

import json
import pickle
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.studies.occluders import KINDS, Occluder
from evaluation.studies.occlusion import EXAMPLE, example_strip, main
from models.image_encoder import CLIP_STATISTICS
from utils.errors import UserError

HEIGHT, WIDTH, PATCH = 32, 16, 8
MEAN = CLIP_STATISTICS.mean


def mask_of(kind, fraction, place=0, seed=0, size=(HEIGHT, WIDTH)):
    """[H, W] True = removed."""
    mask = np.zeros(size[0] * size[1], dtype=bool)
    mask[Occluder(kind, fraction, PATCH, MEAN, seed).removed(*size, place)] = True
    return mask.reshape(size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 16), (30, 13)])  # also where patches do not fill the image
def test_exactly_the_asked_part_is_removed(kind, size):
    for fraction in (0, 0.1, 0.25, 1 / 3, 0.7, 1):
        assert mask_of(kind, fraction, size=size).sum() == round(fraction * size[0] * size[1])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_removed_grows_and_is_the_same_every_time(kind):
    fractions = [0.1, 0.3, 0.31, 0.8]
    for smaller, larger in pairwise(fractions):
        assert mask_of(kind, larger, place=5)[mask_of(kind, smaller, place=5)].all()
    again = Occluder(kind, 0.3, PATCH, MEAN)
    assert pickle.dumps(again)  # loader processes get it so
    assert np.array_equal(again.removed(HEIGHT, WIDTH, 5), Occluder(kind, 0.3, PATCH, MEAN).removed(HEIGHT, WIDTH, 5))


@pytest.mark.parametrize("kind", ["patches", "bar"])
def test_images_and_seeds_lose_different_parts(kind):
    assert len({mask_of(kind, 0.3, place).tobytes() for place in range(20)}) > 5
    assert len({mask_of(kind, 0.3, seed=seed).tobytes() for seed in range(20)}) > 5


def test_lower_takes_whole_rows_from_the_bottom_and_a_part_of_the_next():
    mask = mask_of("lower", (3 * WIDTH + 5) / (HEIGHT * WIDTH))
    assert mask[-3:].all()
    assert mask[-4].tolist() == [True] * 5 + [False] * (WIDTH - 5)
    assert not mask[:-4].any()


def test_bar_takes_whole_columns_side_by_side():
    for place in range(30):
        columns = mask_of("bar", 0.25, place)
        assert (columns == columns[0]).all()
        where = columns[0].nonzero()[0]
        assert len(where) == 4
        assert where[-1] - where[0] == 3


def test_patches_takes_whole_patches():
    patches = mask_of("patches", 3 / 8).reshape(HEIGHT // PATCH, PATCH, WIDTH // PATCH, PATCH)
    shares = patches.mean(axis=(1, 3)).ravel()
    assert sorted(shares) == [0] * 5 + [1] * 3


def test_removed_pixels_are_zero_to_a_model_and_others_as_they_were():
    image = torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8)
    before = image.clone()
    occluded = Occluder("patches", 0.4, PATCH, MEAN)(image, 2)
    mask = torch.from_numpy(mask_of("patches", 0.4, place=2))
    assert torch.equal(image, before)
    assert torch.equal(occluded[:, ~mask], image[:, ~mask])
    assert CLIP_STATISTICS.normalise(occluded[None])[0][:, mask].abs().max() < 0.5 / (
        255 * 0.26
    )  # half a step of uint8


@pytest.fixture(scope="module")
def studied(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("occlusion")
    checkpoints = [str(tiny_run / f"checkpoint_{name}.pth") for name in ("best", "last")]
    options = ["--fractions", "0.5", "0", "1", "--kinds", "lower", "bar", "--output_dir", str(folder)]
    main(["--checkpoint", *checkpoints, *options])
    return folder


def test_an_example_that_its_file_turns_is_drawn_in_its_own_proportions(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a person who stands, as a camera on its side has taken them
    Image.new("RGB", (60, 30)).save(tmp_path / "turned.jpg", exif=exif)
    config = SimpleNamespace(image_size=(16, 8), resampling="bicubic")
    model = SimpleNamespace(config=config, model=SimpleNamespace(patch_size=4, statistics=CLIP_STATISTICS))
    split = SimpleNamespace(image_root=tmp_path, images=["turned.jpg"])
    assert example_strip(model, split, "lower", [0.5], 0, 0).size == (EXAMPLE[0], 2 * EXAMPLE[0])


def test_whole_images_give_the_metrics_of_the_run(studied, tiny_run):
    rows = json.loads((studied / "occlusion.json").read_text())["rows"]
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    whole = [row for row in rows if row["fraction"] == 0 and row["model"] == rows[0]["model"]]
    assert [(row["kind"], row["stage"]) for row in whole] == [
        (kind, stage) for kind in ("lower", "bar") for stage in ("stage1", "reranked")
    ]
    for row in whole:
        for name in ("r1", "r5", "r10", "mAP", "mINP"):
            assert row[name] == pytest.approx(metrics[row["stage"]][name])


def test_occluded_images_are_what_is_ranked(studied):
    rows = json.loads((studied / "occlusion.json").read_text())["rows"]
    results = {(row["kind"], row["fraction"]): row["mINP"] for row in rows if row["stage"] == "stage1"}
    assert len(set(results.values())) > 2
    # nothing is left of any image: whatever was removed first
    assert results["lower", 1] == results["bar", 1]
    assert results["lower", 0.5] != results["bar", 0.5]


def test_later_models_are_compared_to_the_first(studied):
    rows = json.loads((studied / "occlusion.json").read_text())["rows"]
    first = rows[0]["model"]
    assert all(("p_r1" in row) == (row["model"] != first) for row in rows)
    assert all(0 < row["p_mAP"] <= 1 for row in rows if "p_mAP" in row)
    with Image.open(studied / "occlusion.png") as picture:
        assert picture.width >= 600
    assert (studied / "occlusion.csv").read_text().count("\n") == 1 + len(rows) == 1 + 2 * 2 * 3 * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fractions", "1.5"], "--fractions must be from 0"),
        (["--fractions", "nan"], "--fractions must be from 0"),
        (["--kinds", "upper"], "upper"),
        ([], "missing.pth"),
    ],
)
def test_bad_input_is_one_line(arguments, words, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        main(["--checkpoint", str(tmp_path / "missing.pth"), "--output_dir", str(tmp_path / "out"), *arguments])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
