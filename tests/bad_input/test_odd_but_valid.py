"""Input that looks wrong and is right."""

import json
import re
import shutil
from pathlib import Path

import pytest
from in_process import call
from refusals import Ground, entries_of

import Retrieval
from dataset import prepare


def metrics_of(ground: Ground, finished: Path, *settings: str) -> dict:
    ending = ground.retrieve("--evaluate", "--checkpoint", finished / "checkpoint_best.pth", settings=settings)
    assert ending.code == 0, ending.errors
    return json.loads((ground.output / "metrics.json").read_text())


def test_no_candidates_means_no_second_stage(ground, finished):
    assert set(metrics_of(ground, finished, "k_test=0")) == {"stage1", "ceiling"}


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


def own_data(ground: Ground, *splits: str) -> Path:
    """A data set of one's own as CSV, of two people for each of `splits`."""
    folder, rows = ground.folder / "mine", ["image,identity,caption,split"]
    (folder / "imgs").mkdir(parents=True)
    for split in splits:
        chosen = {entry["id"]: entry for entry in entries_of(ground, "train" if split == "train" else "test")}
        for entry in list(chosen.values())[: 8 if split == "train" else 2]:
            name = f"{split}-{entry['id']}.jpg"
            shutil.copy(ground.data / "imgs" / entry["file_path"], folder / "imgs" / name)
            rows += [f'{name},{split}-{entry["id"]},"{caption}",{split}' for caption in entry["captions"]]
    (folder / "annotations.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize(("missing", "named"), [("val", "prepared"), ("val", "as CSV"), ("test", "prepared")])
def test_the_advice_for_a_missing_split_leads_to_a_run(ground, capsys, missing, named):
    """What preparation says is enough, with the command of the manual, which names a file for every split."""
    data = own_data(ground, *({"train", "val", "test"} - {missing}))
    assert prepare.main(["CSV", str(data)]) == 0
    warning = next(line for line in capsys.readouterr().err.splitlines() if "has no" in line)
    settings = re.findall(r"\w+=\w+", warning)
    files = {split: data / "processed_data" / f"{split}.json" for split in ("train", "val", "test")}
    if named == "as CSV":
        files = dict.fromkeys(files, data / "annotations.csv")
    named_files = [f"{split}_file={file}" for split, file in files.items()]
    roots = [f"{split}_image_root={data}/imgs" for split in files]
    refused = ground.retrieve(settings=(*named_files, *roots))
    assert refused.code == 2 and all(setting in refused.errors for setting in settings)
    ending = ground.retrieve(settings=(*named_files, *roots, *settings))
    assert ending.code == 0, ending.errors
    ending = call(Retrieval.main, "--verify", "--checkpoint", ground.output / "checkpoint_best.pth")
    assert ending.code == 0, ending.errors
