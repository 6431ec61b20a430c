"""CLIP's towers: sizes, attention on request, short captions, memory."""

from dataclasses import replace

import pytest
import torch
from tiny_clip import SIZE, captions

from models.clip.blocks import Attention, quick_gelu
from models.clip.towers import ClipSize, DualEncoder, end_of_text
from utils.precision import autocast


def encoder(**changes) -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder(replace(SIZE, **changes)).eval()


@pytest.mark.parametrize(("stride", "grid"), [(16, (24, 8)), (12, (31, 10))])
def test_grid_of_published_sizes(stride, grid):
    assert ClipSize(stride=stride).grid == grid


def test_patches_may_overlap():
    model = encoder(stride=2)
    assert model.size.grid == (9, 5)
    assert model.encode_image(torch.randn(2, 3, 20, 12)).tokens().shape == (2, 46, 6)


def test_quick_gelu():
    states = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0])
    torch.testing.assert_close(quick_gelu(states), states * torch.sigmoid(1.702 * states))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_torch(causal):
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2, causal), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    tokens, index = torch.randn(3, 5, 8), torch.tensor([[0, 4], [1, 1], [3, 2]])
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    output, weights = theirs(tokens, tokens, tokens, attn_mask=mask)
    torch.testing.assert_close(ours(tokens), output)
    torch.testing.assert_close(ours.weights(tokens, index), weights.detach()[torch.arange(3)[:, None], index])
    assert not ours.weights(tokens, index).requires_grad
    torch.testing.assert_close(ours(tokens, index), output[torch.arange(3)[:, None], index])


def test_cross_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    tokens, others = torch.randn(3, 5, 8), torch.randn(3, 7, 8)
    torch.testing.assert_close(ours.cross(tokens, others), theirs(tokens, others, others)[0])


def test_attention_is_that_of_cls():
    found = encoder().encode_image(torch.randn(2, 3, 20, 12))
    attention = found.own_attention()
    assert torch.equal(attention, found.attention(torch.tensor([[0], [0]]))[:, 0]) and attention.shape == (2, 16)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_tokens_alone_are_those_among_all(checkpointing):
    torch.manual_seed(0)
    model, image, ids = DualEncoder(SIZE, checkpointing).train(), torch.randn(3, 3, 20, 12), captions(3, 5, 0)
    index, rows = torch.tensor([[0, 4], [1, 1], [3, 2]]), torch.arange(3)[:, None]
    for found in (model.encode_image(image), model.encode_text(ids)):
        of_all, of_some = found.tokens(), found.tokens(index)
        torch.testing.assert_close(of_some, of_all[rows, index])
        torch.testing.assert_close(found.feature(), of_all[rows[:, 0], found.own])
        gradients = []
        for tokens in (of_all[rows, index], of_some):
            model.zero_grad()
            tokens.square().sum().backward(retain_graph=True)
            gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
        expected, given = gradients
        assert set(given) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(
                given[name], value, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_captions_need_not_be_padded():
    model, ids = encoder(), captions(3, 5)
    padded, short = model.encode_text(ids), model.encode_text(ids[:, :7])
    torch.testing.assert_close(short.tokens(), padded.tokens()[:, :7])
    torch.testing.assert_close(short.own_attention(), padded.own_attention()[..., :7])


def test_a_caption_ends_at_its_first_highest_id():
    assert end_of_text(torch.tensor([[28, 3, 29, 29, 0], [28, 29, 0, 0, 0]])).tolist() == [2, 1]


def test_gradient_checkpointing_computes_the_same():
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = DualEncoder(SIZE, checkpointing).train()
        torch.manual_seed(1)
        model.encode_image(torch.randn(2, 3, 20, 12)).tokens().square().sum().backward()
        found.append(model.visual.conv1.weight.grad)
    torch.testing.assert_close(*found)


def test_bfloat16_is_near():
    model, ids = encoder(), captions(3, 5)
    with autocast("bf16", "cpu"):
        found = model.encode_text(ids)
        tokens, feature, attention = found.tokens(), found.feature(), found.own_attention()
    expected = model.encode_text(ids)
    torch.testing.assert_close(tokens.float(), expected.tokens(), atol=0.05, rtol=0.05)
    torch.testing.assert_close(feature.float(), expected.feature(), atol=0.05, rtol=0.05)
    torch.testing.assert_close(attention.float(), expected.own_attention(), atol=0.02, rtol=0)


def test_a_start_without_a_file():
    torch.manual_seed(0)
    model = DualEncoder(replace(SIZE, text_width=64, vision_width=64, vocabulary=2000))
    block = model.transformer.resblocks[0]
    for tensor, std in (
        (model.token_embedding.weight, 0.02),
        (model.text_projection, 64**-0.5),
        (block.attn.in_proj_weight, 64**-0.5),
        (block.attn.out_proj.weight, 64**-0.5 / 2),
        (block.mlp.c_fc.weight, 128**-0.5),
        (model.visual.proj, 64**-0.5),
    ):
        assert tensor.std().item() == pytest.approx(std, rel=0.1)
