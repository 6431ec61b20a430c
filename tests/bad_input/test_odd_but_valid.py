"""Input that looks wrong and is right."""

import json
from pathlib import Path

import pytest
from refusals import Ground


def metrics_of(ground: Ground, finished: Path, *settings: str) -> dict:
    ending = ground.retrieve("--evaluate", "--checkpoint", finished / "checkpoint_best.pth", settings=settings)
    assert ending.code == 0, ending.errors
    return json.loads((ground.output / "metrics.json").read_text())


def test_no_candidates_means_no_second_stage(ground, finished):
    assert set(metrics_of(ground, finished, "k_test=0")) == {"stage1"}


def test_more_candidates_than_images_are_all_images(ground, finished):
    assert metrics_of(ground, finished, "k_test=1000") == metrics_of(ground, finished, "k_test=8")


def test_evaluation_does_not_depend_on_its_batch_size(ground, finished):
    one, many = (metrics_of(ground, finished, f"batch_size_test={size}") for size in (1, 64))
    assert one == many


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_least_and_the_greatest_seed_train(ground, seed):
    ending = ground.retrieve("--seed", str(seed))
    assert ending.code == 0, ending.errors


def test_seeds_differ_in_all_of_their_bits(ground):
    losses = []
    for seed in (0, 2**31):
        output = ground.folder / str(seed)
        ground.retrieve("--seed", str(seed), output=output)
        losses.append(json.loads((output / "log.txt").read_text())["train"]["total"])
    assert losses[0] != losses[1]
