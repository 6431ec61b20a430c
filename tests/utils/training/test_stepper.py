"""Optimizer steps on a model small enough to follow by hand."""

import contextlib
import copy
import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from utils.errors import UserError
from utils.training.epoch_log import EpochLog, Step
from utils.training.learning_rate import CosineRate, Schedule
from utils.training.stepper import LateFlag, Stepper, StepRules, agree

NAN = float("nan")


class Line(nn.Module):
    """Losses w * value and w, so that gradients are the values and 1; keeps the value of each micro-batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, value):
        return {"slope": (self.weight * value).sum(), "plain": self.weight.sum()}, value


class Steep(Line):
    """At 0 the root has an infinite slope and the absolute value none: 0 * infinity."""

    def forward(self, value):
        return {"slope": (self.weight * value).sum(), "plain": self.weight.abs().sqrt().sum()}, value


class SteepAtFirst(Line):
    """At a value of 1 the slope is infinite."""

    def forward(self, value):
        plain = self.weight.abs().sqrt().sum() if value == 1.0 else self.weight.sum()
        return {"slope": (self.weight * value).sum(), "plain": plain}, value


def stepper_of(model, weights=None) -> Stepper:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    schedule = CosineRate(
        optimizer, Schedule(sched="cosine_step", epochs=10, min_lr=1.0, warmup_lr=1.0, warmup_epochs=0)
    )
    rules = StepRules(weights or {"slope": 1.0, "plain": 0.5}, contextlib.nullcontext, None, seed=0)
    return Stepper(model, optimizer, schedule, rules)


@dataclass
class Trained:
    """What a run of steps left."""

    model: nn.Module
    stepper: Stepper
    kept: list = field(default_factory=list)
    log: EpochLog = field(default_factory=EpochLog)
    step: Step = field(default_factory=lambda: Step(0, 0, 0, 0))

    @property
    def record(self) -> dict:
        return self.log.record(self.step, 1.0)


def train(values, accumulate=1, start=None, weights=None, model=None) -> Trained:
    """Steps over micro-batches of one value each, as the driver takes them."""
    model = model or Line()
    trained = Trained(model, stepper_of(model, weights))
    trained.step = start or Step(0, 0, len(values) // accumulate, 0)
    for first in range(0, len(values), accumulate):
        inputs = [(value,) for value in values[first : first + accumulate]]
        kept, taken = trained.stepper.take_step(
            inputs, trained.step, len(inputs), lambda first=inputs[0][0]: f"sample {first}", trained.log
        )
        trained.kept += kept if taken else []
        trained.step = trained.step.next
    trained.stepper.settle(trained.log)
    return trained


def test_the_step_follows_the_weighted_sum_of_losses():
    # two steps of lr 1: -(1 + 0.5) - (3 + 0.5)
    trained = train([1.0, 3.0])
    assert trained.model.weight.item() == pytest.approx(-5.0)
    assert trained.kept == [1.0, 3.0]
    assert trained.record["grad_norm"] == pytest.approx((1.5 + 3.5) / 2)
    assert set(trained.record["train"]) == {"slope", "plain", "total"}


def test_accumulated_micro_batches_are_averaged_into_one_step():
    trained = train([1.0, 3.0], accumulate=2)
    assert trained.model.weight.item() == pytest.approx(-(2.0 + 0.5))
    assert (trained.step.number, trained.kept) == (1, [1.0, 3.0])


def test_gradients_are_gone_after_a_step_taken_or_not():
    for value in (1.0, NAN):
        assert train([value]).model.weight.grad is None


def test_the_curve_holds_means_over_portions_of_the_epoch():
    # 40 steps of an epoch: two of each portion; the weight is 0, -1, -2 ... before its steps
    record = train([1.0] * 40, weights={"slope": 1.0, "plain": 0.0}, start=Step(3, 0, 40, 120)).record
    curve = record["curve"]
    assert curve["epoch"] == pytest.approx([3 + portion / 20 for portion in range(1, 21)])
    assert curve["step"] == [120 + 2 * portion for portion in range(1, 21)]
    assert curve["plain"] == pytest.approx([-(2 * portion + 0.5) for portion in range(20)])
    assert set(curve) == {"epoch", "step", "lr", "slope", "plain", "total", "grad_norm"}
    assert record["train"]["plain"] == pytest.approx(sum(curve["plain"]) / 20)


def test_an_epoch_of_few_steps_has_a_point_for_each():
    record = train([1.0] * 3, start=Step(0, 0, 5, 0)).record
    assert record["curve"]["epoch"] == pytest.approx([0.2, 0.4, 0.6])


def test_alone_a_process_agrees_with_itself():
    assert agree(0, False) == (0, False)
    assert agree(15, True) == (15, True)


class Watched(Line):
    """Writes down when it is computed."""

    def __init__(self, events):
        super().__init__()
        self.events = events

    def forward(self, value):
        self.events.append("compute")
        return super().forward(value)


def test_a_step_is_read_when_the_next_one_is_computed_and_before_that_moves_anything(monkeypatch):
    events = []
    monkeypatch.setattr(LateFlag, "read", lambda flag: events.append("read") or bool(flag.flag))
    model = Watched(events)
    stepper, log, step = stepper_of(model), EpochLog(), Step(0, 0, 2, 0)
    monkeypatch.setattr(stepper, "update", lambda taken: events.append("update"))
    for _ in range(2):
        stepper.take_step([(1.0,)], step, 1, str, log)
        step = step.next
    assert events == ["compute", "update", "compute", "read", "update"]
    assert (log.samples, stepper.under_way.step.number) == (1, 1)
    stepper.settle(log)
    stepper.settle(log)
    assert (log.samples, stepper.under_way) == (2, None)


# ---- steps that are not finite ---------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
def test_a_step_that_is_not_finite_is_not_taken(value, caplog):
    # -(1.5) - (3.5): the second step never was
    trained = train([1.0, value, 3.0])
    assert trained.model.weight.item() == pytest.approx(-5.0)
    assert (trained.step.number, trained.kept, trained.record["skipped_steps"]) == (3, [1.0, 3.0], 1)
    assert all(math.isfinite(number) for number in trained.record["train"].values())
    assert f"skipped step 1 (epoch 0): process 0: slope not finite for sample {value}" in caplog.text


def test_a_gradient_that_is_not_finite_counts_though_its_loss_is_finite(caplog):
    trained = train([1.0], model=Steep())
    assert (trained.model.weight.item(), trained.step.number, trained.stepper.failed) == (0.0, 1, 1)
    assert "gradient not finite" in caplog.text


def test_what_a_broken_step_is_asked_for_leaves_the_gradients_of_the_next_one(caplog):
    # the first step has a slope that is infinite: it is computed once more while the second one is under way
    trained = train([1.0, 2.0], model=SteepAtFirst())
    assert trained.model.weight.item() == pytest.approx(-2.5)
    assert "skipped step 0 (epoch 0): process 0: gradient not finite for sample 1.0" in caplog.text


def test_a_step_that_is_not_finite_moves_neither_parameters_nor_moments():
    model = Line()
    stepper = stepper_of(model)
    stepper.optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    log = EpochLog()
    stepper.take_step([(1.0,)], Step(0, 0, 2, 0), 1, str, log)
    before = copy.deepcopy([model.state_dict(), stepper.optimizer.state_dict()])
    stepper.take_step([(NAN,)], Step(0, 1, 2, 1), 1, str, log)
    assert str(before) == str([model.state_dict(), stepper.optimizer.state_dict()])


def test_the_third_failure_in_a_row_stops_the_run_and_names_what_and_where():
    with pytest.raises(UserError, match=r"3 steps in a row .*step 3 \(epoch 0\): process 0: slope.* for sample nan"):
        train([1.0, NAN, NAN, NAN, 1.0])


def test_a_parameter_that_is_not_finite_ends_the_run_at_once():
    model = Line()
    with torch.no_grad():
        model.weight[0] = NAN
    said = r"cannot go on after step 0 \(epoch 0\): process 0: parameter weight not finite for sample 1.0; .*--resume"
    with pytest.raises(UserError, match=said):
        train([1.0, 1.0], model=model)


def test_two_failures_and_then_a_good_step_begin_anew():
    trained = train([NAN, NAN, 1.0, NAN, NAN, 1.0])
    assert (trained.step.number, trained.kept, trained.record["skipped_steps"]) == (6, [1.0, 1.0], 4)


def test_an_epoch_without_a_step_that_was_taken_has_a_record():
    record = train([NAN, NAN]).record
    assert (record["train"], record["skipped_steps"], record["curve"]["step"]) == ({}, 2, [])
