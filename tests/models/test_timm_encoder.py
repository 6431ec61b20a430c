"""Vision Transformers of timm as image encoders: their tokens, masked passes, gradients, and what is refused."""

from dataclasses import replace
from functools import partial

import pytest
import timm
import torch
from tiny_model import IDENTITIES, lived_in, step, tiny_batch, tiny_model
from torch import nn

from configs.loading import load_config
from models.build import build_image_encoder
from models.image_encoder import PatchSubset, VisionSize
from models.inspection import estimate_memory
from models.objectives import LOSSES
from models.timm_encoder import TimmEncoder, create_trunk, sizes_of
from utils.errors import UserError

PLAIN = "test_vit"
MODELS = {
    "a CLS token": PLAIN,
    "mean pooling with a norm of its own, a register": "test_vit2",
    "attention pooling as in SigLIP, a register": "test_vit3",
    "RMS norms": "test_vit4",
    "a norm before the blocks, as in CLIP": "vit_xsmall_patch16_clip_224",
    "a distillation token": "deit_tiny_distilled_patch16_224",
    "CLS without a position, registers, layer scale": "vit_small_patch14_reg4_dinov2",
}
EACH = pytest.mark.parametrize("name", MODELS.values(), ids=MODELS)


def size_of(name: str, rows: int = 4, columns: int = 2, **more) -> VisionSize:
    sizes = sizes_of(name)
    return VisionSize((sizes.patch_size * rows, sizes.patch_size * columns), sizes.patch_size, sizes.width, **more)


def encoder_of(name: str, gradient_checkpointing: bool = False, **more) -> TimmEncoder:
    """With norms, biases and tokens that are not what they start as."""
    torch.manual_seed(0)
    encoder = TimmEncoder(name, size_of(name, **more), gradient_checkpointing)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return encoder.eval()


def images_of(encoder: TimmEncoder, count: int = 2) -> torch.Tensor:
    height, width = (encoder.patch_size * side for side in encoder.grid)
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def keep_of(encoder: TimmEncoder, ratio: float = 0.5, count: int = 2) -> PatchSubset:
    noise = torch.rand(count, encoder.grid[0] * encoder.grid[1], generator=torch.Generator().manual_seed(2))
    return PatchSubset.from_noise(noise, ratio)


@EACH
@torch.no_grad()
def test_tokens_are_those_of_timm(name):
    encoder = encoder_of(name)
    image, trunk = images_of(encoder), encoder.trunk
    features, found = trunk.forward_features(image), encoder(image)
    assert encoder.grid == (4, 2) and found.shape == (2, 1 + 8, encoder.width)
    pooled = features[:, 0] if encoder.has_cls else trunk.forward_head(features, pre_logits=True)
    torch.testing.assert_close(found[:, 0], pooled)
    torch.testing.assert_close(found[:, 1:], trunk.fc_norm(features[:, -8:]))


@EACH
@torch.no_grad()
def test_kept_patches_are_encoded_as_if_the_others_were_not_there(name):
    encoder = encoder_of(name)
    trunk, image, keep = encoder.trunk, images_of(encoder), keep_of(encoder)
    for one, kept, found in zip(image, keep.kept, encoder(image, keep), strict=True):
        tokens = trunk._pos_embed(trunk.patch_embed(one[None]))
        rows = [*range(trunk.num_prefix_tokens), *(trunk.num_prefix_tokens + kept).tolist()]
        tokens = trunk.norm(trunk.blocks(trunk.norm_pre(tokens[:, rows])))
        torch.testing.assert_close(found[1:], trunk.fc_norm(tokens[0, -len(kept) :]), atol=1e-5, rtol=1e-5)
        pooled = tokens[:, 0] if encoder.has_cls else trunk.forward_head(tokens, pre_logits=True)
        torch.testing.assert_close(found[0], pooled[0], atol=1e-5, rtol=1e-5)


@EACH
@torch.no_grad()
def test_removed_patches_leave_no_trace(name):
    encoder = encoder_of(name)
    image, keep, side = images_of(encoder), keep_of(encoder, 0.75), encoder.patch_size
    changed = image.clone()
    for one, removed in zip(changed, keep.removed, strict=True):
        for index in removed.nonzero().flatten().tolist():
            row, column = divmod(index, 2)
            one[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = 9
    assert not encoder(changed).allclose(encoder(image))
    assert encoder(changed, keep).equal(encoder(image, keep))


@torch.no_grad()
def test_keeping_every_patch_is_the_full_pass():
    encoder = encoder_of(PLAIN)
    assert encoder(images_of(encoder), keep_of(encoder, 0.0)).equal(encoder(images_of(encoder)))


@pytest.mark.parametrize("name", [PLAIN, "test_vit3"])
def test_gradient_checkpointing_gives_the_same_gradients(name):
    found = []
    for checkpointing in (False, True):
        encoder = encoder_of(name, checkpointing).train()
        encoder(images_of(encoder)).square().sum().backward()
        found.append([parameter.grad for parameter in encoder.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


# ---- within the model ------------------------------------------------------------------


def person_search(name: str, gradient_checkpointing: bool = False, **more):
    encoder, size = partial(TimmEncoder, name), size_of(name, **more)
    return tiny_model(vision=size, encoder=encoder, gradient_checkpointing=gradient_checkpointing)


def batch_of(model) -> object:
    batch, encoder = tiny_batch(IDENTITIES), model.visual_encoder
    return replace(batch, image1=images_of(encoder, batch.size), image2=images_of(encoder, batch.size) + 0.1)


@EACH
def test_every_parameter_that_is_trained_gets_a_gradient(name):
    model = lived_in(person_search(name))
    found = step(model, batch_of(model))
    assert set(found) == set(LOSSES)
    sum(found.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert all(p.grad is None for p in model.visual_encoder_m.parameters())


def test_the_momentum_copy_leaves_no_layer_out():
    model = person_search(PLAIN, drop_path=0.5).train()
    image = batch_of(model).image1
    assert model.visual_encoder_m(image).equal(model.visual_encoder_m(image))
    online = [model.visual_encoder(image) for _ in range(10)]
    assert not all(tokens.equal(online[0]) for tokens in online)


def test_tokens_and_positions_do_not_decay():
    assert person_search(PLAIN).undecayed() == {"visual_encoder.trunk.cls_token", "visual_encoder.trunk.pos_embed"}
    assert "visual_encoder.trunk.reg_token" in person_search("test_vit2").undecayed()


def test_memory_is_estimated_without_running_it():
    size = size_of(PLAIN).image_size
    full, saved = (
        estimate_memory(person_search(PLAIN, flag), 4, 12, size, False).activations for flag in (False, True)
    )
    assert full > saved > 0


# ---- configuration ---------------------------------------------------------------------


def test_pixels_are_normalised_as_the_model_was_trained():
    for name in (PLAIN, "vit_xsmall_patch16_clip_224", "vit_tiny_patch16_224"):
        described = timm.get_pretrained_cfg(name)
        statistics = encoder_of(name).statistics
        assert (statistics.mean, statistics.std) == (described.mean, described.std)


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        (["image_encoder=timm:vit_tiny_patch16_224", "image_res=[64,32]"], (192, 12, 16)),
        (["image_encoder=timm:vit_tiny_patch16_224.augreg_in21k", "image_res=[64,32]"], (192, 12, 16)),
        (["image_encoder=timm:vit_small_patch14_reg4_dinov2", "image_res=28", "vision_width=384"], (384, 12, 14)),
    ],
)
def test_sizes_follow_from_the_name(settings, sizes):
    config = load_config(None, settings)
    assert (config.vision_width, config.vision_depth, config.patch_size) == sizes
    assert config.bert_config.encoder_width == sizes[0]
    with torch.device("meta"):
        encoder = build_image_encoder(config)
    assert (encoder.width, encoder.patch_size) == (sizes[0], sizes[2])
    assert encoder.grid == (config.image_size[0] // sizes[2], config.image_size[1] // sizes[2])


TINY = "image_encoder=timm:vit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["image_encoder=timm:vit_tny_patch16_224"],
            "timm has no model 'vit_tny_patch16_224' (did you mean 'vit_tiny_patch16_224'?)",
        ),
        (["image_encoder=timm:swin_tiny_patch4_window7_224"], "'swin_tiny_patch4_window7_224' of timm is not a plain"),
        (["image_encoder=timm:eva02_tiny_patch14_224"], "not a plain Vision Transformer, of which patches can be left"),
        (["image_encoder=timm:vit_tiny_r_s16_p8_224"], "not a plain Vision Transformer"),
        (["image_encoder=timm:resnet18"], "'resnet18' of timm is not a plain Vision Transformer"),
        (["image_encoder=timm:hf-hub:someone/model"], "timm has no model 'hf-hub:someone/model'"),
        (["image_encoder=timm:vit_tiny_patch16_224.nonsense"], "timm cannot build 'vit_tiny_patch16_224.nonsense'"),
        (['image_encoder="timm:"'], "must be 'vit', 'vim' or 'timm:NAME', not 'timm:'"),
        (["image_encoder=vit:tiny"], "must be 'vit', 'vim' or 'timm:NAME', not 'vit:tiny'"),
        ([TINY, "vision_width=200"], "`vision_width`: 200 is not 192, as image_encoder timm:vit_tiny_patch16_224 has"),
        ([TINY, "patch_size=8"], "`patch_size`: 8 is not 16"),
        ([TINY, "bert_config.encoder_width=64"], "`bert_config.encoder_width`: 64 is not 192"),
        ([TINY, "vision_size=tiny"], "timm:vit_tiny_patch16_224 has sizes of its own; leave vision_size out"),
        ([TINY, "image_res=[60,32]"], "`image_res`: [60, 32] is not divisible by patch_size 16"),
    ],
)
def test_what_cannot_be_an_encoder_is_refused_in_a_line(settings, message):
    with pytest.raises(UserError) as caught:
        load_config(None, settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_constructor_that_fails_is_told_in_a_line():
    with pytest.raises(UserError, match=r"timm cannot build 'test_vit': .*unexpected keyword"):
        create_trunk(PLAIN, no_such_option=1)


def test_registers_are_encoded_and_not_handed_on():
    encoder = encoder_of("test_vit3")
    assert encoder.trunk.num_prefix_tokens == 1 and not encoder.has_cls
    image = images_of(encoder)
    before = encoder(image)
    with torch.no_grad():
        nn.init.normal_(encoder.trunk.reg_token)
    assert before.shape == (2, 9, encoder.width) and not encoder(image).allclose(before)
