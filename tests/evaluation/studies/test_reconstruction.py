"""What guides the masked autoencoder: draws, errors and pictures by hand, and the whole command on a tiny model."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.studies.reconstruction import choose_tasks, main, patch_noise, removed_error, summarise
from evaluation.studies.reconstruction_sheet import Drawn, Task, as_picture, fill, hide
from models.decoder import patchify
from models.image_encoder import CLIP_STATISTICS, PatchSubset
from utils.errors import UserError

ENCODER = SimpleNamespace(statistics=CLIP_STATISTICS)
MODEL = SimpleNamespace(patch_size=2, grid=(2, 1), visual_encoder=ENCODER)  # images of 4 x 2 pixels
TINY_TRAINED = SimpleNamespace(model=MODEL)


def split_of(caption_image, caption_identity):
    return SimpleNamespace(
        caption_image=torch.tensor(caption_image),
        caption_identity=torch.tensor(caption_identity),
        images=[f"{n}.jpg" for n in range(max(caption_image) + 1)],
    )


def test_a_right_caption_is_the_images_own_and_a_wrong_one_another_persons():
    split = split_of([0, 0, 1, 2, 2, 4], [7, 7, 7, 8, 8, 9])
    seen = set()
    for seed in range(30):
        tasks = choose_tasks(split, None, seed)
        assert [task.image for task in tasks] == [0, 1, 2, 4]  # image 3 has no caption
        for task in tasks:
            assert split.caption_image[task.right] == task.image
            assert split.caption_identity[task.wrong] != split.caption_identity[task.right]
            seen.add((task.image, task.right, task.wrong))
    assert {(0, 0, 3), (0, 1, 3), (2, 3, 2), (4, 5, 0)} <= seen
    assert choose_tasks(split, None, 3) == choose_tasks(split, None, 3)


def test_fewer_images_have_the_same_captions():
    split = split_of(list(range(20)), [n // 2 for n in range(20)])
    everything = {task.image: task for task in choose_tasks(split, None, 5)}
    some = choose_tasks(split, 6, 5)
    assert len(some) == 6 and all(everything[task.image] == task for task in some)


def test_one_person_has_no_wrong_caption():
    with pytest.raises(UserError, match="captions of one person alone"):
        choose_tasks(split_of([0, 1], [3, 3]), None, 0)


def test_removed_patches_do_not_depend_on_the_block():
    tasks = [Task(image, 0, 1) for image in (4, 7, 9)]
    torch.testing.assert_close(patch_noise(tasks, 8, 2)[1:], patch_noise(tasks[1:], 8, 2))
    assert not torch.equal(patch_noise(tasks, 8, 2), patch_noise(tasks, 8, 3))


def test_only_removed_patches_count():
    image = torch.arange(24.0).view(1, 3, 4, 2)
    keep = PatchSubset(torch.tensor([[0]]), torch.tensor([[False, True]]))
    pixels = patchify(image, 2)
    pixels[:, 0] += 100
    pixels[:, 1] += 3
    assert removed_error(pixels, image, keep, TINY_TRAINED).tolist() == [9.0]


def test_kept_patches_are_shown_as_they_are_and_removed_ones_as_predicted():
    grey = torch.full((1, 3, 4, 2), 51, dtype=torch.uint8)
    normalise = CLIP_STATISTICS.normalise
    image, white = normalise(grey), patchify(normalise(torch.full_like(grey, 255)), 2)[0]
    removed = torch.tensor([True, False])
    picture = fill(white, image[0], removed, TINY_TRAINED.model)
    torch.testing.assert_close(picture[:, :2], torch.ones(3, 2, 2))
    torch.testing.assert_close(picture[:, 2:], torch.full((3, 2, 2), 0.2))
    torch.testing.assert_close(as_picture(image[0], TINY_TRAINED.model), torch.full((3, 4, 2), 0.2))
    assert as_picture(image[0] + 99, TINY_TRAINED.model).max() == 1  # clamped
    hidden = hide(
        Drawn(as_picture(image[0], TINY_TRAINED.model), picture, picture, removed, 0.0, 0.0), TINY_TRAINED.model
    )
    torch.testing.assert_close(hidden[0], torch.tensor([[0.5] * 2] * 2 + [[0.2] * 2] * 2))


def test_the_difference_is_the_wrong_captions_error_less_the_right_ones():
    errors = np.array([[1.0, 2.0], [3.0, 3.5], [2.0, 1.0], [1.0, 4.0]])
    found = summarise(errors, np.arange(4), 0)
    assert (found.right.mean, found.wrong.mean, found.difference.mean) == (1.75, 2.625, 0.875)
    assert found.better.mean == 75
    assert found.difference.low <= 0.875 <= found.difference.high
    assert 0.1 < found.p_value < 1


# ---- the command -----------------------------------------------------------------------


def test_every_image_is_drawn_twice(tiny_run, benchmark, tmp_path, capsys):
    checkpoint = ["--checkpoint", str(tiny_run / "checkpoint_last.pth")]
    main([*checkpoint, "--examples", "2", "--output_dir", str(tmp_path / "one")])
    content = json.loads((tmp_path / "one" / "reconstruction.json").read_text())
    entries = json.loads((benchmark / "processed_data" / "test.json").read_text())
    assert [row["image"] for row in content["rows"]] == [entry["file_path"] for entry in entries]
    assert sum(row["shown"] for row in content["rows"]) == 2
    errors = np.array([[row["right_error"], row["wrong_error"]] for row in content["rows"]])
    assert (errors[:, 0] != errors[:, 1]).all()  # the caption is read
    assert content["right"]["mean"] == pytest.approx(errors[:, 0].mean())
    assert content["difference"]["mean"] == pytest.approx((errors[:, 1] - errors[:, 0]).mean())
    assert content["mask_ratio"] == 0.75
    with open(tmp_path / "one" / "reconstruction.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(entries)
    with Image.open(tmp_path / "one" / "reconstruction.png") as sheet:
        assert sheet.width >= 900
    assert "| right caption" in capsys.readouterr().out
    main([*checkpoint, "--examples", "9", "--set", "batch_size_test=3", "--output_dir", str(tmp_path / "two")])
    again = json.loads((tmp_path / "two" / "reconstruction.json").read_text())["rows"]
    found = np.array([[row["right_error"], row["wrong_error"]] for row in again])
    assert found == pytest.approx(errors, rel=1e-5)  # whatever the blocks


def test_some_images_with_another_share_removed(tiny_run, tmp_path):
    checkpoint = str(tiny_run / "checkpoint_last.pth")
    options = ["--images", "3", "--mask_ratio", "0.5", "--seed", "4", "--output_dir", str(tmp_path)]
    main(["--checkpoint", checkpoint, *options])
    content = json.loads((tmp_path / "reconstruction.json").read_text())
    assert (content["images"], len(content["rows"]), content["mask_ratio"]) == (3, 3, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "weights.mae=0"], "has no decoder: weights.mae is 0"),
        (["--mask_ratio", "1"], "--mask_ratio 1.0 does not keep and remove at least one of 8 patches"),
        (["--mask_ratio", "0.95"], "--mask_ratio 0.95 does not keep"),
        (["--mask_ratio", "nan"], "--mask_ratio nan does not keep"),
        (["--examples", "0"], "--examples: from 1 to 50"),
        (["--images", "0"], "--images must be 1 or more"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tiny_run, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        main(["--checkpoint", str(tiny_run / "checkpoint_last.pth"), "--output_dir", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        main(["--checkpoint", str(tmp_path / "nowhere.pth")])
