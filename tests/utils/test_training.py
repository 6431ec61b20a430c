"""One epoch of steps on a model small enough to follow by hand."""

import contextlib
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from utils.errors import UserError
from utils.optimization import LearningRate
from utils.training import Step, StepRules, run_epoch


@dataclass
class Batch:
    value: float
    size: int = 1


class Line(nn.Module):
    """Losses w * value and w, so that gradients are the values and 1."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.firsts, self.advances = [], 0

    def advance(self):
        self.advances += 1

    def losses(self, batch, step, first):
        self.firsts.append(first)
        return {"slope": (self.weight * batch.value).sum(), "plain": self.weight.sum()}


def train(values, accumulate=1, stop_after=None, start=None, weights=None):
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = LearningRate(optimizer, 10, 1.0, 1.0, 0, 1.0, by_step=True)
    rules = StepRules(weights or {"slope": 1.0, "plain": 0.5}, contextlib.nullcontext, accumulate, None, seed=0)
    start = start or Step(0, 0, len(values) // accumulate, 0)
    batches = iter([Batch(value) for value in values])
    step, record = run_epoch(model, model.losses, batches, optimizer, schedule, rules, start, stop_after)
    return model, step, record


def test_the_step_follows_the_weighted_sum_of_losses():
    # two steps of lr 1: -(1 + 0.5) - (3 + 0.5)
    model, step, record = train([1.0, 3.0])
    assert model.weight.item() == pytest.approx(-5.0)
    assert (step.iteration, step.number) == (2, 2)
    assert record["grad_norm"] == pytest.approx((1.5 + 3.5) / 2)
    assert set(record["train"]) == {"slope", "plain", "total"}


def test_accumulated_micro_batches_are_averaged_into_one_step():
    model, step, _ = train([1.0, 3.0], accumulate=2)
    assert model.weight.item() == pytest.approx(-(2.0 + 0.5))
    assert step.number == 1
    assert model.firsts == [True, False]


def test_training_stops_after_so_many_steps_of_the_run():
    _, step, _ = train([1.0] * 5, stop_after=3)
    assert (step.iteration, step.number) == (3, 3)
    _, step, _ = train([1.0] * 3, stop_after=12, start=Step(2, 2, 5, 10))
    assert (step.iteration, step.number) == (4, 12)


def test_the_curve_holds_means_over_portions_of_the_epoch():
    # 40 steps of an epoch: two of each portion; the weight is 0, -1, -2 ... before its steps
    _, _, record = train([1.0] * 40, weights={"slope": 1.0, "plain": 0.0}, start=Step(3, 0, 40, 120))
    curve = record["curve"]
    assert curve["epoch"] == pytest.approx([3 + portion / 20 for portion in range(1, 21)])
    assert curve["step"] == [120 + 2 * portion for portion in range(1, 21)]
    assert curve["plain"] == pytest.approx([-(2 * portion + 0.5) for portion in range(20)])
    assert set(curve) == {"epoch", "step", "lr", "slope", "plain", "total", "grad_norm"}
    assert record["train"]["plain"] == pytest.approx(sum(curve["plain"]) / 20)


def test_an_epoch_of_few_steps_has_a_point_for_each():
    _, _, record = train([1.0] * 5, stop_after=3)
    assert record["curve"]["epoch"] == pytest.approx([0.2, 0.4, 0.6])


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named():
    with pytest.raises(UserError, match="slope"):
        train([1.0, float("nan")])
