"""Opening of training data for the systems on CLIP, as configured: files, images, warnings, batches."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.loading import load_config
from configs.schema import Config
from dataset.batch_plan import BatchPlan
from dataset.build import count_identities, open_pair_loader
from dataset.clip_tokens import ClipTokenizer
from dataset.images import load_image
from utils.errors import UserError

CPU = torch.device("cpu")
TOKENIZER = ClipTokenizer([])  # every letter is a token
CAPTIONS = [["A red coat!", "blue"], ["hat"], ["bag", "a dress"], ["jeans"]]  # by image
IDENTITIES = [5, 9, 5, 2]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "imgs").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "imgs" / f"{number}.png")
    write(tmp_path / "train.json", range(4))
    return tmp_path


def write(path: Path, numbers) -> None:
    entries = [{"file_path": f"{n}.png", "id": IDENTITIES[n], "captions": CAPTIONS[n]} for n in numbers]
    path.write_text(json.dumps(entries))


def config(folder: Path, **settings) -> Config:
    given = {"system": "clip", "image_res": [32, 16], "workers": 0, "batch_size_train": 2, "max_words": 20}
    given |= {"train_file": [str(folder / "train.json")], "train_image_root": str(folder / "imgs"), **settings}
    return load_config(None, [f"{key}={json.dumps(value)}" for key, value in given.items()])


def test_pairs_are_those_of_the_files_at_the_size_and_in_the_way_of_the_system(folder):
    loader = open_pair_loader(config(folder), TOKENIZER, 3, CPU, full_rows=False, mask_words=0.5)
    data = loader.data
    assert [sample.caption for sample in data.samples] == ["a red coat!", "blue", "hat", "bag", "a dress", "jeans"]
    assert data.identity.tolist() == [0, 0, 1, 0, 0, 2] and (data.mask_words, data.full_rows) == (0.5, False)
    batches = list(loader.epoch(0))
    assert sorted(index for batch in batches for index in batch.index.tolist()) == list(range(6))
    for batch in batches:
        assert batch.image.shape == (2, 3, 32, 16) and batch.masked.ids.shape == batch.ids.shape
        for index, image in zip(batch.index.tolist(), batch.image, strict=True):
            file = folder / "imgs" / data.samples[index].image
            whole = load_image(file, (32, 16), resampling="bilinear")
            assert image.equal(whole) or image.equal(whole.flip(-1))


def test_rows_are_as_long_as_captions_that_are_read(folder):
    loader = open_pair_loader(config(folder), TOKENIZER, 3, CPU)
    assert {batch.ids.shape for batch in loader.epoch(0)} == {(2, 20)} and loader.data.mask_words == 0


def test_a_configured_augmentation_is_taken(folder):
    plain = open_pair_loader(config(folder), TOKENIZER, 3, CPU).data
    other = open_pair_loader(config(folder, augmentation={"erase": 0.5}), TOKENIZER, 3, CPU).data
    assert plain.augment is None and other.augment.erase == 0.5


def test_bad_images_are_left_out_and_images_are_cached(folder, caplog, monkeypatch):
    monkeypatch.setattr("dataset.bad_images.MOST", 0.5)
    (folder / "imgs/2.png").write_bytes(b"hello")
    settings = {"bad_images": "skip", "image_cache": str(folder / "cache")}
    data = open_pair_loader(config(folder, **settings), TOKENIZER, 3, CPU, folder).data
    assert data.skipped == ("2.png",) and [sample.image[0] for sample in data.samples] == ["0", "0", "1", "3"]
    assert "1 of 4 training images" in caplog.text and data.cache.count == 3
    assert data.cache.load(1).equal(load_image(folder / "imgs/1.png", (32, 16), resampling="bilinear"))
    again = open_pair_loader(config(folder), TOKENIZER, 3, CPU, skipped=["2.png"]).data
    assert again.samples == data.samples and again.cache is None
    with pytest.raises(UserError, match=r"left out image x\.png"):
        open_pair_loader(config(folder), TOKENIZER, 3, CPU, skipped=["x.png"])


def test_long_captions_and_people_of_two_files_are_warned_of(folder, caplog):
    open_pair_loader(config(folder), TOKENIZER, 3, CPU)
    assert not caplog.records
    write(folder / "more.json", [1])
    both = [str(folder / "train.json"), str(folder / "more.json")]
    open_pair_loader(config(folder, train_file=both, max_words=6), TOKENIZER, 3, CPU)
    merged, cut = caplog.messages
    assert "1 identity of" in merged and "more.json" in merged and "3 of 7 captions are longer than the model" in cut


def test_an_epoch_has_the_batches_of_a_step(folder):
    with pytest.raises(UserError, match="an epoch has 3 batches, fewer than accumulate_steps 4"):
        open_pair_loader(config(folder, accumulate_steps=4), TOKENIZER, 3, CPU)


def test_people_of_all_files_are_counted_once(folder):
    assert count_identities(config(folder)) == 3
    write(folder / "more.json", [1, 3])
    write(folder / "one.json", [3])
    assert count_identities(config(folder, train_file=[str(folder / "one.json"), str(folder / "more.json")])) == 2
    with pytest.raises(UserError, match="`train_file` is not set"):
        count_identities(config(folder, train_file=[]))


def test_the_sampler_is_the_configured_one(folder):
    assert type(open_pair_loader(config(folder), TOKENIZER, 3, CPU).plan) is BatchPlan
    loader = open_pair_loader(config(folder, sampler="identity", samples_per_identity=2), TOKENIZER, 3, CPU)
    batches = [batch.identity.tolist() for batch in loader.epoch(0)]
    # two groups of identity 0, which has four samples, and one of each other, by drawing their only sample twice
    assert sorted(batches) == [[0, 0], [0, 0], [1, 1], [2, 2]]
