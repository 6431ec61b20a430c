"""Weights are found wherever other programs keep them, or one line says why not."""

import logging

import pytest
import torch

from utils.checkpoints.files import read_checkpoint
from utils.errors import UserError

WEIGHTS = {"a.weight": torch.arange(3.0), "b.module.bias": torch.ones(1)}
OTHER = {"a.weight": torch.zeros(3)}


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in WEIGHTS.items()}


FILES = {
    "plain": WEIGHTS,
    **{key: {key: WEIGHTS, "epoch": 3} for key in ("state_dict", "model_state_dict", "net", "module", "ema")},
    "nested": {"model": {"state_dict": WEIGHTS, "step": 1}},
    "twice nested": {"state": 1, "network": {"model": {"module": WEIGHTS}}},
    "averaged, nested": {"model_ema": {"decay": 0.9, "module": WEIGHTS}},
    "averaged beside": {"state_dict": WEIGHTS, "state_dict_ema": OTHER},
    "averaged beside params": {"params_ema": OTHER, "params": WEIGHTS},
    "model before others": {"model": WEIGHTS, "net": OTHER, "ema": OTHER},
    "beside a loose tensor": {"state_dict": WEIGHTS, "best": torch.ones(1)},
    "empty beside": {"model": {}, "state_dict": WEIGHTS},
    "parallel": {"model": prefixed("module.")},
    "compiled": {"model": prefixed("_orig_mod.")},
    "both": {"state_dict": prefixed("_orig_mod.module.")},
    "both, the other way": prefixed("module._orig_mod."),
    "parallel twice": {"net": prefixed("module.module.")},
    "a part compiled": {"a._orig_mod.weight": WEIGHTS["a.weight"], "b.module.bias": WEIGHTS["b.module.bias"]},
    "a part compiled twice": {"a._orig_mod._orig_mod.weight": WEIGHTS["a.weight"], "b.module.bias": torch.ones(1)},
}


@pytest.mark.parametrize("kind", FILES)
def test_weights_are_found_under_their_plain_names(kind, tmp_path, caplog):
    torch.save(FILES[kind], tmp_path / "a.pth")
    with caplog.at_level(logging.INFO):
        read = read_checkpoint(tmp_path / "a.pth")
    assert read["model"].keys() == WEIGHTS.keys()
    assert all(torch.equal(read["model"][name], value) for name, value in WEIGHTS.items())
    assert ("2 tensors" in caplog.text) == (
        not isinstance(FILES[kind].get("model"), dict) or "state_dict" in caplog.text
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": WEIGHTS, "net": OTHER}, "holds weights under `state_dict` and `net`; keep one of them"),
        ({"ema": WEIGHTS, "model_ema": OTHER}, "holds weights under `ema` and `model_ema`"),
        ({"model": {"state_dict": WEIGHTS, "net": OTHER}}, "under `state_dict` and `net`"),
        (
            {"model": {**WEIGHTS, **prefixed("module.")}},
            "with and without a prefix, such as module.a.weight and a.weight",
        ),
        ({**prefixed("_orig_mod."), **prefixed("module.")}, "such as _orig_mod.a.weight and module.a.weight"),
        ({"a._orig_mod.weight": torch.ones(1), "a.weight": torch.ones(1)}, "in the same name; save one model alone"),
        ({"generator": WEIGHTS}, "holds no named tensors"),
        ({"model": {"net": {"state_dict": {"model": WEIGHTS}}}}, "holds no named tensors"),  # far too deep
    ],
)
def test_what_is_not_clear_is_one_line(content, words, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError) as told:
        read_checkpoint(tmp_path / "a.pth", "vision_checkpoint")
    assert str(told.value).startswith(f"vision_checkpoint {tmp_path / 'a.pth'} holds") and words in str(told.value)
