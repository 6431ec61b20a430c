"""The image encoder against timm's, and the choice of patches."""

from functools import partial

import pytest
import timm
import torch
from tiny_model import VISION
from torch import nn

from models.decoder import patchify
from models.image_encoder import PatchSubset, VisionSize, take_tokens
from models.vision_transformer import VisionTransformer

SQUARE = VisionSize(image_size=(24, 24), patch_size=8, width=16, depth=2, heads=4)
SIZES = pytest.mark.parametrize("size", [VISION, SQUARE], ids=["rectangular", "square"])


def encoder(size: VisionSize, gradient_checkpointing: bool = False) -> VisionTransformer:
    """Random everywhere: biases and norms too."""
    torch.manual_seed(0)
    network = VisionTransformer(size, gradient_checkpointing)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


def images(size: VisionSize, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *size.image_size, generator=torch.Generator().manual_seed(1))


def timm_twin(network: VisionTransformer, size: VisionSize) -> nn.Module:
    """timm's Vision Transformer with the same weights, loaded strictly by name."""
    twin = timm.models.vision_transformer.VisionTransformer(
        img_size=size.image_size,
        patch_size=size.patch_size,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    twin.load_state_dict(network.state_dict(), strict=True)
    return twin.eval()


def noise(count: int, patches: int) -> torch.Tensor:
    return torch.rand(count, patches, generator=torch.Generator().manual_seed(3))


@SIZES
@torch.no_grad()
def test_tokens_are_those_of_timm(size):
    network, given = encoder(size), images(size)
    tokens = network(given)
    assert tokens.shape == (2, 1 + size.patches, size.width)
    torch.testing.assert_close(tokens, timm_twin(network, size).forward_features(given), atol=1e-5, rtol=1e-5)


@SIZES
@torch.no_grad()
def test_kept_patches_are_encoded_as_if_the_others_were_not_there(size):
    network, given = encoder(size), images(size)
    keep, twin = PatchSubset.from_noise(noise(2, size.patches), 0.5), timm_twin(network, size)
    for image, places, found in zip(given, keep.kept, network(given, keep), strict=True):
        patches = twin.patch_embed(image[None])[0] + twin.pos_embed[0, 1:]
        cls = twin.cls_token[0] + twin.pos_embed[0, :1]
        tokens = torch.cat([cls, *(patches[place : place + 1] for place in places.tolist())])[None]
        torch.testing.assert_close(found, twin.norm(twin.blocks(tokens))[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_keeping_every_patch_is_the_full_pass():
    network, given = encoder(VISION), images(VISION)
    keep = PatchSubset.from_noise(noise(2, VISION.patches), 0.0)
    assert not keep.removed.any()
    assert torch.equal(network(given, keep), network(given))


@torch.no_grad()
def test_removed_patches_leave_no_trace():
    network, given = encoder(VISION), images(VISION)
    keep = PatchSubset.from_noise(noise(2, VISION.patches), 0.75)
    changed = given.clone()
    for image, removed in zip(changed, keep.removed, strict=True):
        for place in removed.nonzero().flatten().tolist():
            row, column = divmod(place, VISION.grid[1])
            image[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 99
    assert not torch.equal(network(changed), network(given))
    assert torch.equal(network(changed, keep), network(given, keep))


def test_patches_are_embedded_in_the_order_of_patchify():
    network, given = encoder(VISION), images(VISION)
    weight = network.patch_embed.proj.weight.permute(0, 2, 3, 1).flatten(1)  # [D, P * P * 3], channels last
    expected = patchify(given, 8) @ weight.T + network.patch_embed.proj.bias
    torch.testing.assert_close(network.patch_embed(given), expected, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients():
    found = []
    for checkpointing in (False, True):
        network = encoder(VISION, checkpointing).train()
        network(images(VISION)).square().sum().backward()
        found.append([parameter.grad for parameter in network.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


# ---- the choice of patches -------------------------------------------------------------


def test_the_grid_is_height_by_width():
    assert VISION.grid == (4, 2)
    assert VISION.patches == 8


def test_patches_of_smallest_noise_are_kept_in_image_order():
    # two of four patches: places 3 and 0 hold the smallest numbers
    keep = PatchSubset.from_noise(torch.tensor([[0.2, 0.9, 0.5, 0.1]]), 0.5)
    assert keep.kept.tolist() == [[0, 3]]
    assert keep.removed.tolist() == [[False, True, True, False]]


@pytest.mark.parametrize(
    ("patches", "ratio", "kept"), [(576, 0.75, 144), (10, 0.75, 2), (8, 0.5, 4), (7, 0.5, 3), (6, 0.0, 6)]
)
def test_the_number_of_kept_patches_is_rounded_down(patches, ratio, kept):
    keep = PatchSubset.from_noise(noise(3, patches), ratio)
    assert keep.kept.shape == (3, kept)
    assert (~keep.removed).sum(1).tolist() == [kept] * 3


def test_kept_and_removed_patches_are_complements():
    keep = PatchSubset.from_noise(noise(5, 12), 0.6)
    for kept, removed in zip(keep.kept.tolist(), keep.removed.tolist(), strict=True):
        assert kept == [place for place in range(12) if not removed[place]]


def test_take_tokens_takes_rows_of_each_sample():
    tokens = torch.arange(12.0).view(2, 3, 2)
    found = take_tokens(tokens, torch.tensor([[2, 0], [1, 1]]))
    assert found.tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
