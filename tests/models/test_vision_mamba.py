"""Vision Mamba against its step-by-step twin, and what it starts from."""

import json
import math
from dataclasses import replace

import pytest
import torch
from golden_numbers import golden_folder
from plain_mamba import encode
from tiny_model import IDENTITIES, VISION, lived_in, step, tiny_batch, tiny_model

from models.image_encoder import PatchSubset, VisionSize, split_rows
from models.inspection import estimate_memory
from models.objectives import LOSSES
from models.vision_mamba import VisionMamba, convolve
from utils.training.optimization import Optimizer, make_optimizer

SIZES = [(32, 16), (24, 40), (8, 24), (8, 8), (40, 24)]  # 8, 15, 3, 1, 15 patches of 8 x 8
LAYOUT = golden_folder() / "vim_base_layout.json"


def encoder_of(image_size=(32, 16), **more) -> VisionMamba:
    """With parameters that all matter."""
    torch.manual_seed(0)
    encoder = VisionMamba(VisionSize(image_size, 8, 16, 3, states=4, **more)).double().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return encoder


def image_of(encoder: VisionMamba, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, *encoder.size.image_size, dtype=torch.float64)


@pytest.mark.parametrize("image_size", SIZES)
def test_tokens_and_gradients_are_those_of_the_twin(image_size):
    encoder = encoder_of(image_size)
    image, parameters = image_of(encoder), dict(encoder.named_parameters())
    found, expected = encoder.encode(encoder.embed_patches(image)), encode(parameters, image, 8, 4)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(found)
    pairs = [torch.autograd.grad((tokens * weight).sum(), list(parameters.values())) for tokens in (found, expected)]
    for name, one, other in zip(parameters, *pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8, msg=lambda message, n=name: f"{n}: {message}")


@pytest.mark.parametrize("image_size", SIZES)
def test_cls_comes_first_and_all_else_in_image_order(image_size):
    encoder = encoder_of(image_size)
    image = image_of(encoder)
    middle = encoder.size.patches // 2
    patches, cls = split_rows(encode(dict(encoder.named_parameters()), image, 8, 4), middle)
    torch.testing.assert_close(encoder(image), torch.cat([cls, patches], 1))


@pytest.mark.parametrize("image_size", SIZES[:3])
def test_kept_patches_are_encoded_in_image_order_around_cls(image_size):
    encoder = encoder_of(image_size)
    image = image_of(encoder)
    keep = PatchSubset.from_noise(torch.rand(2, encoder.size.patches), 0.4)
    tokens = encode(dict(encoder.named_parameters()), image, 8, 4, keep.kept)
    patches, cls = split_rows(tokens, keep.kept.shape[1] // 2)
    found = encoder(image, keep)
    torch.testing.assert_close(found, torch.cat([cls, patches], 1))
    assert not torch.allclose(found[:, 1:], encoder(image)[:, 1:].gather(1, keep.kept[..., None].expand_as(patches)))


@pytest.mark.parametrize("backwards", [False, True])
def test_no_token_sees_one_that_the_scan_has_yet_to_read(backwards):
    x = torch.randn(1, 6, 2, requires_grad=True)
    seen = convolve(x, torch.randn(2, 1, 4), torch.randn(2), backwards)
    for token in range(6):
        (gradient,) = torch.autograd.grad(seen[0, token].sum(), x, retain_graph=True)
        read = set(gradient[0].abs().sum(1).nonzero().flatten().tolist())
        last = range(token, min(6, token + 4)) if backwards else range(max(0, token - 3), token + 1)
        assert read == set(last)


@pytest.mark.skipif(not LAYOUT.exists(), reason=f"{LAYOUT} is absent: set GOLDEN_DIR to a folder that has it")
def test_the_base_encoder_has_the_published_names_and_shapes():
    published = json.loads(LAYOUT.read_text())
    with torch.device("meta"):
        encoder = VisionMamba(VisionSize((224, 224), 16, 768, 24))
    own = {name: list(value.shape) for name, value in encoder.state_dict().items()}
    assert len(own) == 413
    assert own == {name: shape for name, shape in published.items() if name not in ("head.weight", "head.bias")}


def test_it_starts_as_published():
    torch.manual_seed(0)
    encoder = VisionMamba(VisionSize((64, 64), 16, 192, 24, drop_path=0.1))
    mixer = encoder.layers[5].mixer
    for mark in ("", "_b"):
        torch.testing.assert_close(getattr(mixer, f"A{mark}_log")[7], torch.arange(1.0, 17).log())
        assert (getattr(mixer, f"D{mark}") == 1).all()
        projection = getattr(mixer, f"dt_proj{mark}")
        pace = torch.nn.functional.softplus(projection.bias)
        assert pace.min() > 9e-4 and pace.max() < 0.11 and 0.4 < (pace < 1e-2).float().mean() < 0.6  # log-uniform
        assert projection.weight.abs().max() <= 12**-0.5  # rank: 192 / 16
    assert mixer.out_proj.weight.abs().max() <= (1 / math.sqrt(384)) / math.sqrt(24)
    assert encoder.patch_embed.proj.weight.std().item() == pytest.approx((1 / (3 * 16 * 16)) ** 0.5, rel=0.05)
    rates = [layer.drop.drop_prob for layer in encoder.layers]
    assert rates[:2] == [0, 0] and rates[-1] == pytest.approx(0.1 * 22 / 23) and encoder.drop.drop_prob == 0.1


def test_layers_are_left_out_in_training_alone():
    encoder = encoder_of(drop_path=0.5)
    image = image_of(encoder)
    assert encoder(image).equal(encoder(image))
    encoder.train()
    assert not encoder(image).equal(encoder(image))


def test_checkpointing_changes_no_gradient():
    encoder, image = encoder_of(drop_path=0.3).train(), torch.randn(2, 3, 32, 16, dtype=torch.float64)
    gradients = []
    for encoder.gradient_checkpointing in (False, True):
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(encoder(image).square().sum(), list(encoder.parameters())))
    assert all(one.allclose(other) for one, other in zip(*gradients, strict=True))


def test_bfloat16_is_near():
    encoder = encoder_of().float()
    image = image_of(encoder).float()
    with torch.autocast("cpu", torch.bfloat16):
        tokens = encoder(image)
    assert (tokens.float() - encoder(image)).norm() < 0.03 * encoder(image).norm()


# ---- within the model ------------------------------------------------------------------


def person_search(**more):
    return tiny_model(encoder=VisionMamba, **more)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_every_loss_is_computed_and_reaches_what_it_should(loss):
    model = lived_in(person_search())
    found = step(model, tiny_batch(IDENTITIES))[loss]
    assert found.isfinite() and found > 0
    found.backward()
    gradients = [parameter.grad for parameter in model.visual_encoder.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert sum(bool(gradient.any()) for gradient in gradients) > 0.9 * len(gradients)
    assert all(parameter.grad is None for parameter in model.visual_encoder_m.parameters())


def test_the_momentum_copy_leaves_no_layer_out():
    model = person_search(vision=replace(VISION, drop_path=0.5)).train()
    image = tiny_batch(IDENTITIES).image1
    assert model.visual_encoder_m(image).equal(model.visual_encoder_m(image))
    online = [model.visual_encoder(image) for _ in range(10)]
    assert not all(tokens.equal(online[0]) for tokens in online)


def test_what_must_not_decay_does_not():
    model = person_search()
    groups = make_optimizer(model.named_parameters(), Optimizer(), undecayed=model.undecayed()).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    endings = {name.removeprefix("visual_encoder.layers.0.") for name in decaying if "layers.0." in name}
    assert {ending for ending in endings if ending.startswith(("mixer", "norm"))} == {
        f"mixer.{name}.weight"
        for name in ("in_proj", "out_proj", "conv1d", "conv1d_b", "x_proj", "x_proj_b", "dt_proj", "dt_proj_b")
    }
    assert not {"visual_encoder.cls_token", "visual_encoder.pos_embed"} & decaying
    assert "visual_encoder.patch_embed.proj.weight" in decaying and "mask_token" in decaying
    assert tiny_model().undecayed() == set()


def test_memory_is_estimated_without_running_it():
    memory = estimate_memory(person_search(), 4, 12, VISION.image_size, False)
    assert (
        memory.activations
        > estimate_memory(person_search(gradient_checkpointing=True), 4, 12, VISION.image_size, False).activations
        > 0
    )
