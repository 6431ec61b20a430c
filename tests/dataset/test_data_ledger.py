"""An interrupted epoch resumes with the samples that were left, as they would have been."""

import hashlib

import pytest

from dataset.annotations import load_annotations
from dataset.batch_plan import BatchPlan
from dataset.tokens import CaptionTokenizer
from dataset.train_set import TrainLoader, TrainSet

pytestmark = pytest.mark.promise("Data ledger")

BATCH, EPOCHS = 4, 2


@pytest.fixture(scope="module")
def data(benchmark):
    entries = load_annotations(benchmark / "processed_data" / "train.json", "train")
    captions = [caption for entry in entries for caption in entry.captions]
    tokenizer = CaptionTokenizer.train(captions, 300, 1)
    return TrainSet(
        entries=entries,
        image_root=benchmark / "imgs",
        tokenizer=tokenizer,
        attributes={},
        size=(32, 16),
        max_words=40,
        max_tokens=80,
        weak_probability=0.5,
        seed=7,
    )


def ledger(data, workers: int, stops: list[tuple[int, int]]) -> list[tuple[int, str]]:
    """(epoch, digest of everything in it) of each batch of a run that is started again at (epoch, batch)."""
    seen = []
    for (epoch, skip), (last_epoch, last) in zip([(0, 0), *stops], [*stops, (EPOCHS, 0)], strict=True):
        loader = TrainLoader(data, BatchPlan(len(data), BATCH, 0, 1, 7), workers, False)
        for number in range(epoch, min(last_epoch + 1, EPOCHS)):
            first, end = skip if number == epoch else 0, last if number == last_epoch else len(loader)
            batches = loader.epoch(number, first)
            for _, batch in zip(range(first, end), batches, strict=False):
                seen.append((number, fingerprint(batch)))
            batches.close()
    return seen


def fingerprint(batch) -> str:
    parts = (
        batch.image1,
        batch.image2,
        batch.caption.ids,
        batch.caption2.ids,
        batch.attributes,
        batch.identity,
        batch.replaced,
        batch.index,
    )
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(data):
    return ledger(data, 0, [])


def test_all_samples_come_once_an_epoch_in_another_order_each(data, undisturbed):
    batches = len(data) // BATCH
    assert [epoch for epoch, _ in undisturbed] == [0] * batches + [1] * batches
    assert len({digest for _, digest in undisturbed}) == 2 * batches
    indices = [
        index
        for batch in TrainLoader(data, BatchPlan(len(data), BATCH, 0, 1, 7), 0, False).epoch(0)
        for index in batch.index.tolist()
    ]
    assert len(set(indices)) == len(indices) == batches * BATCH


@pytest.mark.parametrize("workers", [0, 2, 4])
def test_an_interruption_anywhere_changes_nothing(data, undisturbed, trials, workers):
    batches = len(data) // BATCH
    # in the middle, at the exact end of an epoch, right at its beginning, and twice
    interruptions = ([(0, 3)], [(0, batches)], [(1, 0)], [(0, 1), (1, batches - 1)])
    trial = trials("epoch interrupted and resumed, same samples", len(interruptions))
    for stops in interruptions:
        with trial.one():
            assert ledger(data, workers, stops) == undisturbed


def test_the_number_of_processes_changes_who_sees_a_sample_and_not_which(data):
    def indices(world: int) -> list[list[int]]:
        plans = [BatchPlan(len(data), 8 // world, rank, world, 7).requests(0) for rank in range(world)]
        return [[index for request in requests for index in request.own] for requests in zip(*plans, strict=True)]

    assert indices(1) == indices(2) == indices(4)
