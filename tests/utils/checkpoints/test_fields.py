"""What a schema reads from a checkpoint is what it says, or is refused in a line."""

from typing import Any

import pytest
import torch

from utils.checkpoints.fields import CheckpointFields, read_fields
from utils.errors import UserError


class Place(CheckpointFields):
    step: int
    best: float
    evaluated: bool
    optimizer: dict[str, Any]
    metrics: dict[str, Any] | None = None


WHOLE = {"step": 3, "best": -1, "evaluated": True, "optimizer": {"state": {}}, "model": {"w": torch.ones(2)}}


def test_fields_are_read_and_all_others_left_alone():
    fields = read_fields(Place, WHOLE, "last.pth")
    assert (fields.step, fields.best, fields.evaluated, fields.metrics) == (3, -1.0, True, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": None}, "step: input should be a valid integer, not NoneType None"),
        ({"step": "3"}, "step: input should be a valid integer, not str '3'"),
        ({"step": True}, "step: input should be a valid integer, not bool True"),
        ({"best": float("nan")}, "best: input should be a finite number, not float nan"),
        ({"evaluated": 1}, "evaluated: input should be a valid boolean, not int 1"),
        ({"optimizer": torch.ones(2, 2)}, "optimizer: input should be a valid dictionary, not Tensor"),
        ({"step": ..., "best": ...}, "step: field required"),
    ],
    ids=str,
)
def test_the_first_field_that_is_missing_or_wrong_is_told_in_a_line(change, message):
    content = {name: value for name, value in (WHOLE | change).items() if value is not ...}
    with pytest.raises(UserError) as told:
        read_fields(Place, content, "last.pth")
    assert str(told.value).startswith(f"checkpoint last.pth does not hold this run's state: {message}")
    assert len(str(told.value).splitlines()) == 1 and len(str(told.value)) < 200
