"""The benchmark of dropout swaps what models drop by, and puts it back."""

import pytest
import torch
from test_train_step import TINY

from benchmarks.dropout import WAYS, dropping, layers, masks, show_least, steps
from benchmarks.full_size import configuration
from models.kernels.dropout import Dropout, dropout


def test_models_drop_the_way_that_is_named_and_afterwards_as_before():
    layer, states = Dropout(0.5).train(), torch.ones(64, 64)
    with dropping("none"):
        assert torch.equal(layer(states), states)
    with dropping("torch"):
        torch.manual_seed(3)
        dropped = layer(states)
    torch.manual_seed(3)
    assert torch.equal(dropped, torch.nn.functional.dropout(states, 0.5))
    torch.manual_seed(3)
    own = layer(states)
    torch.manual_seed(3)
    assert torch.equal(own, dropout(states, 0.5))


def test_every_way_takes_time_and_ratios_are_told(capsys):
    assert min(masks((4, 6, 8), 1).values()) > 0
    assert set(layers((4, 6, 8), torch.float32, 1)) == {"torch", "product"}
    found = steps(configuration(True, *TINY, dropout=True), "fp32", 4, 1)
    assert set(found) == set(WAYS) and min(found.values()) > 0
    show_least("step", {"torch": 3.0, "product": 2.0}, "seconds", 1.0)
    assert "ratio 1.50, time saved 33%" in capsys.readouterr().out


@pytest.mark.parametrize("way", WAYS)
def test_a_way_has_the_meaning_of_dropout_in_evaluation(way):
    states = torch.ones(8)
    assert torch.equal(WAYS[way](states, 0.5, False), states)
