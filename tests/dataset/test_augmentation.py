"""What becomes of an image before a model sees it."""

import pickle
import random

import pytest
import torch
from torchvision.transforms import RandomErasing

from configs.loading import resolve_config
from dataset.augmentation import Augmentation, crop, erase, vary_light
from models.image_encoder import CLIP_STATISTICS
from utils.errors import UserError

IMAGE = torch.randint(1, 256, (3, 40, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
ALL = Augmentation(flip=0.5, crop=4, light=0.3, erase=0.5)


def views(augmentation: Augmentation, count: int = 200) -> list[torch.Tensor]:
    rng = random.Random(3)
    return [augmentation(IMAGE, rng) for _ in range(count)]


def test_a_view_is_an_image_of_the_same_size_and_the_original_is_left_alone():
    before = IMAGE.clone()
    assert all(view.shape == IMAGE.shape and view.dtype == torch.uint8 for view in views(ALL))
    assert torch.equal(IMAGE, before)


def test_the_same_random_numbers_give_the_same_views_in_any_process():
    again = pickle.loads(pickle.dumps(ALL))
    assert all(torch.equal(one, two) for one, two in zip(views(ALL), views(again), strict=True))


def test_nothing_asked_for_is_nothing_done():
    assert all(torch.equal(view, IMAGE) for view in views(Augmentation(flip=0.0)))
    assert Augmentation().only_flips and not ALL.only_flips and not Augmentation(flip=0.2).only_flips
    assert Augmentation(erased="mean").only_flips and not Augmentation(erase=0.1, erased="mean").only_flips


@pytest.mark.parametrize("flip", [0.2, 0.5, 1.0])
def test_mirror_images_come_as_often_as_asked(flip):
    mirrored = sum(torch.equal(view, IMAGE.flip(-1)) for view in views(Augmentation(flip=flip), 1000))
    assert abs(mirrored / 1000 - flip) < 0.05


def test_a_crop_moves_the_image_by_up_to_the_margin():
    rng, offsets = random.Random(0), set()
    for _ in range(300):
        view = crop(IMAGE, 2, rng)
        found = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(view[:, 2 - down : 38 - down, 2 - right : 18 - right], IMAGE[:, 2:-2, 2:-2])
        ]
        offsets |= set(found)
        assert len(found) == 1
    assert len(offsets) == 25


def test_a_rectangle_is_erased_in_the_mean_colour():
    rng, shares = random.Random(1), []
    mean = IMAGE.float().mean((1, 2)).to(torch.uint8)
    for _ in range(300):
        view = erase(IMAGE, rng)
        changed = (view != IMAGE).any(0)
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        box = view[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert torch.equal(box, mean[:, None, None].expand_as(box))
        shares.append(box[0].numel() / IMAGE[0].numel())
    assert min(shares) < 0.05 and 0.3 < max(shares) < 0.45


def boxes(becomes: str) -> set[tuple[int, ...]]:
    """The colours of rectangles that are erased."""
    rng, found = random.Random(1), set()
    for _ in range(50):
        view = erase(IMAGE, rng, becomes)
        changed = (view != IMAGE).any(0)
        found |= {tuple(colour) for colour in view[:, changed].T.tolist()}
    return found


def test_a_rectangle_is_erased_in_the_mean_of_all_images_or_as_published():
    # 255 * 0.48145466 = 122.8; and 255 * (0.48145466 * 0.26862954 + 0.48145466) = 155.8
    assert boxes("mean") == {(123, 117, 104)}
    assert boxes("published") == {(156, 147, 133)}
    (mean,), (published,) = boxes("mean"), boxes("published")
    normalised = CLIP_STATISTICS.normalise(torch.tensor([mean, published], dtype=torch.uint8)[..., None, None])
    assert normalised[0].abs().max() < 0.01
    assert (normalised[1].flatten() - torch.tensor(CLIP_STATISTICS.mean)).abs().max() < 0.01


def test_where_a_rectangle_is_erased_does_not_depend_on_its_colour():
    views = [erase(IMAGE, random.Random(7), becomes) for becomes in ("image", "mean", "published")]
    first, *others = [(view != IMAGE).any(0) for view in views]
    assert first.any() and all(torch.equal(first, other) for other in others)


def test_erasing_is_that_of_torchvision(monkeypatch):
    """The same numbers drawn give the same rectangle."""
    for seed in range(300):
        rng = random.Random(seed)

        def uniform(empty, low, high, rng=rng):
            return torch.tensor([rng.uniform(low, high)])

        def randint(low, high, size, rng=rng):
            return torch.tensor([rng.randint(low, high - 1)])

        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "uniform_", uniform)
            patched.setattr(torch, "randint", randint)
            top, left, tall, wide, _ = RandomErasing.get_params(IMAGE, (0.02, 0.4), (0.3, 3.3), [0.0])
        expected = torch.ones(40, 20, dtype=torch.bool)
        expected[top : top + tall, left : left + wide] = False
        blank = torch.zeros_like(IMAGE)
        assert torch.equal(erase(blank, random.Random(seed), "mean").any(0), ~expected)


def test_light_varies_and_keeps_grey_grey():
    grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    seen = {int(vary_light(grey, 0.4, random.Random(seed))[0, 0, 0]) for seed in range(200)}
    assert 59 <= min(seen) < 70 and 130 < max(seen) <= 141
    for seed in range(50):
        found = vary_light(grey, 0.4, random.Random(seed))
        assert (found.float() - found.float().mean()).abs().max() <= 1


def test_a_run_refuses_what_makes_no_sense():
    assert resolve_config({"augmentation": {"crop": 3}}, "config").augmentation.crop == 3
    for setting in (
        {"flip": 1.5},
        {"crop": -1},
        {"crop": 200},
        {"light": 1.0},
        {"rotate": 1},
        {"erase": "often"},
        {"erased": "black"},
    ):
        with pytest.raises(UserError, match=r"config.*augmentation"):
            resolve_config({"augmentation": setting}, "config")
