"""torch.compile, as an option, changes no loss and no gradient."""

import shutil

import pytest
import torch
from tiny_model import IDENTITIES, lived_in, step, tiny_batch, tiny_model

from models.build import compile_layers
from models.objectives import only

pytestmark = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")


def test_compiled_layers_give_the_same_losses_and_gradients_for_captions_of_any_length():
    torch._dynamo.reset()
    found = []
    for compiled in (False, True):
        model = lived_in(tiny_model(only("cl", "pitm", "mae"), num_hidden_layers=3))
        names = list(model.state_dict())
        if compiled:
            compile_layers(model)
        losses = [step(model, tiny_batch(identities, seed=len(identities))) for identities in (IDENTITIES, [0, 1, 2])]
        sum(value for part in losses for value in part.values()).backward()
        found.append(
            [
                *(value for part in losses for value in part.values()),
                *(p.grad for p in model.parameters() if p.grad is not None),
            ]
        )
        assert list(model.state_dict()) == names
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert len(found[0]) == len(found[1])
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, atol=2e-5, rtol=1e-4)
