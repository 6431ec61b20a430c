"""IRRA and RDE with the recorded parameters of a file of golden numbers."""

from functools import cache
from pathlib import Path

import torch
from golden_numbers import golden_device, golden_files

from dataset.batch import MaskedCaptions, PairBatch
from models.clip.irra import IRRA, IrraSettings
from models.clip.losses import PairLossSettings
from models.clip.rde import RDE, RdeSettings
from models.clip.towers import ClipSize

FILES = golden_files("clip")
IRRA_FILES, RDE_FILES = ([path for path in FILES if name in path.stem] for name in ("irra", "rde"))


@cache
def read(path: Path) -> dict:
    return torch.load(path, weights_only=True, map_location=golden_device())


def size_of(config: dict) -> ClipSize:
    return ClipSize(
        image_size=tuple(config["image_size"]),
        patch_size=config["patch_size"],
        stride=config["stride_size"],
        vision_width=config["vision_width"],
        vision_depth=config["vision_layers"],
        vision_heads=config["vision_heads"],
        text_width=config["text_width"],
        text_depth=config["text_layers"],
        text_heads=config["text_heads"],
        text_length=config["context_length"],
        vocabulary=config["vocab_size"],
        embedding=config["embed_dim"],
    )


def build_irra(golden: dict, losses: tuple[str, ...] = ("sdm", "mlm", "id"), masked_captions: bool = False) -> IRRA:
    config = golden["config"]
    settings = IrraSettings(
        losses=losses,
        classes=config["num_classes"],
        temperature=config["temperature"],
        cross_depth=config["cmt_depth"],
        cross_heads=config["cross_heads"],
        masked_captions=masked_captions,
    )
    model = IRRA(size_of(config), settings)
    model.load_state_dict(golden["state_dict"], strict=True)
    return model.to(golden_device())


def build_rde(golden: dict, loss: str = "TAL", batch_norm: str = "frozen") -> RDE:
    config = golden["config"]
    settings = RdeSettings(
        loss=loss,
        width=config["tse_width"],
        select_ratio=config["select_ratio"],
        batch_norm=batch_norm,
        pairs=PairLossSettings(config["tau"], config["margin"], config["temperature"]),
    )
    model = RDE(size_of(config), settings)
    model.load_state_dict(golden["state_dict"], strict=True)
    return model.to(golden_device())


def batch_of(golden: dict) -> PairBatch:
    inputs = golden["inputs"]
    masked = MaskedCaptions(inputs["mlm_ids"], inputs["mlm_labels"]) if "mlm_ids" in inputs else None
    return PairBatch(
        image=inputs["images"],
        ids=inputs["caption_ids"],
        identity=inputs["pids"],
        index=torch.arange(len(inputs["pids"])),
        masked=masked,
        clean=inputs.get("label_hat"),
    )


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_gradients(found: dict, expected: dict, zero: tuple[str, ...] = ()) -> None:
    """Within 1e-4 of the norm of each, and 1e-6; zero: ends of names of those that are rounding errors alone."""
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        error, bound = (found[name] - gradient).norm(), 1e-4 * gradient.norm() + 1e-6
        if name.endswith(zero):
            error, bound = found[name].abs().max(), 1e-5
        assert error <= bound, f"{name}: {error} of {gradient.norm()}"


def assert_near(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5, rtol: float = 0) -> None:
    torch.testing.assert_close(found.detach(), expected, atol=atol, rtol=rtol)
