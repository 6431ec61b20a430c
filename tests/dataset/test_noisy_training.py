"""Training on pairs whose captions are exchanged: which, in what order, and what a run keeps of it."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from two_processes import results_of_two

from configs.loading import load_config
from configs.schema import Config
from dataset.build import open_loader, open_pair_loader, open_training_set
from dataset.clip_tokens import ClipTokenizer
from dataset.noisy_pairs import RECORD, draw_permutation, truly_clean
from dataset.sample_set import SampleSet
from dataset.tokens import CaptionTokenizer
from utils.errors import UserError
from utils.processes.distributed import Launch, process_group

CPU = torch.device("cpu")
CAPTIONS = [["a red coat", "a hat"], ["blue jeans"], ["a bag", "black shoes"]]  # by image
WRITTEN = [caption for captions in CAPTIONS for caption in captions]
TOKENIZERS = {"mars": CaptionTokenizer.train(WRITTEN, 100, 1), "clip": ClipTokenizer([])}
SYSTEMS = pytest.mark.parametrize("system", TOKENIZERS)
SHIFTED = [4, 0, 1, 3, 2]  # pair 0 gets caption 4, and so on; only pair 3 keeps its own


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "imgs").mkdir()
    for number in range(3):
        Image.new("RGB", (4, 8)).save(tmp_path / "imgs" / f"{number}.png")
    # the pairs of two files count together
    for name, numbers in (("first", [0, 1]), ("second", [2])):
        entries = [{"file_path": f"{n}.png", "id": n, "captions": CAPTIONS[n]} for n in numbers]
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    return tmp_path


def config(folder: Path, system: str, **settings) -> Config:
    given = {"system": system, "image_res": 32, "workers": 0, "batch_size_train": 1}
    given |= {"train_file": [str(folder / f"{name}.json") for name in ("first", "second")]}
    given |= {"train_image_root": str(folder / "imgs"), **settings}
    given |= {"weights.attribute": 0} if system == "mars" else {"max_words": 20}
    return load_config(None, [f"{key}={json.dumps(value)}" for key, value in given.items()])


def open_data(folder: Path, system: str, seed: int = 3, run: Path | None = None, skipped=None, **settings) -> SampleSet:
    open_system = open_loader if system == "mars" else open_pair_loader
    return open_system(config(folder, system, **settings), TOKENIZERS[system], seed, CPU, run, skipped).data


def captions(data: SampleSet) -> list[str]:
    return [sample.caption for sample in data.samples]


def noise_file(folder: Path, permutation: list[int]) -> str:
    np.save(folder / "noise.npy", np.array(permutation))
    return str(folder / "noise.npy")


@SYSTEMS
def test_without_noise_all_pairs_are_as_they_are(folder, system):
    data = open_data(folder, system, run=folder)
    assert captions(data) == WRITTEN and data.truly_clean is None and data.noisy_pairs is None


@SYSTEMS
def test_a_file_says_whose_caption_a_pair_gets(folder, system, caplog):
    with caplog.at_level(logging.INFO):
        data = open_data(folder, system, run=folder, noisy_file=noise_file(folder, SHIFTED))
    assert captions(data) == ["black shoes", "a red coat", "a hat", "a bag", "blue jeans"]
    assert [sample.image[0] for sample in data.samples] == list("00122")
    assert data.identity.tolist() == [0, 0, 1, 2, 2]
    assert data.truly_clean.tolist() == [False, False, False, True, False]
    assert "4 of 5 have the caption of another one" in caplog.text
    data.noisy_pairs.keep(folder, resumed=False)
    assert not (folder / RECORD).exists()


@SYSTEMS
def test_a_file_counts_pairs_of_images_that_are_left_out(folder, system):
    data = open_data(folder, system, skipped=["1.png"], noisy_file=noise_file(folder, SHIFTED))
    assert captions(data) == ["black shoes", "a red coat", "a bag", "blue jeans"]  # that of the lost image too
    assert data.truly_clean.tolist() == [False, False, True, False]
    with pytest.raises(UserError, match="is for 4 pairs, but the training set has 5"):
        open_data(folder, system, skipped=["1.png"], noisy_file=noise_file(folder, [0, 1, 2, 3]))


@SYSTEMS
def test_what_was_drawn_is_kept_with_the_run(folder, system):
    run, expected = folder / "run", draw_permutation(5, 0.8, 3)
    first = open_data(folder, system, run=run, noisy_rate=0.8)
    assert not run.exists()  # until the folder is this run's
    first.noisy_pairs.keep(run, resumed=False)
    assert np.array_equal(np.load(run / RECORD), expected) and (~truly_clean(expected)).sum() > 1
    assert captions(first) == [WRITTEN[number] for number in expected]
    assert np.array_equal(first.truly_clean, truly_clean(expected))
    before = (run / RECORD).stat()
    resumed = open_data(folder, system, run=run, noisy_rate=0.8)
    resumed.noisy_pairs.keep(run, resumed=True)
    assert resumed.samples == first.samples and (run / RECORD).stat() == before
    for settings in ({"seed": 4, "noisy_rate": 0.8}, {"noisy_rate": 0.4}):
        other = open_data(folder, system, run=run, **settings).noisy_pairs
        with pytest.raises(UserError, match=r"noisy_pairs\.npy is of another noisy_rate or seed"):
            other.keep(run, resumed=True)
        assert (run / RECORD).stat() == before
    other.keep(run, resumed=False)  # after a run that left no checkpoint
    assert np.array_equal(np.load(run / RECORD), draw_permutation(5, 0.4, 3))


def test_a_look_at_the_data_keeps_nothing(folder):
    before = sorted(folder.rglob("*"))
    assert open_data(folder, "clip", noisy_rate=0.8).samples == open_data(folder, "clip", noisy_rate=0.8).samples
    assert sorted(folder.rglob("*")) == before


def test_attributes_go_with_their_captions(folder):
    found = config(folder, "mars", noisy_file=noise_file(folder, SHIFTED), attributes="visible")
    found = found.model_copy(update={"weights": {**found.weights, "attribute": 1}})
    data = open_training_set(found, TOKENIZERS["mars"], 3, folder)
    plain = open_training_set(found.model_copy(update={"noisy_file": None}), TOKENIZERS["mars"], 3, folder)
    marked = []
    for index, number in enumerate(SHIFTED):
        own, given = plain.caption[number], data.caption[index]
        assert data.table.ids(given).tolist() == plain.table.ids(own).tolist()
        assert data.table.attributes(given).tolist() == plain.table.attributes(own).tolist()
        marked.append(bool(data.table.attributes(given).any()))
    assert marked == [True, True, False, False, True]  # neither a hat nor a bag is described


def open_in_process(folder: Path, rank: int, results) -> None:
    with process_group(Launch(rank, 2, rank), CPU, f"file://{folder}/meeting"):
        data = open_data(folder, "clip", run=folder / "run", noisy_rate=0.8)
        results.put((rank, captions(data), data.truly_clean.tolist()))


def test_all_processes_train_on_the_same_pairs(folder):
    main, other = results_of_two(open_in_process, folder)
    assert main[1:] == other[1:] and main[1] == [WRITTEN[number] for number in draw_permutation(5, 0.8, 3)]
