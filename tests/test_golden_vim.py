"""Our Vision Mamba against tokens and gradients computed by the published code on tiny random encoders.

Takes every `*vim*.pt` of tests/golden, or of the folder GOLDEN_DIR, whatever sizes it states.
GOLDEN_DEVICE=cuda compares what a GPU computes.
"""

from pathlib import Path

import pytest
import torch
from golden_numbers import golden_device, golden_files, golden_folder

from models.image_encoder import VisionSize
from models.vision_mamba import VisionMamba

FILES = golden_files("vim")
pytestmark = [
    pytest.mark.skipif(not FILES, reason=f"GOLDEN_DIR {golden_folder()} has no numbers of Vision Mamba"),
    pytest.mark.parametrize("path", FILES or [None], ids=lambda path: path.stem if path else "absent"),
]


def read(path: Path) -> tuple[dict, VisionMamba]:
    """The numbers, and an encoder of the stated sizes with the recorded parameters."""
    golden = torch.load(path, weights_only=True, map_location=golden_device())
    config = golden["config"]
    sides = config["img_size"]
    sides = tuple(sides) if isinstance(sides, list | tuple) else (sides, sides)
    size = VisionSize(
        sides,
        config["patch_size"],
        config["embed_dim"],
        config["depth"],
        drop_path=config["drop_path_rate"],
        states=config["d_state"],
    )
    encoder = VisionMamba(size)
    own = {name: value for name, value in golden["state_dict"].items() if not name.startswith("head.")}
    encoder.load_state_dict(own, strict=True)
    return golden, encoder.eval().to(golden_device())


@torch.no_grad()
def test_tokens(path):
    golden, encoder = read(path)
    place = golden["cls_position"]
    assert encoder.cls_index(golden["num_patches"]) == place
    tokens = encoder.encode(encoder.embed_patches(golden["image"]))
    torch.testing.assert_close(tokens, golden["tokens"], atol=1e-5, rtol=0)
    first = encoder(golden["image"])
    torch.testing.assert_close(first[:, 0], golden["cls_feature"], atol=1e-5, rtol=0)
    patches = torch.cat([golden["tokens"][:, :place], golden["tokens"][:, place + 1 :]], 1)
    torch.testing.assert_close(first[:, 1:], patches, atol=1e-5, rtol=0)


def test_gradients(path):
    golden, encoder = read(path)
    (encoder.encode(encoder.embed_patches(golden["image"])) * golden["grad_weight"]).sum().backward()
    found = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    expected = {name: value for name, value in golden["grads"].items() if not name.startswith("head.")}
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
