"""Reads a model that was exported: a folder of safetensors, settings and word pieces."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from configs.schema import resolve_config
from dataset.tokens import CaptionTokenizer
from evaluation.trained import TrainedModel, evaluation_setting
from models.build import build_model
from utils.errors import UserError
from utils.files import read_json
from utils.precision import set_precision

WEIGHTS, SETTINGS, TOKENIZER, CARD = "model.safetensors", "config.json", "tokenizer.json", "README.md"
TRAINING_ONLY = ("_m.", "_queue", "queue_ptr", "prd_head", "mrtd_head")  # parts of the names of tensors


def is_needed(name: str) -> bool:
    """Whether search needs this tensor."""
    return not any(part in name for part in TRAINING_ONLY)


def read_pretrained(folder: Path, overrides: list[str], device: torch.device) -> TrainedModel:
    """The model that `search.export.export` wrote, with `overrides` (KEY.PATH=VALUE) on its settings.

    Raises UserError when the folder does not hold one.
    """
    settings = read_json(folder / SETTINGS, "settings of an exported model")
    config = resolve_config(settings, f"{folder / SETTINGS}", overrides)
    try:
        weights = load_file(folder / WEIGHTS)
        words = (folder / TOKENIZER).read_text(encoding="utf-8")
    except (OSError, SafetensorError, UnicodeDecodeError) as error:
        raise UserError(f"{folder} holds no whole exported model ({error}); export it again") from None
    tokenizer = CaptionTokenizer.from_json(words)
    model = build_model(config, tokenizer.special)
    own = {name: value for name, value in model.state_dict().items() if is_needed(name)}
    odd = sorted(own.keys() ^ weights.keys()) or [name for name in own if own[name].shape != weights[name].shape]
    if odd:
        raise UserError(f"{folder / WEIGHTS} does not fit {SETTINGS} beside it: {odd[0]}")
    model.load_state_dict(weights, strict=False)
    setting = evaluation_setting(config, device, set_precision(config.precision, device))
    return TrainedModel(folder / WEIGHTS, config, model.to(device).eval(), tokenizer, setting)
