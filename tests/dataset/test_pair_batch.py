"""Pairs as a loader hands them over, and as a model takes them."""

import copy

import torch

from dataset.batch import LoadedPairs, MaskedCaptions, PairBatch

CPU, META = torch.device("cpu"), torch.device("meta")
IMAGES = torch.arange(2 * 3 * 2 * 2, dtype=torch.uint8).view(2, 3, 2, 2)
PAIRS = {
    "ids": torch.tensor([[5, 1, 6], [5, 6, 0]]),
    "identity": torch.tensor([7, 8]),
    "index": torch.tensor([3, 4]),
    "masked": MaskedCaptions(torch.tensor([[5, 4, 6], [5, 6, 0]]), torch.tensor([[0, 1, 0], [0, 0, 0]])),
    "clean": torch.tensor([1.0, 0.0]),
}
LOADED = LoadedPairs(image=IMAGES, mirrored=torch.tensor([False, True]), **PAIRS)


def test_images_are_mirrored_where_they_are_to_be():
    batch = LOADED.to(CPU)
    assert type(batch) is PairBatch and batch.size == 2
    assert batch.image[0, 0].tolist() == [[0, 1], [2, 3]] and batch.image[1, 0].tolist() == [[13, 12], [15, 14]]
    assert batch.ids is PAIRS["ids"] and batch.masked.labels is PAIRS["masked"].labels


def test_all_of_a_batch_goes_to_the_device():
    for batch in (LOADED.to(META), PairBatch(image=IMAGES, **PAIRS).to(META)):
        parts = (
            batch.image,
            batch.ids,
            batch.identity,
            batch.index,
            batch.masked.ids,
            batch.masked.labels,
            batch.clean,
        )
        assert all(part.is_meta for part in parts)


def test_what_is_not_there_stays_away():
    some = {name: PAIRS[name] for name in ("ids", "identity", "index")}
    loaded = LoadedPairs(image=IMAGES, mirrored=torch.tensor([True, True]), **some)
    batch = copy.deepcopy(loaded).to(CPU)
    assert batch.masked is None and batch.clean is None and torch.equal(batch.image, IMAGES.flip(-1))
