"""Which samples batches are made of: the published order, and people who look alike."""

import numpy as np
import pytest
import torch

from dataset.batch_plan import BatchPlan, LookAlikePlan, Plan, tightness
from utils.errors import UserError


def indices(plan: Plan, epoch: int = 0) -> list[int]:
    return [index for request in plan.requests(epoch) for index in request.own]


# ---- the published order ---------------------------------------------------------------


def test_an_epoch_is_a_permutation_of_all_samples():
    order = indices(BatchPlan(12, 4, 0, 1, seed=0))
    assert sorted(order) == list(range(12))
    assert order != list(range(12))


def test_the_order_depends_on_seed_and_epoch_alone():
    plan = BatchPlan(50, 5, 0, 1, seed=0)
    first = indices(plan)
    assert indices(BatchPlan(50, 5, 0, 1, seed=0)) == first
    assert indices(BatchPlan(50, 5, 0, 1, seed=1)) != first
    assert sorted(indices(plan, 1)) == sorted(first) and indices(plan, 1) != first
    assert indices(plan) == first  # whatever was asked for in between


def test_rows_of_all_processes_in_rank_order_make_up_the_batch_of_one():
    one = [request.own for request in BatchPlan(25, 6, 0, 1, 7).requests(0)]
    three = [list(BatchPlan(25, 2, rank, 3, 7).requests(0)) for rank in range(3)]
    assert one == [sum((request.own for request in requests), ()) for requests in zip(*three, strict=True)]
    for requests in zip(*three, strict=True):
        assert len({request.everyone for request in requests}) == 1


def test_what_does_not_fill_a_batch_is_left_out():
    plan = BatchPlan(11, 2, 0, 2, 0)
    assert len(plan) == len(list(plan.requests(0))) == 2
    assert all(len(request.everyone) == 4 and len(request.own) == 2 for request in plan.requests(0))


def test_skipping_leaves_the_rest_of_the_epoch_as_it_was():
    plan = BatchPlan(20, 4, 0, 1, 0)
    whole = list(plan.requests(5))
    assert list(plan.requests(5, skip=3)) == whole[3:]


def test_a_training_set_smaller_than_the_batch_of_all_processes_is_refused():
    BatchPlan(8, 4, 0, 2, 0)
    with pytest.raises(UserError, match="has 7 captions, fewer than one batch of 8"):
        BatchPlan(7, 4, 0, 2, 0)


@pytest.mark.parametrize("samples", [12, 13, 23, 24])
def test_every_sample_can_be_looked_at_before_an_epoch(samples):
    ranks = [list(BatchPlan(samples, 3, rank, 4, 7).every_sample(2)) for rank in range(4)]
    batches = [sum((request.own for request in requests), ()) for requests in zip(*ranks, strict=True)]
    assert len(batches) == -(-samples // 12) and all(len(set(batch)) == 12 for batch in batches)
    assert {sample for batch in batches for sample in batch} == set(range(samples))
    assert all(request.everyone == batch for request, batch in zip(ranks[0], batches, strict=True))
    assert batches[0] != next(BatchPlan(samples, 12, 0, 1, 7).requests(2)).own


# ---- look-alikes -----------------------------------------------------------------------

PEOPLE, SAMPLES = 24, 5
IDENTITY = np.arange(PEOPLE).repeat(SAMPLES)


def plan_of(group: int = 4, batch: int = 8, rank: int = 0, world: int = 1, told: bool = True) -> LookAlikePlan:
    """People 0 to 3 look alike, 4 to 7 do, and so on: their numbers are near."""
    plan = LookAlikePlan(IDENTITY, [group], batch, rank, world, seed=5)
    if told:
        clan = torch.arange(PEOPLE).div(group, rounding_mode="floor")
        apart = (clan[:, None] - clan).abs() + torch.eye(PEOPLE) * PEOPLE
        plan.look_alikes = apart.argsort(dim=1, stable=True)[:, : plan.look_alikes_of_each].int()[:, : PEOPLE - 1]
    return plan


def people(plan: LookAlikePlan, epoch: int = 0) -> np.ndarray:
    """Who is in each batch."""
    return np.array([IDENTITY[list(request.own)] for request in plan.requests(epoch)])


def test_an_epoch_has_every_sample_once():
    samples = [index for request in plan_of().requests(0) for index in request.own]
    assert sorted(samples) == list(range(len(IDENTITY)))


def test_groups_are_of_different_people_who_look_alike():
    groups = people(plan_of()).reshape(-1, 4)
    assert all(len(set(group)) == 4 for group in groups)
    assert all(len(set(group // 4)) == 1 for group in groups)


def test_no_clan_is_torn_where_some_look_like_strangers_too():
    """Each third person resembles two of the next clan more than its own; still all find their clans."""
    plan = plan_of()
    assert plan.look_alikes is not None
    for person in range(0, PEOPLE, 3):
        own = [other for other in range(person // 4 * 4, person // 4 * 4 + 4) if other != person]
        strangers = [(person // 4 * 4 + 4 + k) % PEOPLE for k in range(2)]
        rest = [other for other in plan.look_alikes[person].tolist() if other not in (*own, *strangers)]
        plan.look_alikes[person] = torch.tensor([*strangers, *own, *rest][:16])
    groups = people(plan).reshape(-1, 4)
    assert all(len(set(group // 4)) == 1 for group in groups)


def test_those_who_are_left_are_grouped_and_do_not_end_the_epoch():
    """Everybody resembles three others at random, so that many find too few of theirs free."""
    identity = np.arange(16).repeat(4)
    plan = LookAlikePlan(identity, [4], 4, 0, 1, seed=3)
    rng = np.random.default_rng(0)
    alike = [[other for other in rng.permutation(16) if other != person] for person in range(16)]
    plan.look_alikes = torch.tensor(np.array(alike), dtype=torch.int32)[:, :3]
    groups = np.array([identity[list(request.own)] for request in plan.requests(0)])
    assert sorted(groups.ravel()) == sorted(identity)
    assert all(len(set(group)) == 4 for group in groups)


def test_tightness_counts_who_is_near_one_another():
    alike = np.array([[1, 2], [0, 2], [1, 0], [0, 1]])
    assert tightness(alike, 3).tolist() == [6, 6, 6, 4]


def test_groups_change_with_the_epoch_and_not_with_the_asking():
    plan = plan_of()
    assert people(plan, 0).tolist() != people(plan, 1).tolist()
    assert people(plan, 1).tolist() == people(plan_of(), 1).tolist()
    assert [r.own for r in plan.requests(1, skip=4)] == [r.own for r in plan.requests(1)][4:]


def test_processes_share_what_one_has_and_groups_stay_together():
    one = [request.own for request in plan_of(batch=8).requests(3)]
    two = [list(plan_of(batch=4, rank=rank, world=2).requests(3)) for rank in (0, 1)]
    assert one == [a.own + b.own for a, b in zip(*two, strict=True)]


def test_before_anybody_is_told_the_order_is_the_published_one():
    plan = plan_of(told=False)
    assert sorted(index for request in plan.requests(0) for index in request.own) == list(range(len(IDENTITY)))
    assert len({tuple(group // 4) for group in people(plan).reshape(-1, 4)}) > 6


def test_groups_may_begin_or_grow_with_an_epoch():
    plan = plan_of()
    plan.groups = [None, 2, 4]
    alike = [len({tuple(group // 4) for group in people(plan, epoch).reshape(-1, 4)}) for epoch in (0, 1, 2, 3)]
    assert alike[0] > 6 and alike[2] == alike[3] == 6
    pairs = people(plan, 1).reshape(-1, 2)
    assert all(one // 4 == other // 4 and one != other for one, other in pairs)
    assert plan.look_alikes_of_each == 16


def test_people_of_few_samples_are_not_lost_and_the_rest_goes_on_alone():
    identity = np.array([0] * 9 + [1, 1, 2, 2, 3])
    plan = LookAlikePlan(identity, [2], 2, 0, 1, seed=1)
    plan.look_alikes = torch.tensor([[1, 2, 3], [0, 2, 3], [3, 1, 0], [2, 1, 0]], dtype=torch.int32)
    samples = [request.own for request in plan.requests(0)]
    assert sorted(index for pair in samples for index in pair) == list(range(14))
    assert sum(len(set(identity[list(pair)])) == 2 for pair in samples) >= 3


def test_someone_with_most_samples_does_not_have_all_look_alikes_read_for_each(monkeypatch):
    rows, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: rows.append(len(self)) or tolist(self))
    plan = plan_of()
    crowded = LookAlikePlan(np.append(IDENTITY, np.zeros(500, int)), [4], 8, 0, 1, seed=5)
    crowded.look_alikes = plan.look_alikes
    assert sorted(crowded.order(0).tolist()) == list(range(len(IDENTITY) + 500))
    assert sum(rows) == len(IDENTITY) + 500


def test_one_of_each_asks_for_all_identities_in_full_batches():
    plan = plan_of(batch=10, group=2)
    requests = list(plan.one_of_each(0))
    assert all(len(request.own) == 10 for request in requests)
    assert {int(IDENTITY[index]) for request in requests for index in request.own} == set(range(PEOPLE))
    assert [r.own for r in requests] != [r.own for r in plan.one_of_each(1)]


def test_the_rest_of_an_epoch_is_that_of_the_checkpoint():
    plan, resumed = plan_of(), plan_of(told=False)
    resumed.restore({"path": "a.pth", **plan.state()})
    assert people(resumed).tolist() == people(plan).tolist()
    resumed.restore({"path": "of another recipe"})
    assert resumed.look_alikes is None


@pytest.mark.parametrize(
    "look_alikes",
    [
        torch.zeros(PEOPLE, 3, dtype=torch.int32),
        torch.zeros(PEOPLE - 1, 16, dtype=torch.int32),
        torch.full((PEOPLE, 16), PEOPLE, dtype=torch.int32),
        torch.zeros(PEOPLE, 16),
        [[1]],
    ],
)
def test_look_alikes_of_other_data_are_refused(look_alikes):
    with pytest.raises(UserError, match=r"^checkpoint a\.pth: its look-alikes are not of these training data"):
        plan_of().restore({"path": "a.pth", "look_alikes": look_alikes})
