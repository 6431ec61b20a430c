"""What a batch of pairs is made of: images, rows of ids, changed and masked words, whoever shares the batch."""

import copy
import pickle
import random
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.annotations import Entry
from dataset.augmentation import Augmentation
from dataset.batch import PairBatch
from dataset.batch_plan import BatchPlan, BatchRequest
from dataset.clip_tokens import ClipTokenizer
from dataset.image_cache import Source, images_of, open_image_cache
from dataset.images import load_image
from dataset.pair_set import PairSet
from dataset.tokens import pad_batch
from dataset.train_set import TrainLoader
from dataset.word_noise import WordNoise, augment_words, mask_words
from utils.errors import UserError
from utils.processes.handover import map_leaves

CPU = torch.device("cpu")
SIZE, LENGTH = (6, 4), 24
TOKENIZER = ClipTokenizer([])  # every letter is a token
WORDS = TOKENIZER.words
ENTRIES = [
    Entry("a.png", 30, ("A red   coat!", "Blue jeans")),
    Entry("b.png", "x", ("A &amp; B",)),
    Entry("c.png", 30, ("a caption that is longer than all rows", "ab")),
    Entry("d.png", 7, ("Coat, hat", "bag", "A dress")),
]
CAPTIONS = [TOKENIZER.clean(caption) for entry in ENTRIES for caption in entry.captions]
ROWS = TOKENIZER.rows(CAPTIONS, LENGTH)
ALL = BatchRequest(1, tuple(range(8)), slice(0, 8))
CHANGED = {"augment_words": 0.4, "mask_words": 0.3}


@pytest.fixture
def root(tmp_path) -> Path:
    """Images of noise, larger than they are read."""
    for number, entry in enumerate(ENTRIES):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / entry.image)
    return tmp_path


def make_set(root: Path, seed: int = 3, **settings) -> PairSet:
    files = Source(root, images_of(ENTRIES), SIZE, {}, "bilinear")
    return PairSet(ENTRIES, files, TOKENIZER, LENGTH, seed, **settings)


def read(data: PairSet, request: BatchRequest = ALL) -> PairBatch:
    return data[request].to(CPU)


def same(one: PairBatch, other: PairBatch) -> bool:
    """Whether two batches are equal in all parts."""
    parts, others = [], []
    map_leaves(one, parts.append), map_leaves(other, others.append)
    return len(parts) == len(others) and all(map(torch.equal, parts, others))


def together(batches: list[PairBatch]) -> PairBatch:
    """The rows of several batches in one."""
    parts = []
    for batch in batches:
        parts.append([])
        map_leaves(batch, parts[-1].append)
    whole = iter([torch.cat(rows) for rows in zip(*parts, strict=True)])
    return map_leaves(batches[0], lambda _: next(whole))


# ---- captions --------------------------------------------------------------------------


def test_captions_are_cleaned_as_clip_reads_them(root):
    data = make_set(root)
    assert data.captions()[:3] == ["a red coat!", "blue jeans", "a & b"]
    batch = read(data)
    assert batch.ids.equal(ROWS) and batch.ids.dtype == torch.int64 and batch.masked is None
    assert batch.identity.tolist() == [0, 0, 1, 0, 0, 2, 2, 2] and batch.index.tolist() == list(range(8))
    assert data.longest_caption() == LENGTH  # and a longer one keeps its end
    assert batch.ids[3, -1] == TOKENIZER.special.end


def test_rows_that_need_not_be_full_are_as_long_as_the_longest_of_all_processes(root):
    data = make_set(root, full_rows=False)
    for everyone, rows, longest in (((4, 6), slice(0, 1), 5), ((4, 1), slice(0, 1), 11), ((4, 1), slice(1, 2), 11)):
        request = BatchRequest(1, everyone, rows)
        assert read(data, request).ids.equal(ROWS[list(request.own), :longest])


def test_changed_and_masked_words_are_those_of_the_functions_on_full_rows(root):
    noise = WordNoise.draw("augmentation", 3, 1, range(8), LENGTH, WORDS)
    rows = zip(ROWS.numpy(), noise.uniform.numpy(), noise.words.numpy(), strict=True)
    augmented, _ = pad_batch([augment_words(*row, WORDS, 0.4)[0] for row in rows], 0, LENGTH)
    masked = mask_words(augmented, WordNoise.draw("mlm", 3, 1, range(8), LENGTH, WORDS), WORDS, 0.3)
    batch = read(make_set(root, **CHANGED))
    assert batch.ids.equal(augmented) and not augmented.equal(ROWS)
    assert batch.masked.ids.equal(masked.ids) and batch.masked.labels.equal(masked.labels)
    assert read(make_set(root, augment_words=0.4)).masked is None
    only_masked = read(make_set(root, mask_words=0.3))
    assert only_masked.ids.equal(ROWS) and (only_masked.masked.ids != ROWS).any()


def test_padding_changes_no_words(root):
    full, short = make_set(root, **CHANGED), make_set(root, full_rows=False, **CHANGED)
    for epoch, index in product(range(20), range(8)):  # few words become others
        request = BatchRequest(epoch, (index,), slice(0, 1))
        long, found = read(full, request), read(short, request)
        length = found.ids.shape[1]
        for one, other in ((long.ids, found.ids), (long.masked.ids, found.masked.ids)):
            assert one[:, :length].equal(other) and not one[:, length:].any()


def test_captions_change_with_the_epoch_and_with_the_seed(root):
    once, again = read(make_set(root, **CHANGED)), read(make_set(root, **CHANGED))
    assert same(once, again)
    for other in (read(make_set(root, seed=4, **CHANGED)), read(make_set(root, **CHANGED), replace(ALL, epoch=2))):
        assert not other.ids.equal(once.ids) and not other.masked.ids.equal(once.masked.ids)


# ---- images ----------------------------------------------------------------------------


def test_an_image_goes_once_and_is_mirrored_half_of_the_time(root):
    data, turned = make_set(root), 0
    images = [load_image(root / sample.image, SIZE, resampling="bilinear") for sample in data.samples]
    assert not torch.equal(images[0], load_image(root / "a.png", SIZE))
    for epoch in range(50):
        loaded = data[replace(ALL, epoch=epoch)]
        assert loaded.image.dtype == torch.uint8 and loaded.image.equal(torch.stack(images))
        batch = loaded.to(CPU)
        for image, mirrored, found in zip(images, loaded.mirrored.tolist(), batch.image, strict=True):
            assert found.equal(image.flip(-1) if mirrored else image)
        turned += int(loaded.mirrored.sum())
    assert abs(turned - 200) < 45


def test_another_augmentation_makes_the_view(root):
    augment = Augmentation(flip=0.5, crop=1, erase=0.5)
    data = make_set(root, augment=augment)
    batch = read(data)
    for index, image in enumerate(batch.image):
        whole = load_image(root / data.samples[index].image, SIZE, resampling="bilinear")
        assert image.equal(augment(whole, random.Random(f"3/1/{index}")))


def test_images_of_a_cache_are_those_of_the_files(root, tmp_path):
    data = make_set(root)
    expected = read(data)
    cached = make_set(root, cache=open_image_cache(tmp_path / "cache", data.files))
    (root / "a.png").unlink()
    assert same(read(cached), expected)
    assert isinstance(data[ALL], UserError) and "a.png does not exist" in str(data[ALL])


# ---- processes -------------------------------------------------------------------------


@pytest.mark.parametrize("full_rows", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_two_processes_read_what_one_would(root, full_rows, workers):
    data = make_set(root, full_rows=full_rows, **CHANGED)

    def epoch(batch: int, rank: int, world: int) -> list[PairBatch]:
        loader = TrainLoader(data, BatchPlan(8, batch, rank, world, 5), workers, False)
        found = list(loader.epoch(2))
        loader.close()
        return found

    one, (left, right) = epoch(4, 0, 1), (epoch(2, rank, 2) for rank in range(2))
    assert len(one) == 2
    for whole, halves in zip(one, zip(left, right, strict=True), strict=True):
        assert same(whole, together(list(halves)))


def test_a_sample_does_not_depend_on_the_batch_it_is_in(root):
    data = make_set(root, **CHANGED)
    alone = [read(data, BatchRequest(1, (index,), slice(0, 1))) for index in range(8)]
    assert same(read(data), together(alone))


def test_a_loader_process_is_sent_neither_texts_nor_the_tokenizer(root):
    data = make_set(root, augment=Augmentation(crop=1), **CHANGED)
    there = copy.copy(data)
    assert not hasattr(there, "samples") and not hasattr(there, "tokenizer")
    assert same(read(there), read(data)) and len(pickle.dumps(data)) < 4000
