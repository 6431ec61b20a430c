"""Batches of different identities with equally many samples of each, and how many of them there are."""

import random
from itertools import combinations

import numpy as np
import pytest

from dataset.batch_plan import IdentityPlan, most_batches
from utils.errors import UserError

COUNTS = [1, 3, 4, 7, 8, 9, 20, 2, 5, 12, 40, 4]  # samples of every identity
IDENTITY = np.random.default_rng(0).permutation(np.arange(len(COUNTS)).repeat(COUNTS))


def plan_of(each: int = 4, batch: int = 12, rank: int = 0, world: int = 1, seed: int = 5) -> IdentityPlan:
    return IdentityPlan(IDENTITY, each, batch, rank, world, seed)


def batches(plan: IdentityPlan, epoch: int = 0) -> list[tuple[int, ...]]:
    return [request.own for request in plan.requests(epoch)]


@pytest.mark.parametrize(("each", "batch"), [(4, 12), (4, 4), (2, 8), (3, 21), (1, 6)])
def test_a_batch_has_a_group_of_each_of_its_identities(each, batch):
    plan = plan_of(each, batch)
    for epoch in range(20):
        for own in batches(plan, epoch):
            people = IDENTITY[list(own)].reshape(-1, each)
            assert (people == people[:, :1]).all()  # a group is of one identity
            assert len(set(people[:, 0])) == batch // each  # which is in the batch once


def test_samples_come_once_but_for_identities_with_too_few():
    plan = plan_of()
    for epoch in range(20):
        drawn = np.bincount([sample for own in batches(plan, epoch) for sample in own], minlength=len(IDENTITY))
        few = np.array(COUNTS)[IDENTITY] < 4
        assert drawn[~few].max() == 1 and drawn[few].max() <= 4


def test_all_samples_have_their_turn():
    drawn = {sample for epoch in range(60) for own in batches(plan_of(), epoch) for sample in own}
    assert drawn == set(range(len(IDENTITY)))


def test_batches_are_as_many_as_can_be_filled():
    # groups of 4: 1 1 1 1 2 2 5 1 1 3 10 1; into 9 batches of 3 go 7 * 1 + 2 * 2 + 5 + 3 + 9 = 28, and 27 are needed
    assert len(plan_of()) == len(batches(plan_of())) == 9


@pytest.mark.parametrize("seed", range(30))
def test_the_number_of_batches_is_that_of_a_plain_search(seed):
    rng = random.Random(seed)
    groups = sorted(rng.choices([1, 1, 2, 3], k=rng.randrange(1, 6)))
    people = rng.randrange(1, 4)

    def most_from(left: tuple[int, ...]) -> int:
        chosen = combinations([index for index, count in enumerate(left) if count], people)
        rest = {tuple(sorted(count - (index in some) for index, count in enumerate(left))) for some in chosen}
        return max((1 + most_from(each) for each in rest), default=0)

    assert most_batches(np.array(groups), people) == most_from(tuple(groups))


def test_the_order_depends_on_seed_and_epoch_alone():
    plan = plan_of()
    first = batches(plan)
    assert batches(plan, 1) != first and batches(plan_of(seed=6)) != first
    assert batches(plan) == batches(plan_of()) == first
    assert list(plan.requests(0, skip=2)) == list(plan.requests(0))[2:]


def test_rows_of_all_processes_in_rank_order_make_up_the_batch_of_one():
    one = batches(plan_of(batch=16))
    two = [batches(plan_of(batch=8, rank=rank, world=2)) for rank in range(2)]
    assert one == [first + second for first, second in zip(*two, strict=True)]


def test_what_cannot_make_a_batch_is_refused():
    with pytest.raises(UserError, match="a batch of 10 is not made of whole groups of 4 samples of an identity"):
        plan_of(batch=10)
    with pytest.raises(UserError, match="has 12 identities, fewer than the 13 of one batch"):
        plan_of(batch=52)
    with pytest.raises(UserError, match="fewer than one batch of 120"):
        plan_of(batch=120)
