"""Parameter groups, the published learning-rate positions, and what a step does with its gradients."""

import math

import pytest
import torch
from torch import nn

from utils.training.learning_rate import CosineRate, Schedule
from utils.training.optimization import Optimizer, clip_gradients, load_moments, make_optimizer

EPOCHS, LOW, WARM = 30, 1e-6, 1e-7


def schedule(by_step: bool = False, warmup: int = 1) -> CosineRate:
    weight = nn.Parameter(torch.zeros(2, 2))
    settings = Schedule(
        sched="cosine_step" if by_step else "cosine",
        epochs=EPOCHS,
        min_lr=LOW,
        warmup_lr=WARM,
        warmup_epochs=warmup,
    )
    return CosineRate(torch.optim.AdamW([weight], lr=1e-5), settings)


def rate(learning: CosineRate, epoch: int, iteration: int, iterations: int = 500) -> float:
    learning.move_to(epoch, iteration, iterations)
    return learning.schedule.optimizer.param_groups[0]["lr"]


def cosine(position: float) -> float:
    return LOW + 0.5 * (1e-5 - LOW) * (1 + math.cos(math.pi * position / EPOCHS))


def test_epoch_zero_moves_at_every_hundredth_iteration_until_the_warm_up_ends():
    learning = schedule()
    assert rate(learning, 0, 0) == pytest.approx(WARM)
    assert rate(learning, 0, 99) == pytest.approx(WARM)
    assert rate(learning, 0, 100) == pytest.approx(cosine(1))
    assert rate(learning, 0, 400) == pytest.approx(cosine(1))


def test_later_epochs_stand_at_their_number_and_the_warm_up():
    learning = schedule()
    for epoch in (1, 2, 15):
        assert rate(learning, epoch, 0) == pytest.approx(cosine(epoch + 1))
        assert rate(learning, epoch, 499) == pytest.approx(cosine(epoch + 1))
    assert rate(learning, 29, 0) == pytest.approx(LOW)


def test_by_step_the_rate_moves_with_every_iteration():
    learning = schedule(by_step=True)
    assert rate(learning, 0, 250) == pytest.approx((WARM + 1e-5) / 2)
    assert rate(learning, 10, 250) == pytest.approx(cosine(10.5))


def test_a_number_of_steps_takes_the_place_of_epochs():
    settings = Schedule(sched="cosine_step", epochs=EPOCHS, min_lr=LOW, warmup_lr=WARM, warmup_epochs=3, steps=600)
    assert settings.all_epochs is None
    learning = CosineRate(torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-5), settings)
    assert rate(learning, 0, 30, 500) == pytest.approx((WARM + 1e-5) / 2)  # 1.5 of 30 epochs' warm-up of 3
    assert rate(learning, 0, 300, 500) == rate(learning, 1, 100, 200) == pytest.approx(cosine(15))
    assert rate(learning, 1, 100, 500) == pytest.approx(LOW)


def test_a_learning_rate_depends_on_where_a_run_stands_and_not_on_how_it_came_there():
    walked, jumped = schedule(), schedule()
    for epoch in range(4):
        for iteration in (0, 150, 400):
            rate(walked, epoch, iteration)
    assert rate(walked, 3, 400) == rate(jumped, 3, 400)


def test_special_names_learn_faster_and_one_dimensional_parameters_do_not_decay():
    model = nn.ModuleDict({"prd_head": nn.Linear(2, 2), "mrtd_head": nn.Linear(2, 2), "body": nn.Linear(2, 2)})
    model["norm"] = nn.LayerNorm(2)
    frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    optimizer = make_optimizer(
        [*model.named_parameters(), ("frozen", frozen)],
        Optimizer(),
        fast={name for name, _ in model.named_parameters() if "head" in name},
    )
    settings = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert id(frozen) not in settings
    for name, parameter in model.named_parameters():
        fast = "head" in name
        decays = name.endswith("weight") and "norm" not in name
        assert settings[id(parameter)] == (1e-4 if fast else 1e-5, 0.02 if decays else 0.0), name


def test_gradients_are_scaled_to_the_greatest_norm_and_the_norm_before_is_told():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.grad = torch.full((1, 1), 4.0)
    assert float(clip_gradients(layer, 1.0)) == pytest.approx(4.0)
    assert float(layer.weight.grad) == pytest.approx(1.0, rel=1e-4)
    layer.weight.grad = torch.full((1, 1), 4.0)
    clip_gradients(layer, None)
    assert float(layer.weight.grad) == pytest.approx(4.0)


def test_a_resumed_optimizer_keeps_its_moments_and_takes_the_settings_of_now():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    old = make_optimizer([("weight", weight)], Optimizer(lr=0.1))
    weight.grad = torch.full((2, 2), 3.0)
    old.step()
    new = make_optimizer([("weight", weight)], Optimizer(lr=0.1, weight_decay=0.5, betas=[0.8, 0.99], eps=1e-6))
    load_moments(new, old.state_dict())
    (group,) = new.param_groups
    assert (group["weight_decay"], group["betas"], group["eps"]) == (0.5, (0.8, 0.99), 1e-6)
    assert torch.equal(new.state[weight]["exp_avg"], old.state[weight]["exp_avg"])
    assert new.state[weight]["step"] == 1
