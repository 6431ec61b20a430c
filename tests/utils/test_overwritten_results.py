"""Steps of a model that overwrites what it returned before, as CUDA graphs do."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from utils.training.epoch_log import EpochLog, Step
from utils.training.learning_rate import CosineRate, Schedule
from utils.training.optimization import Optimizer, make_optimizer
from utils.training.stepper import Stepper, StepRules


class Graphed(nn.Module):
    """A model whose entry lies in the same memory in every step; so does its gradient, when it is asked again."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.entry = torch.zeros(())
        self.last = None

    def forward(self, number):
        if self.last is not None:
            self.last.fill_(torch.nan)
        self.entry.fill_(number)
        self.weight.register_post_accumulate_grad_hook(self.remember)
        return {"loss": self.weight * number}, self.entry

    def remember(self, weight):
        self.last = weight.grad


@pytest.mark.parametrize("overwritten", [False, True])
def test_results_of_a_step_outlive_the_next_one(overwritten, monkeypatch):
    began = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: began.append(1))
    model = Graphed()
    optimizer = make_optimizer(model.named_parameters(), Optimizer())
    rules = StepRules({"loss": 1.0}, nullcontext, None, 0, overwritten)
    stepper, log = Stepper(model, optimizer, CosineRate(optimizer, Schedule()), rules), EpochLog()
    kept = [stepper.take_step([(number,)], Step(0, 0, 9, 0), 1, str, log)[0][0] for number in (1.0, 2.0)]
    assert [float(entry) for entry in kept] == ([1.0, 2.0] if overwritten else [2.0, 2.0])
    assert len(began) == 2 * overwritten
    model.weight.grad = torch.ones(())
    model.last = model.weight.grad
    with stepper.gradients_aside():
        stepper.compute_gradients([(3.0,)], Step(0, 0, 9, 0))
    assert bool(model.weight.grad.isfinite()) == overwritten
