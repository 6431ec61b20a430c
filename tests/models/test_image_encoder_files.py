"""An image encoder starts from a file of its own, and one of another kind in a checkpoint does no harm."""

import argparse
from dataclasses import replace

import pytest
import torch
from test_released import content, plainly_resized, positions
from tiny_model import VISION, tiny_model

from models.image_encoder import VisionSize
from models.released import load_image_encoder, load_weights, require_trained, resize_positions
from models.vision_mamba import VisionMamba
from models.vision_transformer import VisionTransformer
from utils.checkpoints.files import read_checkpoint
from utils.errors import UserError

SQUARE = replace(VISION, image_size=(24, 24))  # 3 x 3 patches


def vim(**more):
    return tiny_model(encoder=VisionMamba, **more)


def state(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def vim_file(size: VisionSize = SQUARE, **more) -> dict[str, torch.Tensor]:
    """What the released file holds under `model`: the encoder by its own names, and a classifier."""
    torch.manual_seed(7)
    return {**state(VisionMamba(size)), "head.weight": torch.randn(5, 16), "head.bias": torch.randn(5), **more}


def test_an_encoder_is_taken_whole_and_its_classifier_is_not(tmp_path):
    weights, model = vim_file(), vim()
    torch.save({"model": weights, "args": argparse.Namespace(lr=1), "epoch": 3}, tmp_path / "vim.pth")
    before = state(model)
    report = load_image_encoder(model, read_checkpoint(tmp_path / "vim.pth")["model"], "vim.pth")
    after = state(model)
    assert report.unused == {"head.weight": "classifier", "head.bias": "classifier"}
    assert report.resized == ["visual_encoder.pos_embed"] and report.fresh == []
    assert set(report.loaded) == {name for name in after if name.startswith("visual_encoder.")}
    for name in after:
        part, _, rest = name.partition(".")
        if part in ("visual_encoder", "visual_encoder_m"):
            assert rest == "pos_embed" or after[name].equal(weights[rest]), name
        else:
            assert after[name].equal(before[name]), name
    assert after["visual_encoder.pos_embed"].equal(after["visual_encoder_m.pos_embed"])


@pytest.mark.parametrize("grid", [(4, 2), (3, 3), (5, 3), (1, 7)])
def test_positions_are_resized_around_a_cls_in_the_middle(grid):
    weights = vim_file()
    model = vim(vision=replace(VISION, image_size=(8 * grid[0], 8 * grid[1])))
    load_image_encoder(model, weights, "vim.pth")
    found, old = model.visual_encoder.pos_embed.detach(), weights["pos_embed"]
    in_front = torch.cat([old[:, 4:5], old[:, :4], old[:, 5:]], 1)
    expected = plainly_resized(in_front, (3, 3), grid)
    middle = grid[0] * grid[1] // 2
    torch.testing.assert_close(found[:, middle], old[:, 4])
    others = torch.cat([found[:, :middle], found[:, middle + 1 :]], 1)
    torch.testing.assert_close(others, expected[:, 1:], atol=1e-6, rtol=0)


def test_positions_of_the_same_grid_stay_as_they_are():
    old = positions((3, 3))
    assert resize_positions(old, "pos_embed", torch.zeros_like(old), None, (3, 3), "x", VisionMamba.cls_index) is old


def test_an_encoder_within_a_checkpoint_of_ours_is_taken_too():
    other, model = vim(seed=5, vision=SQUARE), vim()
    load_image_encoder(model, content(other), "own.pth")
    assert model.visual_encoder.layers[1].mixer.D_b.equal(other.visual_encoder.layers[1].mixer.D_b)


def test_a_vision_transformer_starts_from_a_file_of_its_own_too():
    torch.manual_seed(1)
    encoder, model = VisionTransformer(VISION), tiny_model()
    load_image_encoder(model, {**state(encoder), "head.weight": torch.zeros(5, 16)}, "deit.pth", VISION.grid)
    assert all(
        one.equal(other) for one, other in zip(model.visual_encoder.parameters(), encoder.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("layers.1.mixer.A_b_log"), "lacks layers.1.mixer.A_b_log"),
        (lambda weights: weights.update(fc_norm=torch.zeros(2)), "holds fc_norm, which"),
        (lambda weights: weights.update({"norm_f.weight": torch.zeros(3)}), "holds norm_f.weight of shape [3] instead"),
        (lambda weights: weights.update(pos_embed=torch.zeros(1, 12, 16)), "pos_embed has shape [1, 12, 16]"),
        (lambda weights: weights.pop("pos_embed"), "lacks pos_embed"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_and_nothing_is_copied(change, message):
    weights, model = vim_file(), vim()
    change(weights)
    before = state(model)
    with pytest.raises(UserError) as caught:
        load_image_encoder(model, weights, "vim.pth")
    assert message in str(caught.value) and "vim.pth" in str(caught.value)
    assert all(value.equal(before[name]) for name, value in state(model).items())


def test_an_encoder_of_another_kind_is_refused():
    with pytest.raises(UserError, match=r"no image encoder as configured .* check image_encoder, vision_size"):
        load_image_encoder(vim(), state(VisionTransformer(VISION)), "vit.pth", VISION.grid)


# ---- in a checkpoint -------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(VisionTransformer, VisionMamba), (VisionMamba, VisionTransformer)])
def test_of_an_encoder_of_another_kind_not_even_what_would_fit_is_taken(old, new):
    weights, model = content(tiny_model(seed=5, encoder=old)), tiny_model(encoder=new)
    before = state(model)
    report = load_weights(model, weights, "other.pth", VISION.grid)
    after = state(model)
    of_encoder = {name for name in weights if name.startswith(("visual_encoder.", "visual_encoder_m."))}
    assert {name for name, why in report.unused.items() if why == "of another image encoder"} == of_encoder
    for name, value in after.items():
        if name.startswith("visual_encoder."):
            assert value.equal(before[name]), name
        elif name.startswith("visual_encoder_m."):
            assert value.equal(before[name.replace("_m.", ".", 1)]), name
        elif name not in ("idx_queue", "queue_ptr"):
            assert value.equal(weights[name]), name
    with pytest.raises(UserError, match="another kind of image encoder than the configured one"):
        require_trained(report, "other.pth")


def test_an_encoder_that_comes_from_another_file_is_left_alone():
    weights, model = content(tiny_model(seed=5)), tiny_model()
    before = state(model)
    report = load_weights(model, weights, "other.pth", VISION.grid, image_encoder=False)
    assert report.unused["visual_encoder.norm.weight"] == "comes from another file"
    assert all(value.equal(before[name]) for name, value in state(model).items() if name.startswith("visual_encoder"))
    assert model.vision_proj.weight.equal(weights["vision_proj.weight"])


def test_the_same_kind_is_taken_from_a_checkpoint():
    weights, model = content(vim(seed=5)), vim()
    report = load_weights(model, weights, "own.pth", VISION.grid)
    assert set(report.fresh) == {"idx_queue", "queue_ptr"}
    require_trained(report, "own.pth")
