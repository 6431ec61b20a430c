"""Captions of MARS whose words are changed by chance, and attributes that go with them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.loading import load_config
from dataset.annotations import Entry
from dataset.batch import TextTokens, TrainBatch
from dataset.batch_plan import BatchPlan, BatchRequest
from dataset.build import open_loader, open_pair_loader
from dataset.clip_tokens import ClipTokenizer
from dataset.tokens import CaptionTokenizer
from dataset.train_set import TrainLoader, TrainSet
from dataset.word_noise import WordNoise, augment_words

CPU = torch.device("cpu")
# identity 1 has captions of several lengths; spans are of characters of "a man in a red coat and blue jeans"
ENTRIES = [
    Entry("a.png", 1, ("a man in a red coat and blue jeans", "he walks")),
    Entry("b.png", 1, ("a tall man with a bag in his hand and a hat on his head",)),
    Entry("c.png", 2, ("a woman in a long dress",)),
]
CAPTIONS = [caption for entry in ENTRIES for caption in entry.captions]
SPANS = {CAPTIONS[0]: [[(11, 14), (15, 19)], [(24, 28), (29, 34)]], CAPTIONS[3]: [[(13, 17), (18, 23)]]}
TOKENIZER = CaptionTokenizer.train(CAPTIONS, 200, 1)
WORDS, SPECIAL = TOKENIZER.words, TOKENIZER.special
MOST, ALL = 40, (0, 1, 2, 3)


@pytest.fixture
def root(tmp_path) -> Path:
    for entry in ENTRIES:
        Image.new("RGB", (4, 8)).save(tmp_path / entry.image)
    return tmp_path


def make_set(root: Path, augment: float, weak: float = 0.0) -> TrainSet:
    return TrainSet(ENTRIES, root, TOKENIZER, SPANS, (8, 4), 30, MOST, weak, 3, augment_words=augment)


def read(data: TrainSet, epoch: int, rows: slice = slice(0, 4)) -> TrainBatch:
    return data[BatchRequest(epoch, ALL, rows)].to(CPU)


def tokens(text: TextTokens) -> list[list[int]]:
    """Ids of each row, padding left out."""
    return [row[mask].tolist() for row, mask in zip(text.ids, text.mask, strict=True)]


def test_words_are_changed_by_the_numbers_of_the_sample_and_attributes_move_with_them(root):
    data, plain, moved = make_set(root, 0.5), make_set(root, 0.0), 0
    for epoch in range(40):
        batch, before = read(data, epoch), read(plain, epoch)
        for index in ALL:
            noise = WordNoise.draw("augmentation", 3, epoch, [index], MOST, WORDS)
            ids = np.array(TOKENIZER.encode(CAPTIONS[index], MOST).ids)
            changed, kept = augment_words(ids, noise.uniform[0].numpy(), noise.words[0].numpy(), WORDS, 0.5)
            assert tokens(batch.caption)[index] == tokens(batch.caption2)[index] == changed.tolist()
            expected = before.attributes[index][kept].tolist()
            found = batch.attributes[index].tolist()
            assert found == expected + [0] * (len(found) - len(expected))
            moved += found[: len(expected)] != before.attributes[index][: len(expected)].tolist()
        assert batch.attributes.shape == batch.caption2.ids.shape
        assert batch.attribute_count == int(batch.attributes.max())
        assert batch.caption.words == int(batch.caption.mask.sum())
    assert moved > 20


def test_start_end_and_padding_stay(root):
    data, seen = make_set(root, 1.0), set()
    for epoch in range(20):
        batch = read(data, epoch)
        for ids in tokens(batch.caption2):
            assert ids[0] == SPECIAL.cls and ids[-1] == SPECIAL.sep
            assert not {SPECIAL.cls, SPECIAL.sep, SPECIAL.pad, TOKENIZER.unknown} & set(ids[1:-1])
            seen |= set(ids)
        assert (batch.caption2.ids[~batch.caption2.mask] == SPECIAL.pad).all()
    assert SPECIAL.mask in seen and len(seen) > 30  # of the words that were put in


def test_a_share_of_the_words_is_changed_as_published(root):
    data, plain, changes = make_set(root, 0.2), read(make_set(root, 0.0), 0), []
    words = sum(len(ids) - 2 for ids in tokens(plain.caption))
    for epoch in range(200):
        batch = read(data, epoch)
        masked, left = (
            int((batch.caption.ids == SPECIAL.mask).sum()),
            sum(len(ids) - 2 for ids in tokens(batch.caption)),
        )
        changes.append((masked / words, 1 - left / words))
    assert np.mean(changes, axis=0) == pytest.approx([0.2 * 0.6, 0.2 * 0.2], abs=0.01)


@pytest.mark.parametrize("workers", [0, 1])
def test_two_processes_read_what_one_would(root, workers):
    data = make_set(root, 0.5, weak=0.5)

    def samples(batch: int, rank: int, world: int) -> dict[int, list]:
        loader = TrainLoader(data, BatchPlan(4, batch, rank, world, 3), workers, False)
        (found,) = loader.epoch(1)
        loader.close()
        attributes = [row[mask].tolist() for row, mask in zip(found.attributes, found.caption2.mask, strict=True)]
        parts = zip(tokens(found.caption), tokens(found.caption2), attributes, strict=True)
        assert found.caption.ids.shape[1] == len(TOKENIZER.encode(CAPTIONS[2], MOST).ids)  # the longest, unchanged
        return dict(zip(found.index.tolist(), parts, strict=True))

    assert samples(4, 0, 1) == samples(2, 0, 2) | samples(2, 1, 2)


@pytest.mark.parametrize("system", ["mars", "clip"])
def test_the_configured_share_is_taken(root, system):
    entries = [{"file_path": entry.image, "id": entry.identity, "captions": entry.captions} for entry in ENTRIES]
    (root / "train.json").write_text(json.dumps(entries))
    given = [f"train_file={root}/train.json", f"train_image_root={root}", "workers=0", "batch_size_train=2"]
    given += [f"system={system}", "image_res=32", *(["weights.attribute=0"] if system == "mars" else [])]
    open_system, tokenizer = (open_loader, TOKENIZER) if system == "mars" else (open_pair_loader, ClipTokenizer([]))
    for settings, share in (([], 0.0), (["augment_words=0.2"], 0.2)):
        loader = open_system(load_config(None, [*given, *settings]), tokenizer, 0, CPU)
        assert loader.data.augment_words == share
