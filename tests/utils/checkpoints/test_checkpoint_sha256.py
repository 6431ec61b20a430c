"""The SHA-256 of what a checkpoint holds, whatever its order."""

from collections import OrderedDict

import pytest
import torch

from utils.checkpoints.files import sha256_of


def test_a_sha256_does_not_depend_on_order_strides_or_type_of_mapping():
    number = torch.arange(6.0).reshape(2, 3)
    one = {"a": number, "b": [1, {"x": 2.0, 3: None}], "c": torch.ones(2, dtype=torch.bfloat16)}
    other = OrderedDict(
        [("c", torch.ones(4, dtype=torch.bfloat16)[::2]), ("b", [1, {3: None, "x": 2.0}]), ("a", number.T.clone().T)]
    )
    assert sha256_of(one) == sha256_of(other)
    assert len(sha256_of(one)) == 64


def test_every_difference_makes_another_sha256():
    different = [
        1,
        1.0,
        True,
        "1",
        b"1",
        None,
        0.0,
        -0.0,
        [],
        (),
        {},
        [1],
        (1,),
        [[1]],
        [1, 1],
        {1: 1},
        {"1": 1},
        {1: [1]},
        {1},
        torch.ones(1),
        torch.ones(1, dtype=torch.int64),
        torch.ones(1, dtype=torch.int32),
        torch.tensor(1.0),
        torch.zeros(1, dtype=torch.int32),
        torch.zeros(1, 1),
        torch.ones(1, 1),
        torch.ones(1, dtype=torch.bool),
        torch.ones(1, dtype=torch.bfloat16),
        torch.zeros(0),
        torch.ones(1, dtype=torch.float16),
        torch.zeros(0, 1),
        torch.tensor([-0.0]),
        torch.tensor([0.0]),
        ["ab", "c"],
        ["a", "bc"],
        ["a", ["b"]],
        [["a"], "b"],
        "ab",
        torch.float32,
        {"a": 1, "b": 2},
        {"a": 2, "b": 1},
    ]
    digests = [sha256_of(value) for value in different]
    assert len(set(digests)) == len(different)


def test_there_is_no_sha256_of_what_a_checkpoint_cannot_hold():
    with pytest.raises(TypeError, match="no SHA-256 of function"):
        sha256_of({"a": [lambda: None]})
