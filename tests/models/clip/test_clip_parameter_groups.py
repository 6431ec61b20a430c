"""Learning rates by name and epoch."""

import pytest
import torch
from torch import nn

from models.clip.parameter_groups import ClipOptimizer, RdeOptimizer, make_clip_optimizer
from utils.training.learning_rate import FactorRate, FactorSchedule


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("base_model.visual.proj", (1, 4)),
        ("base_model.visual.ln_pre.bias", (2, 0)),
        ("base_model.transformer.resblocks.0.attn.in_proj_bias", (2, 0)),
        ("cross_attn.in_proj_weight", (5, 4)),
        ("cross_modal_transformer.resblocks.0.ln_1.weight", (5, 4)),
        ("cross_attn.in_proj_bias", (2, 0)),
        ("ln_pre_t.weight", (1, 4)),
        ("ln_post.bias", (2, 0)),
        ("classifier.weight", (5, 4)),
        ("classifier.bias", (5, 0)),
        ("mlm_head.ln.bias", (5, 0)),
        ("visul_emb_layer.mlp.bns.0.weight", (7, 4)),
        ("texual_emb_layer.linear.bias", (7, 0)),
    ],
)
def test_rules_by_name(name, rates):
    assert RdeOptimizer(lr=1.0, weight_decay=4.0, lr_selection=7.0).rates_of(name) == rates


def test_irra_has_no_rate_of_its_own_for_what_selects_tokens():
    assert ClipOptimizer(lr=1.0, weight_decay=4.0).rates_of("visul_emb_layer.fc.weight") == (1, 4)


@pytest.mark.parametrize("opt", ["adam", "adamW", "sgd"])
def test_groups_hold_each_parameter_once_and_the_first_has_the_usual_rate(opt):
    names = ["classifier.weight", "proj", "a.bias", "b.bias", "classifier.bias"]
    parameters = {name: nn.Parameter(torch.zeros(1)) for name in names}
    parameters["frozen"] = nn.Parameter(torch.zeros(1), requires_grad=False)
    groups = make_clip_optimizer(parameters.items(), ClipOptimizer(lr=1.0, weight_decay=4.0, opt=opt)).param_groups
    found = [(group["lr"], group["weight_decay"], [id(one) for one in group["params"]]) for group in groups]
    ids = {name: id(value) for name, value in parameters.items()}
    assert found == [
        (1.0, 4.0, [ids["proj"]]),
        (5.0, 4.0, [ids["classifier.weight"]]),
        (2.0, 0.0, [ids["a.bias"], ids["b.bias"]]),
        (5.0, 0.0, [ids["classifier.bias"]]),
    ]


@pytest.mark.parametrize(("done", "factor"), [(0, 0.1), (1, 0.28), (4, 0.82), (5, 1.0), (59, 0.000815), (60, 0.0)])
def test_rise_and_fall(done, factor):
    assert FactorSchedule().factor(done) == pytest.approx(factor, abs=1e-6)


def test_steps_at_milestones():
    schedule = FactorSchedule(sched="step", milestones=[8, 6], gamma=0.5)
    assert [schedule.factor(done) for done in (5, 6, 7, 8, 30)] == [1, 0.5, 0.5, 0.25, 0.25]


def test_each_group_keeps_its_own_rate_times_the_factor():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 5.0)]
    optimizer = torch.optim.Adam(groups)
    by_epoch, by_step = (FactorRate(optimizer, FactorSchedule(sched=sched)) for sched in ("cosine", "cosine_step"))
    by_epoch.move_to(0, 50, 100)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    by_step.move_to(0, 50, 100)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.19, 0.95])


@pytest.mark.parametrize(
    ("sched", "rates"), [("cosine", {0: 1.0, 4: 8.2, 5: 10.0, 60: 2.0}), ("step", {0: 1.0, 5: 10.0, 20: 1.0, 50: 0.1})]
)
def test_the_lowest_rate_is_that_of_the_cosine_alone(sched, rates):
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=10.0)
    rate = FactorRate(optimizer, FactorSchedule(sched=sched, min_lr=2.0))
    for epoch, expected in rates.items():  # as the published scheduler has them
        rate.move_to(epoch, 0, 100)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_a_number_of_steps_takes_the_place_of_epochs():
    optimizer = torch.optim.Adam([{"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0}])
    rate = FactorRate(optimizer, FactorSchedule(sched="cosine_step", epochs=9, warmup_epochs=5, steps=90))
    rate.move_to(1, 20, 30)  # 50 of 90 steps
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.0)
    rate.move_to(2, 10, 30)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
