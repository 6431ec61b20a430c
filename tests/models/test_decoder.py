"""The text-guided decoder, and how pixels become patches and back."""

import math

import pytest
import torch
from tiny_model import VISION, captions, tiny_batch, tiny_model
from torch import nn
from torch.nn.functional import gelu, layer_norm

from models.decoder import DecoderSize, VisualDecoder, fill_removed, patchify, unpatchify
from models.image_encoder import PatchSubset

WIDTH, TEXT_WIDTH, HEADS = 16, 24, 2
LENGTHS = [7, 4, 5]


def decoder(gradient_checkpointing: bool = False) -> VisualDecoder:
    torch.manual_seed(0)
    network = VisualDecoder(DecoderSize(2, HEADS), WIDTH, TEXT_WIDTH, gradient_checkpointing)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens [3, 6, D], text [3, T, W] and its mask."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(3, 6, WIDTH, generator=generator)
    return tokens, torch.randn(3, 7, TEXT_WIDTH, generator=generator), captions(LENGTHS).mask


# ---- the plain twin: one image and one caption, without padding ------------------------


def plain_attention(state: dict, name: str, states: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    query = states @ state[f"{name}.to_q.weight"].T
    key, value = (source @ state[f"{name}.to_{part}.weight"].T for part in "kv")
    seen, width = [], WIDTH // HEADS
    for start in range(0, WIDTH, width):
        head = slice(start, start + width)
        seen.append((query[:, head] @ key[:, head].T / math.sqrt(width)).softmax(1) @ value[:, head])
    return torch.cat(seen, dim=1) @ state[f"{name}.to_out.0.weight"].T + state[f"{name}.to_out.0.bias"]


def plain_decoder(state: dict, tokens: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """tokens [N, D], text [T, W] of real words."""
    for number in range(2):
        block = {k.removeprefix(f"blocks.{number}."): v for k, v in state.items() if f"blocks.{number}." in k}

        def norm(name, given, block=block):
            return layer_norm(given, (WIDTH,), block[f"{name}.weight"], block[f"{name}.bias"], 1e-5)

        normed = norm("norm1", tokens)
        tokens = tokens + plain_attention(block, "attn1", normed, normed)
        tokens = tokens + plain_attention(block, "attn2", norm("norm2", tokens), text)
        wide = norm("norm3", tokens) @ block["ff.net.0.l.weight"].T + block["ff.net.0.l.bias"]
        gated = wide[:, : 4 * WIDTH] * gelu(wide[:, 4 * WIDTH :])
        tokens = tokens + gated @ block["ff.net.2.weight"].T + block["ff.net.2.bias"]
    return tokens


@torch.no_grad()
def test_tokens_are_those_of_each_image_and_caption_alone():
    network, (tokens, text, mask) = decoder(), inputs()
    found = network(tokens, text, mask)
    for row in range(3):
        expected = plain_decoder(network.state_dict(), tokens[row], text[row][mask[row]])
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_padded_text_does_not_matter():
    network, (tokens, text, mask) = decoder(), inputs()
    changed = text.masked_fill(~mask[..., None], 50.0)
    assert not torch.equal(changed, text)
    torch.testing.assert_close(network(tokens, changed, mask), network(tokens, text, mask), atol=1e-6, rtol=0)


def test_every_word_matters():
    network, (tokens, text, mask) = decoder(), inputs()
    text.requires_grad_()
    network(tokens, text, mask).square().sum().backward()
    assert torch.equal(text.grad.abs().sum(-1) > 0, mask)


def test_gradient_checkpointing_gives_the_same_gradients():
    found = []
    for checkpointing in (False, True):
        network = decoder(checkpointing).train()
        network(*inputs()).square().sum().backward()
        found.append([parameter.grad for parameter in network.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


# ---- removed patches -------------------------------------------------------------------


def test_kept_tokens_return_to_their_places_and_the_mask_token_fills_the_others():
    # CLS 9, then kept patches 1 and 2 of four; the mask token is 7
    visible = torch.tensor([[9.0, 1, 2], [9, 3, 4]])[..., None]
    removed = torch.tensor([[True, False, True, False], [False, False, True, True]])
    keep = PatchSubset(torch.tensor([[1, 3], [0, 1]]), removed)
    found = fill_removed(visible, keep, torch.full((1, 1, 1), 7.0))
    assert found[..., 0].tolist() == [[9, 7, 1, 7, 2], [9, 3, 4, 7, 7]]


def test_fill_removed_undoes_the_choice_of_patches():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, 1 + 8, 5, generator=generator)
    keep = PatchSubset.from_noise(torch.rand(4, 8, generator=generator), 0.6)
    visible = torch.stack(
        [row[[0, *(1 + place for place in kept)]] for row, kept in zip(tokens, keep.kept.tolist(), strict=True)]
    )
    expected = tokens.clone()
    expected[:, 1:][keep.removed] = 0.5
    assert torch.equal(fill_removed(visible, keep, torch.full((1, 1, 5), 0.5)), expected)


def test_nothing_removed_leaves_the_tokens_as_they_are():
    tokens = torch.randn(2, 5, 3)
    keep = PatchSubset.from_noise(torch.rand(2, 4), 0.0)
    assert torch.equal(fill_removed(tokens, keep, torch.zeros(1, 1, 3)), tokens)


# ---- pixels and patches ----------------------------------------------------------------


def test_patches_run_row_by_row_with_channels_last():
    # two by three patches of one pixel: a patch holds the three channels of its pixel
    image = torch.arange(18.0).view(1, 3, 2, 3)
    assert patchify(image, 1)[0].tolist() == [[p, 6 + p, 12 + p] for p in range(6)]


def test_pixels_of_a_patch_run_row_by_row():
    # one patch of 2 x 2 pixels, channels 0..3, 10..13, 20..23
    image = torch.tensor([[[0.0, 1], [2, 3]], [[10, 11], [12, 13]], [[20, 21], [22, 23]]])[None]
    assert patchify(image, 2)[0].tolist() == [[0, 10, 20, 1, 11, 21, 2, 12, 22, 3, 13, 23]]


@pytest.mark.parametrize(("height", "width", "patch"), [(32, 16, 8), (8, 24, 4), (6, 6, 3)])
def test_unpatchify_undoes_patchify(height, width, patch):
    image = torch.randn(2, 3, height, width)
    patches = patchify(image, patch)
    assert patches.shape == (2, (height // patch) * (width // patch), patch * patch * 3)
    assert torch.equal(unpatchify(patches, (height // patch, width // patch), patch), image)


# ---- in the model ----------------------------------------------------------------------


@torch.no_grad()
def test_predicted_pixels_do_not_see_the_removed_patches():
    model, batch = tiny_model().eval(), tiny_batch([0, 1, 2])
    keep = PatchSubset.from_noise(torch.rand(3, VISION.patches), 0.75)
    patches = patchify(batch.image1, 8)
    changed = unpatchify(patches.masked_fill(keep.removed[..., None], 5.0), VISION.grid, 8)
    reading = model.encode_text(batch.caption2)
    pixels = model.predict_patches(batch.image1, keep, reading)
    assert pixels.shape == patches.shape
    assert torch.equal(model.predict_patches(changed, keep, reading), pixels)


@torch.no_grad()
def test_predicted_pixels_are_conditioned_on_the_caption():
    model, batch = tiny_model().eval(), tiny_batch([0, 1, 2])
    keep = PatchSubset.from_noise(torch.rand(3, VISION.patches), 0.75)
    one, other = (
        model.predict_patches(batch.image1, keep, model.encode_text(text)) for text in (batch.caption, batch.caption2)
    )
    assert not torch.allclose(one[0], other[0], atol=1e-5)  # sample 0 has another caption2
    torch.testing.assert_close(one[1:], other[1:], atol=1e-5, rtol=0)  # the others differ in padding alone


@torch.no_grad()
def test_pixels_of_a_place_come_from_its_token_and_its_position():
    # blocks that add nothing leave mask token + position at each removed place
    model, batch = tiny_model().eval(), tiny_batch([0, 1, 2])
    for block in model.visual_decoder.blocks:
        for last in (block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[2]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    keep = PatchSubset.from_noise(torch.rand(3, VISION.patches), 0.5)
    pixels = model.predict_patches(batch.image1, keep, model.encode_text(batch.caption2))
    visible = model.visual_encoder(batch.image1, keep)
    for sample in range(3):
        for place in range(VISION.patches):
            token = model.mask_token[0, 0]
            if not keep.removed[sample, place]:
                token = visible[sample, 1 + keep.kept[sample].tolist().index(place)]
            expected = model.decoder_pred(token + model.visual_decoder_pos_embed[1 + place])
            torch.testing.assert_close(pixels[sample, place], expected, atol=1e-5, rtol=1e-4)
