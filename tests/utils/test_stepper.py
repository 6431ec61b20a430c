"""One epoch of steps on a model small enough to follow by hand."""

import contextlib
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from utils.epoch_log import EpochLog, Step
from utils.errors import UserError
from utils.optimization import LearningRate
from utils.stepper import Stepper, StepRules, Trained, Wishes

NAN = float("nan")


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

    def losses(self, batch, step, first):
        self.firsts.append(first)
        return {"slope": (self.weight * batch.value).sum(), "plain": self.weight.sum()}

    def advance(self):
        self.advances += 1


def stepper_of(model, accumulate=1, weights=None) -> Stepper:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = LearningRate(optimizer, 10, 1.0, 1.0, 0, 1.0, by_step=True)
    rules = StepRules(weights or {"slope": 1.0, "plain": 0.5}, contextlib.nullcontext, accumulate, None, seed=0)
    trained = Trained(model, model.losses, model.advance, lambda batch: f"sample {batch.value}")
    return Stepper(trained, optimizer, schedule, rules)


def train(values, accumulate=1, stop_after=None, start=None, weights=None, wishes=None):
    model, log, granted = Line(), EpochLog(), []
    start = start or Step(0, 0, len(values) // accumulate, 0)
    batches = iter([Batch(value) for value in values])
    step = stepper_of(model, accumulate, weights).run_epoch(
        batches, start, log, stop_after, wishes or (lambda step: Wishes()), lambda step, wish: granted.append(wish)
    )
    return model, step, log.record(step, 1.0), granted


def test_the_step_follows_the_weighted_sum_of_losses():
    # two steps of lr 1: -(1 + 0.5) - (3 + 0.5)
    model, step, record, _ = train([1.0, 3.0])
    assert model.weight.item() == pytest.approx(-5.0)
    assert (step.iteration, step.number, model.advances) == (2, 2, 2)
    assert record["grad_norm"] == pytest.approx((1.5 + 3.5) / 2)
    assert set(record["train"]) == {"slope", "plain", "total"}


def test_accumulated_micro_batches_are_averaged_into_one_step():
    model, step, *_ = train([1.0, 3.0], accumulate=2)
    assert model.weight.item() == pytest.approx(-(2.0 + 0.5))
    assert (step.number, model.advances) == (1, 1)
    assert model.firsts == [True, False]


def test_training_stops_after_so_many_steps_of_the_run():
    _, step, *_ = train([1.0] * 5, stop_after=3)
    assert (step.iteration, step.number) == (3, 3)
    _, step, *_ = train([1.0] * 3, stop_after=12, start=Step(2, 2, 5, 10))
    assert (step.iteration, step.number) == (4, 12)


def test_the_curve_holds_means_over_portions_of_the_epoch():
    # 40 steps of an epoch: two of each portion; the weight is 0, -1, -2 ... before its steps
    _, _, record, _ = train([1.0] * 40, weights={"slope": 1.0, "plain": 0.0}, start=Step(3, 0, 40, 120))
    curve = record["curve"]
    assert curve["epoch"] == pytest.approx([3 + portion / 20 for portion in range(1, 21)])
    assert curve["step"] == [120 + 2 * portion for portion in range(1, 21)]
    assert curve["plain"] == pytest.approx([-(2 * portion + 0.5) for portion in range(20)])
    assert set(curve) == {"epoch", "step", "lr", "slope", "plain", "total", "grad_norm"}
    assert record["train"]["plain"] == pytest.approx(sum(curve["plain"]) / 20)


def test_an_epoch_of_few_steps_has_a_point_for_each():
    _, _, record, _ = train([1.0] * 5, stop_after=3)
    assert record["curve"]["epoch"] == pytest.approx([0.2, 0.4, 0.6])


def test_wishes_are_asked_for_each_step_and_granted_after_it():
    *_, granted = train([1.0] * 3, wishes=lambda step: Wishes(15 if step.number == 2 else 0, step.number == 1))
    assert granted == [Wishes(0, False), Wishes(0, True), Wishes(15, False)]


# ---- steps that are not finite ---------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
def test_a_step_that_is_not_finite_is_not_taken(value, caplog):
    # -(1.5) - (3.5): the second step never was
    model, step, record, _ = train([1.0, value, 3.0])
    assert model.weight.item() == pytest.approx(-5.0)
    assert (step.number, model.advances, record["skipped_steps"]) == (3, 2, 1)
    assert all(math.isfinite(number) for number in record["train"].values())
    assert f"skipped step 1 (epoch 0): process 0: slope not finite for sample {value}" in caplog.text


def test_a_gradient_that_is_not_finite_counts_though_its_loss_is_finite(caplog):
    class Steep(Line):
        def losses(self, batch, step, first):
            return {"slope": (self.weight * batch.value).sum(), "plain": self.weight.abs().sqrt().sum()}

    model = Steep()  # at 0 the root has an infinite slope and the absolute value none: 0 * infinity
    stepper = stepper_of(model)
    step = stepper.run_epoch(
        iter([Batch(1.0)]), Step(0, 0, 1, 0), EpochLog(), None, lambda step: Wishes(), lambda step, wish: None
    )
    assert (model.weight.item(), step.number, stepper.failed) == (0.0, 1, 1)
    assert "gradient not finite" in caplog.text


def test_the_third_failure_in_a_row_stops_the_run_and_names_what_and_where():
    with pytest.raises(UserError, match=r"3 steps in a row .*step 3 \(epoch 0\): process 0: slope.* for sample nan"):
        train([1.0, NAN, NAN, NAN, 1.0])


def test_two_failures_and_then_a_good_step_begin_anew():
    model, step, record, _ = train([NAN, NAN, 1.0, NAN, NAN, 1.0])
    assert (step.number, model.advances, record["skipped_steps"]) == (6, 2, 4)


def test_an_epoch_without_a_step_that_was_taken_has_a_record():
    _, _, record, _ = train([NAN, NAN])
    assert (record["train"], record["skipped_steps"], record["curve"]["step"]) == ({}, 2, [])
