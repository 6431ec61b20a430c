"""An image encoder starts from a file of its own, and one of another kind in a checkpoint does no harm."""

import argparse
from dataclasses import replace
from functools import partial

import pytest
import timm
import torch
from safetensors.torch import save_file
from test_released import content, plainly_resized, positions
from tiny_model import VISION, tiny_model

from models.image_encoder import PositionLayout, VisionSize
from models.positions import resize_positions
from models.released import load_image_encoder, load_weights, own_name, require_trained, source_of
from models.start import start_model
from models.timm_encoder import TimmEncoder, sizes_of
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
    assert (
        resize_positions(
            old, "pos_embed", torch.zeros_like(old), None, (3, 3), "x", PositionLayout(start=VisionMamba.cls_index)
        )
        is old
    )


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
        (lambda weights: weights.update(fc_norm=torch.zeros(2)), "holds fc_norm (no such parameter"),
        (
            lambda weights: weights.update({"norm_f.weight": torch.zeros(3)}),
            "holds norm_f.weight (shape [3], here [16])",
        ),
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
    with pytest.raises(UserError, match=r"is not the configured image encoder .* check image_encoder, vision_size"):
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
    with pytest.raises(UserError, match="another type of image encoder than the configured one"):
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


# ---- models of timm --------------------------------------------------------------------

TIMM = {"a CLS token": "test_vit", "registers, no CLS": "test_vit3", "CLS without a position": "flexivit_small"}


def timm_model(name: str, side: int, classes: int = 3) -> torch.nn.Module:
    """A model as timm makes it, every parameter random, for square images of so many patches along a side."""
    torch.manual_seed(4)
    side *= sizes_of(name).patch_size
    options = {"global_pool": "token"} if sizes_of(name).has_cls else {}
    model = timm.create_model(name, pretrained=False, img_size=side, num_classes=classes, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def timm_person_search(name: str, rows: int, columns: int):
    sizes = sizes_of(name)
    size = VisionSize((rows * sizes.patch_size, columns * sizes.patch_size), sizes.patch_size, sizes.width)
    return tiny_model(vision=size, encoder=partial(TimmEncoder, name)).eval()


def prefixed(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in weights.items()}


WRITERS = {
    "timm.pth": torch.save,
    "pytorch_model.bin": torch.save,
    "model.safetensors": save_file,
    "loop.pt": lambda weights, path: torch.save({"state_dict": prefixed("module.", weights), "epoch": 3}, path),
    "compiled.pt": lambda weights, path: torch.save({"net": prefixed("_orig_mod.module.", weights)}, path),
    "lightning.ckpt": lambda weights, path: torch.save({"state_dict": prefixed("model.", weights)}, path),
    "open_clip.pt": lambda weights, path: torch.save(
        {**prefixed("visual.trunk.", weights), "text.token_embedding.weight": torch.zeros(3, 2)}, path
    ),
    "clip.pt": lambda weights, path: torch.save(
        {**prefixed("visual.", weights), "logit_scale": torch.zeros(()), "visual.head.weight": torch.zeros(2, 2)}, path
    ),
}


@pytest.mark.parametrize("file", WRITERS)
@torch.no_grad()
def test_weights_of_timm_are_taken_from_any_of_its_files(file, tmp_path):
    source, model = timm_model("test_vit", 3), timm_person_search("test_vit", 3, 3)
    WRITERS[file](source.state_dict(), tmp_path / file)
    start_model(model, None, str(tmp_path / file))
    image = torch.randn(2, 3, 48, 48)
    features = source.forward_features(image)
    for encoder in (model.visual_encoder, model.visual_encoder_m):
        torch.testing.assert_close(encoder(image), features, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TIMM.values(), ids=TIMM)
@torch.no_grad()
def test_positions_of_timm_are_resized_beside_its_other_tokens(name):
    source, model = timm_model(name, 3), timm_person_search(name, 4, 2)
    report = load_image_encoder(model, source.state_dict(), "timm.pth")
    assert report.resized == ["visual_encoder.trunk.pos_embed"] and report.fresh == []
    assert set(report.unused) == {"head.weight", "head.bias"}
    assert set(report.unused.values()) == {"classifier"}
    found, old = model.visual_encoder.trunk.pos_embed, source.pos_embed
    others = old.shape[1] - 9
    assert found.shape[1] == others + 8 and found[:, :others].equal(old[:, :others])
    padded = torch.cat([old[:, :1], old[:, others:]], 1)
    torch.testing.assert_close(found[:, others:], plainly_resized(padded, (3, 3), (4, 2))[:, 1:], atol=1e-6, rtol=0)
    state = model.visual_encoder.trunk.state_dict()
    assert all(state[n].equal(v) for n, v in source.state_dict().items() if n in state and n != "pos_embed")


def test_names_of_other_files_of_timm_are_known():
    own = prefixed("trunk.", dict.fromkeys(["norm.weight", "blocks.0.ls1.gamma"], torch.zeros(1)))
    assert own_name("fc_norm.weight", source_of(["fc_norm.weight"]), own, "trunk.") == "trunk.norm.weight"
    assert own_name("blocks.0.gamma_1", source_of(["blocks.0.gamma_1"]), own, "trunk.") == "trunk.blocks.0.ls1.gamma"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("blocks.1.attn.qkv.weight"), "it lacks trunk.blocks.1.attn.qkv.weight"),
        (
            lambda weights: weights.update(extra=torch.zeros(2)),
            "it holds trunk.extra (no such parameter in this model)",
        ),
        (lambda weights: weights.update({"norm.weight": torch.zeros(3)}), "trunk.norm.weight (shape [3], here [64])"),
        (lambda weights: weights.update(pos_embed=torch.zeros(1, 12, 64)), "pos_embed has shape [1, 12, 64]"),
    ],
)
def test_a_file_of_timm_that_does_not_fit_is_refused_and_nothing_is_copied(change, message):
    weights, model = timm_model("test_vit", 3).state_dict(), timm_person_search("test_vit", 4, 2)
    change(weights)
    before = state(model)
    with pytest.raises(UserError) as caught:
        load_image_encoder(model, weights, "timm.pth")
    assert message in str(caught.value) and "timm.pth" in str(caught.value)
    assert all(value.equal(before[name]) for name, value in state(model).items())


def test_an_encoder_of_timm_within_a_checkpoint_of_ours_is_taken_too():
    other, model = timm_person_search("test_vit", 3, 3), timm_person_search("test_vit", 4, 2)
    report = load_image_encoder(model, content(other), "own.pth")
    assert report.resized == ["visual_encoder.trunk.pos_embed"]
    assert model.visual_encoder.trunk.norm.weight.equal(other.visual_encoder.trunk.norm.weight)
    whole = load_weights(timm_person_search("test_vit", 4, 2), content(other), "own.pth", (3, 3))
    assert {name for name in whole.resized if "trunk" in name} == {
        "visual_encoder.trunk.pos_embed",
        "visual_encoder_m.trunk.pos_embed",
    }


def test_a_vit_of_a_checkpoint_is_foreign_to_one_of_timm():
    report = load_weights(timm_person_search("test_vit", 4, 2), content(tiny_model(seed=5)), "vit.pth")
    assert report.unused["visual_encoder.norm.weight"] == "of another image encoder"
