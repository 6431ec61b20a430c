"""The order of training samples, and what a sample is made of."""

import copy
import os
import pickle
import random
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.annotations import Entry
from dataset.batch import TrainBatch, mirror
from dataset.batch_plan import BatchPlan, BatchRequest, Plan
from dataset.captions import clean_caption
from dataset.image_cache import open_image_cache
from dataset.images import load_image
from dataset.sample_set import make_samples
from dataset.tokens import CaptionTokenizer
from dataset.train_set import TrainLoader, TrainSet
from models.randomness import StepNoise
from utils.errors import UserError

CPU = torch.device("cpu")
SIZE = (4, 6)  # height, width
# identities 30 and "x" have two images; every caption is told apart by its length
ENTRIES = [
    Entry("a.png", 30, ("A red coat.", "A man in a red coat and blue jeans.")),
    Entry("b.png", "x", ("A woman.", "A woman with a very small black leather bag today.")),
    Entry("c.png", 30, ("Red coat, long dark hair and white shoes.", "The man walks.")),
    Entry("d.png", "x", ("She has a bag in her left hand.", "A woman waits here.")),
]
CAPTIONS = [clean_caption(caption, None) for entry in ENTRIES for caption in entry.captions]
TOKENIZER = CaptionTokenizer.train(CAPTIONS, 200, 1)


@pytest.fixture
def root(tmp_path) -> Path:
    """Images that are dark on the left, bright on the right, in a shade of their own."""
    for number, entry in enumerate(ENTRIES):
        pixels = np.zeros((*SIZE, 3), np.uint8)
        pixels[:, :3], pixels[:, 3:] = 10 * number, 200 + 10 * number
        Image.fromarray(pixels).save(tmp_path / entry.image)
    return tmp_path


def make_set(
    root: Path, weak: float = 0.5, seed: int = 3, attributes: dict | None = None, tokens: int = 40, **others
) -> TrainSet:
    return TrainSet(
        entries=ENTRIES,
        image_root=root,
        tokenizer=TOKENIZER,
        attributes=attributes or {},
        size=SIZE,
        max_words=30,
        max_tokens=tokens,
        weak_probability=weak,
        seed=seed,
        **others,
    )


def batches(root: Path, batch: int, rank: int, world: int, workers: int = 0, epoch: int = 1) -> list[TrainBatch]:
    data = make_set(root)
    return list(TrainLoader(data, BatchPlan(len(data), batch, rank, world, 3), workers, False).epoch(epoch))


def read(data: TrainSet, request: BatchRequest) -> TrainBatch:
    """A batch as a model takes it."""
    return data[request].to(CPU)


def words(text) -> list[list[int]]:
    """Token ids of each row, padding left out."""
    return [row[mask].tolist() for row, mask in zip(text.ids, text.mask, strict=True)]


def contents(batch: TrainBatch) -> dict[int, tuple]:
    """All that makes up each sample, by its index."""
    texts = zip(words(batch.caption), words(batch.caption2), strict=True)
    return {
        int(index): (
            first,
            second,
            *(getattr(batch, name)[row].tolist() for name in ("image1", "image2", "identity", "replaced")),
        )
        for row, (index, (first, second)) in enumerate(zip(batch.index, texts, strict=True))
    }


# ---- the order -------------------------------------------------------------------------


class TwoOfEach(Plan):
    """A plan of another kind: each micro-batch is two samples of one identity for every process."""

    def __init__(self, identities: list[int], rank: int, world: int):
        self.of = {identity: [i for i, other in enumerate(identities) if other == identity] for identity in identities}
        self.rows, self.together = slice(2 * rank, 2 * rank + 2), 2 * world

    def __len__(self) -> int:
        return len(self.of)

    def requests(self, epoch: int, skip: int = 0) -> Iterator[BatchRequest]:
        rng = random.Random(epoch)
        micro_batches = [tuple(rng.sample(indices, self.together)) for indices in self.of.values()]
        for everyone in micro_batches[skip:]:
            yield BatchRequest(epoch, everyone, self.rows)


@pytest.mark.parametrize("workers", [0, 1])
def test_another_plan_may_choose_the_samples_by_their_identities(root, workers):
    data = make_set(root)
    assert data.identities == [0, 0, 1, 1, 0, 0, 1, 1]
    loader = TrainLoader(data, TwoOfEach(data.identities, 1, 2), workers, False)
    assert len(loader) == 2
    first = [batch.index.tolist() for batch in loader.epoch(0)]
    second = [batch.index.tolist() for batch in loader.epoch(1)]
    assert first != second
    assert [[data.identities[index] for index in indices] for indices in first] == [[0, 0], [1, 1]]
    assert [batch.index.tolist() for batch in loader.epoch(1, skip=1)] == second[1:]
    loader.close()


# ---- samples ---------------------------------------------------------------------------


def test_there_is_a_sample_for_every_image_and_caption():
    samples = make_samples(ENTRIES, TOKENIZER, 30)
    assert [sample.image[0] for sample in samples] == list("aabbccdd")
    assert [sample.caption for sample in samples] == CAPTIONS


def test_identities_are_numbered_from_0_in_order_of_appearance():
    assert [sample.identity for sample in make_samples(ENTRIES, TOKENIZER, 30)] == [0, 0, 1, 1, 0, 0, 1, 1]


def test_captions_are_cleaned_and_keep_their_first_words():
    assert make_samples(ENTRIES, TOKENIZER, 3)[1].caption == "a man in"


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(root, workers):
    plain, prepared = batches(root, 3, 0, 1), batches(root, 3, 0, 1, workers)
    assert len(plain) == len(prepared) == 2
    for one, other in zip(plain, prepared, strict=True):
        assert contents(one) == contents(other)
        assert torch.equal(one.index, other.index)


def test_a_sample_does_not_depend_on_the_number_of_processes(root):
    (one,) = batches(root, 8, 0, 1)
    (left,), (right,) = batches(root, 4, 0, 2), batches(root, 4, 1, 2)
    assert contents(one) == contents(left) | contents(right)
    assert one.index.tolist() == left.index.tolist() + right.index.tolist()


def test_a_sample_does_not_depend_on_the_batch_it_is_in(root):
    data = make_set(root)
    whole = contents(read(data, BatchRequest(5, tuple(range(8)), slice(0, 8))))
    for index in range(8):
        assert contents(read(data, BatchRequest(5, (index,), slice(0, 1)))) == {index: whole[index]}


def test_samples_change_with_the_epoch_and_with_the_seed(root):
    def drawn(data: TrainSet, epoch: int) -> dict:
        return contents(read(data, BatchRequest(epoch, tuple(range(8)), slice(0, 8))))

    assert drawn(make_set(root), 0) == drawn(make_set(root), 0)
    assert drawn(make_set(root), 0) != drawn(make_set(root), 1)
    assert drawn(make_set(root), 0) != drawn(make_set(root, seed=4), 0)


def test_workers_live_on_and_follow_the_epoch(root):
    data = make_set(root)
    loader = TrainLoader(data, BatchPlan(8, 8, 0, 1, 3), 1, False)
    for epoch in (0, 1, 0):
        (batch,) = loader.epoch(epoch)
        (plain,) = batches(root, 8, 0, 1, epoch=epoch)
        assert contents(batch) == contents(plain)


def test_a_resumed_epoch_gives_the_batches_that_were_left(root):
    data = make_set(root)
    loader = TrainLoader(data, BatchPlan(8, 2, 0, 1, 3), 0, False)
    whole = [contents(batch) for batch in loader.epoch(2)]
    assert [contents(batch) for batch in loader.epoch(2, skip=3)] == whole[3:]
    assert [contents(batch) for batch in loader.epoch(2)] == whole


def test_both_images_are_the_picture_or_its_mirror_image_half_of_the_time(root):
    data = make_set(root)
    flipped = []
    for epoch in range(100):
        batch = read(data, BatchRequest(epoch, tuple(range(8)), slice(0, 8)))
        assert batch.image1.dtype == torch.uint8 and batch.image1.shape == (8, 3, *SIZE)
        for index in range(8):
            shade = 10 * (index // 2)
            for image in (batch.image1[index], batch.image2[index]):
                left, right = image[:, :, 0].unique().tolist(), image[:, :, -1].unique().tolist()
                assert (left, right) in (([shade], [shade + 200]), ([shade + 200], [shade]))
        flipped += list(zip(batch.image1[:, 0, 0, 0] >= 200, batch.image2[:, 0, 0, 0] >= 200, strict=True))
    counts = [sum(pair == (a, b) for pair in flipped) for a in (False, True) for b in (False, True)]
    assert all(abs(count - 200) < 60 for count in counts)  # 800 pairs, the four pairs alike


def darker(image: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """An augmentation of the test's own."""
    return image - rng.randrange(1, 10)


@pytest.mark.parametrize("workers", [0, 1])
def test_another_augmentation_makes_both_views(root, workers):
    data = make_set(root, augment=darker)
    (batch,) = TrainLoader(data, BatchPlan(8, 8, 0, 1, 3), workers, False).epoch(2)
    for index, first, second in zip(batch.index.tolist(), batch.image1, batch.image2, strict=True):
        rng = random.Random(f"3/2/{index}")
        whole = load_image(root / data.samples[index].image, SIZE)
        assert torch.equal(first, darker(whole, rng)) and torch.equal(second, darker(whole, rng))


def test_an_image_is_handed_over_once_and_mirrored_on_the_device(root):
    data, request = make_set(root), BatchRequest(2, tuple(range(8)), slice(0, 8))
    loaded = data[request]
    assert loaded.views.shape == (1, 8, 3, *SIZE) and loaded.views.dtype == torch.uint8
    for index, image in enumerate(loaded.views[0]):
        assert torch.equal(image, load_image(root / data.samples[index].image, SIZE))
    batch = loaded.to(CPU)
    for row, (image, mirrored) in enumerate(zip(loaded.views[0], loaded.mirrored.tolist(), strict=True)):
        for view, is_mirrored in zip((batch.image1, batch.image2), mirrored, strict=True):
            assert torch.equal(view[row], image.flip(-1) if is_mirrored else image)
    assert loaded.mirrored.any() and not loaded.mirrored.all()


def test_a_gpu_is_asked_to_mirror_as_the_processor_does(root, monkeypatch):
    loaded = make_set(root)[BatchRequest(2, tuple(range(8)), slice(0, 8))]
    expected = loaded.to(CPU)
    monkeypatch.setattr(torch, "stack", None)  # of images one by one
    monkeypatch.setattr(torch.Tensor, "device", property(lambda tensor: torch.device("cuda")))
    for view, found in enumerate((expected.image1, expected.image2)):
        assert mirror(loaded.views[0], loaded.mirrored[:, view]).equal(found)


def test_views_of_another_augmentation_are_handed_over_as_they_are(root):
    loaded = make_set(root, augment=darker)[BatchRequest(2, tuple(range(8)), slice(0, 8))]
    assert loaded.views.shape == (2, 8, 3, *SIZE) and not loaded.mirrored.any()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_an_image_cache_are_those_of_the_files(root, tmp_path, workers):
    cache = open_image_cache(tmp_path / "cache", make_set(root).files)
    loader = TrainLoader(make_set(root, cache=cache), BatchPlan(8, 3, 0, 1, 3), workers, False)
    expected = batches(root, 3, 0, 1)
    for entry in ENTRIES:
        (root / entry.image).unlink()  # nobody opens them any more
    for found, plain in zip(loader.epoch(1), expected, strict=True):
        assert contents(found) == contents(plain)
    loader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_the_noise_of_a_step_comes_with_its_samples_whoever_shares_the_batch(root, workers):
    source = partial(StepNoise.draw, 5, tokens=6, patches=4)
    data = make_set(root, noise=source)
    for rank in range(2):
        loader = TrainLoader(data, BatchPlan(8, 4, rank, 2, 3), workers, False)
        (batch,) = loader.epoch(2)
        loader.close()
        expected = source(2, batch.index.tolist())
        for part in fields(StepNoise):
            assert torch.equal(getattr(batch.noise, part.name), getattr(expected, part.name)), part.name


def test_noise_stays_in_main_memory(root):
    data = make_set(root, noise=partial(StepNoise.draw, 5, tokens=6, patches=4))
    batch = data[BatchRequest(2, (1, 2), slice(0, 2))].to(torch.device("meta"))
    assert batch.image1.is_meta and batch.caption.ids.is_meta
    assert batch.noise.mlm.device == CPU and batch.to(torch.device("meta")).noise is batch.noise


# ---- captions --------------------------------------------------------------------------


def caption_shares(root: Path, weak: float) -> tuple[float, float]:
    """(share of samples whose caption2 differs, share of set flags) over many epochs."""
    data, differing, flags = make_set(root, weak), [], []
    for epoch in range(100):
        batch = read(data, BatchRequest(epoch, tuple(range(8)), slice(0, 8)))
        differing += [a != b for a, b in zip(words(batch.caption), words(batch.caption2), strict=True)]
        flags += batch.replaced.tolist()
        assert differing == [bool(flag) for flag in flags]
    return sum(differing) / len(differing), sum(flags) / len(flags)


def test_the_second_caption_is_replaced_with_the_given_probability(root):
    # drawn from the four captions of the identity, the own one among them: 3/4 of the draws differ
    assert caption_shares(root, 0.0) == (0.0, 0.0)
    assert caption_shares(root, 1.0)[0] == pytest.approx(3 / 4, abs=0.06)
    assert caption_shares(root, 0.4)[0] == pytest.approx(0.4 * 3 / 4, abs=0.06)


def test_the_second_caption_is_one_of_the_same_identity(root):
    data = make_set(root, weak=1.0)
    seen = {}
    for epoch in range(60):
        batch = read(data, BatchRequest(epoch, tuple(range(8)), slice(0, 8)))
        for identity, ids in zip(batch.identity.tolist(), words(batch.caption2), strict=True):
            seen.setdefault(identity, set()).add(tuple(ids))
    for identity, own in ((0, (0, 1, 4, 5)), (1, (2, 3, 6, 7))):
        assert seen[identity] == {tuple(TOKENIZER.encode(CAPTIONS[index], 40).ids) for index in own}


def test_a_replacement_of_the_same_text_does_not_count_as_replaced(root):
    same = [Entry("a.png", 1, ("A man.",)), Entry("b.png", 1, ("A MAN!",))]
    data = TrainSet(same, root, TOKENIZER, {}, SIZE, 30, 40, 1.0, 0)
    assert read(data, BatchRequest(0, (0, 1), slice(0, 2))).replaced.tolist() == [0, 0]


def test_first_captions_are_padded_to_the_longest_of_all_processes(root):
    data = make_set(root)
    lengths = [len(TOKENIZER.encode(caption, 40).ids) for caption in CAPTIONS]
    everyone = tuple(sorted(range(8), key=lengths.__getitem__))
    longest, shortest = lengths[everyone[-1]], lengths[everyone[0]]
    batch = read(data, BatchRequest(0, everyone, slice(0, 1)))
    assert batch.caption.ids.shape == (1, longest)
    assert batch.caption.mask.tolist() == [[True] * shortest + [False] * (longest - shortest)]
    assert (batch.caption.ids[~batch.caption.mask] == TOKENIZER.special.pad).all()


class CountingTokenizer(CaptionTokenizer):
    """Counts the captions that it is given, one by one or many at a time."""

    cut: list[str] = []

    def encode_all(self, captions, max_tokens):
        self.cut += captions
        return super().encode_all(captions, max_tokens)

    def encode(self, caption, max_tokens):
        self.cut.append(caption)
        return super().encode(caption, max_tokens)


def test_a_caption_is_cut_into_word_pieces_once_and_not_for_batches(root):
    entries = [*ENTRIES, Entry("a.png", 31, ENTRIES[0].captions)]
    tokenizer = CountingTokenizer.from_json(TOKENIZER.to_json())
    data = TrainSet(entries, root, tokenizer, {}, SIZE, 30, 40, 0.5, 3)
    for epoch in range(3):
        read(data, BatchRequest(epoch, (0, 1, 0, 5, 9), slice(0, 2)))
    assert data.longest_caption() == max(len(TOKENIZER.encode(caption, 40).ids) for caption in CAPTIONS)
    assert sorted(tokenizer.cut) == sorted(CAPTIONS)


def test_a_loader_process_is_sent_few_bytes_and_makes_the_same_batches(root):
    captions = tuple(f"A man with number {number} on a red coat." for number in range(5000))
    attributes = {caption: [[(2, 5)], [(0, 1), (6, 10)]] for caption in captions}
    entries = [Entry("a.png", 30, captions[:2500]), Entry("b.png", "x", captions[2500:])]
    data = TrainSet(entries, root, TOKENIZER, attributes, SIZE, 30, 40, 0.5, 3)
    assert len(pickle.dumps(data)) < 3 * data.table.lengths.sum() + 24 * len(captions)
    there, request = copy.copy(data), BatchRequest(1, tuple(range(0, 5000, 700)), slice(1, 4))
    assert not hasattr(there, "samples") and not hasattr(there, "tokenizer")
    assert contents(read(there, request)) == contents(read(data, request))
    assert torch.equal(read(there, request).attributes, read(data, request).attributes)


def test_captions_keep_no_more_word_pieces_than_the_model_has_positions(root):
    batch = read(make_set(root, tokens=6), BatchRequest(0, tuple(range(8)), slice(0, 8)))
    for text in (batch.caption, batch.caption2):
        assert text.ids.shape[1] == 6
        assert all(ids[0] == TOKENIZER.special.cls and ids[-1] == TOKENIZER.special.sep for ids in words(text))


def attributes_of(*texts: str) -> list[list[tuple[int, int]]]:
    """Spans of the words of each attribute in the caption that holds them all, cleaned."""
    caption = next(c for c in CAPTIONS if all(word in c.split() for text in texts for word in text.split()))
    return [[(caption.index(w), caption.index(w) + len(w)) for w in text.split()] for text in texts]


def test_attributes_stand_on_the_word_pieces_of_the_second_caption(root):
    attributes = {
        ENTRIES[0].captions[1]: attributes_of("red coat", "blue jeans"),
        ENTRIES[2].captions[0]: attributes_of("long dark hair", "white shoes"),
    }
    marked = {
        clean_caption(ENTRIES[0].captions[1], None): ["red coat", "blue jeans"],
        clean_caption(ENTRIES[2].captions[0], None): ["long dark hair", "white shoes"],
    }
    data, replaced = make_set(root, weak=1.0, attributes=attributes), 0
    for epoch in range(20):
        batch = read(data, BatchRequest(epoch, (0, 1, 4), slice(0, 3)))
        assert batch.attributes.shape == batch.caption2.ids.shape
        found = 0
        for ids, numbers in zip(words(batch.caption2), batch.attributes.tolist(), strict=True):
            caption = next(c for c in CAPTIONS if TOKENIZER.encode(c, 40).ids == ids)
            expected = [0] * batch.attributes.shape[1]
            for number, text in enumerate(marked.get(caption, []), start=1):
                spans = [(caption.index(word), caption.index(word) + len(word)) for word in text.split()]
                for index, (start, end) in enumerate(TOKENIZER.encode(caption, 40).offsets):
                    if any(start < last and first < end for first, last in spans):
                        expected[index] = number
            assert numbers == expected
            found = max(found, len(marked.get(caption, [])))
        assert batch.attribute_count == found
        replaced += int(batch.replaced.sum())
    assert replaced > 10


def test_a_set_without_attributes_marks_nothing(root):
    batch = read(make_set(root), BatchRequest(0, (0, 1), slice(0, 2)))
    assert batch.attribute_count == 0 and not batch.attributes.any()


# ---- broken images ---------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("content", "part"),
    [(b"hello", "is no image"), (b"", "is no image"), (None, "does not exist")],
    ids=["text", "empty", "missing"],
)
def test_iterating_stops_at_an_unreadable_image_and_names_it(root, workers, content, part):
    os.remove(root / "c.png")
    if content is not None:
        (root / "c.png").write_bytes(content)
    with pytest.raises(UserError, match=f"^image {root / 'c.png'} {part}"):
        batches(root, 2, 0, 1, workers)


def test_batches_before_an_unreadable_image_are_handed_out(root):
    data = make_set(root)
    plan = BatchPlan(8, 1, 0, 1, 3)
    order = plan.order(0)
    broken = data.samples[order[2]].image
    fine = [data.samples[index].image != broken for index in order].index(False)
    (root / broken).write_bytes(b"")
    loaded = iter(TrainLoader(data, plan, 0, False).epoch(0))
    for _ in range(fine):
        next(loaded)
    with pytest.raises(UserError, match=broken):
        next(loaded)
