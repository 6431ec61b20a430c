"""Small models of CLIP's family, and their files in the layouts of published ones."""

from typing import Any

import torch

from models.clip.irra import IRRA, IrraSettings
from models.clip.rde import RDE, RdeSettings
from models.clip.towers import ClipSize

SIZES = {
    "vision_width": 16,
    "vision_depth": 2,
    "vision_heads": 2,
    "text_width": 16,
    "text_depth": 2,
    "text_heads": 2,
    "embedding": 8,
}
SIZE = ClipSize(image_size=(64, 32), **SIZES)
CLIP_SETTINGS = ["image_res=[64,32]", *(f"clip.{name}={value}" for name, value in SIZES.items()), "workers=0"]
WIDTH = 12  # of RDE's embedding of selected tokens


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough to tell captions apart."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def square_clip() -> dict[str, torch.Tensor]:
    """OpenAI's layout: positions of square images, in float16, and keys that are no parameters."""
    model = randomised(IRRA(ClipSize(image_size=(48, 48), **SIZES), IrraSettings(("itc",))))
    numbers = {"input_resolution": 48, "context_length": 77, "vocab_size": 49408}
    extra = {**{name: torch.tensor(value) for name, value in numbers.items()}, "logit_scale": torch.tensor(4.6)}
    return {**{name: value.half() for name, value in model.base_model.state_dict().items()}, **extra}


def clip_files() -> dict[str, dict[str, Any]]:
    """What lies in a file of each: CLIP's, IRRA's and RDE's."""
    return {
        "ViT-B-16.pt": square_clip(),
        "IRRA.pth": {"model": randomised(IRRA(SIZE, IrraSettings(classes=5))).state_dict()},
        "RDE.pth": {"model": randomised(RDE(SIZE, RdeSettings(width=WIDTH))).state_dict()},
    }
