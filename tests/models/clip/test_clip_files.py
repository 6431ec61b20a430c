"""Files of CLIP, IRRA and RDE: layouts of the released ones, sizes, positions, refusals."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from golden_numbers import golden_folder
from tiny_clip import SIZE

from models.clip.irra import IRRA, IrraSettings
from models.clip.rde import RDE, RdeSettings
from models.clip.released import DROPPED, load_dual_encoder, load_model, size_of
from models.clip.towers import ClipSize, DualEncoder
from utils.errors import UserError

LAYOUTS = golden_folder() / "clip_layouts.json"
POSITIONS = "visual.positional_embedding"
BUILDERS = {
    "CLIP": lambda: DualEncoder(ClipSize(image_size=(224, 224))),
    "IRRA": lambda: IRRA(ClipSize(), IrraSettings(classes=11003)),
    "RDE": lambda: RDE(ClipSize(), RdeSettings()),
}


@cache
def full_size(system: str) -> torch.nn.Module:
    with torch.device("meta"):
        return BUILDERS[system]()


def shapes(system: str) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in full_size(system).state_dict().items()}


# ---- names and shapes ------------------------------------------------------------------


@pytest.mark.skipif(not LAYOUTS.is_file(), reason=f"{LAYOUTS} is absent: set GOLDEN_DIR to a folder that has it")
@pytest.mark.parametrize("system", list(BUILDERS))
def test_released_layouts(system):
    expected = {name: shape for name, (shape, _) in json.loads(LAYOUTS.read_text())[system].items()}
    expected = {name: shape for name, shape in expected.items() if name not in DROPPED}
    assert shapes(system) == expected
    learned = [name for name, _ in full_size(system).named_parameters()]
    assert learned == [name for name in expected if name in set(learned)]


@pytest.mark.parametrize(
    ("system", "count", "some"),
    [
        ("CLIP", 301, {POSITIONS: [197, 768], "transformer.resblocks.11.attn.in_proj_weight": [1536, 512]}),
        ("IRRA", 367, {"base_model.visual.positional_embedding": [193, 768], "classifier.weight": [11003, 512]}),
        ("IRRA", 367, {"mlm_head.fc.weight": [49408, 512], "cross_modal_transformer.resblocks.3.ln_2.bias": [512]}),
        ("RDE", 335, {"visul_emb_layer.fc.weight": [1024, 512], "texual_emb_layer.mlp.bns.1.running_var": [1024]}),
    ],
)
def test_shapes_of_full_size_models(system, count, some):
    found = shapes(system)
    assert len(found) == count
    assert {name: found.get(name) for name in some} == some


# ---- sizes -----------------------------------------------------------------------------


def clip_file(**changes) -> dict[str, torch.Tensor]:
    """A file in OpenAI's layout: half precision, square images, and what is dropped."""
    torch.manual_seed(0)
    size = replace(SIZE, image_size=(16, 16), **changes)
    weights = {name: value.half() for name, value in DualEncoder(size).state_dict().items()}
    return {**weights, **{name: torch.tensor(1.0) for name in DROPPED}}


def test_sizes_are_read_from_shapes():
    found = size_of(clip_file(), "here", SIZE.image_size)
    assert replace(found, vision_heads=2, text_heads=2) == SIZE


@pytest.mark.parametrize("system", list(BUILDERS))
def test_sizes_of_published_models(system):
    image_size = (224, 224) if system == "CLIP" else (384, 128)
    found = size_of(full_size(system).state_dict(), "here", image_size)
    assert found == ClipSize(image_size=image_size)


# ---- loading ---------------------------------------------------------------------------


def test_square_positions_are_resized_to_the_grid():
    model, weights = DualEncoder(SIZE), clip_file()
    report = load_dual_encoder(model, weights, "here")
    assert report.resized == [POSITIONS] and set(report.unused) == set(DROPPED)
    assert torch.equal(model.visual.positional_embedding[0], weights[POSITIONS][0].float())
    square = weights[POSITIONS][1:].float().T.reshape(1, 8, 4, 4)
    expected = torch.nn.functional.interpolate(square, (5, 3), mode="bilinear").flatten(2)[0].T
    torch.testing.assert_close(model.visual.positional_embedding[1:].detach(), expected)
    assert model.text_projection.dtype == torch.float32


def test_as_many_patches_in_another_grid_are_resized():
    model = DualEncoder(replace(SIZE, image_size=(32, 8)))  # 8 x 2 patches, in the file 4 x 4
    assert load_dual_encoder(model, clip_file(), "here").resized == [POSITIONS]


def test_positions_of_a_checkpoint_are_taken_as_they_are():
    model, other = (RDE(SIZE, RdeSettings(width=8)) for _ in range(2))
    report = load_model(model, other.state_dict(), "here")
    assert not report.resized
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_a_checkpoint_of_another_grid_needs_to_be_told_which():
    wide = IRRA(replace(SIZE, image_size=(24, 12)), IrraSettings(("sdm",)))
    model = IRRA(SIZE, IrraSettings(("sdm",)))
    with pytest.raises(UserError, match=r"has 18 patches, images of 20 x 12 have 5 x 3"):
        load_model(model, wide.state_dict(), "here")
    assert load_model(model, wide.state_dict(), "here", old_grid=(6, 3)).resized == [f"base_model.{POSITIONS}"]


def test_the_dual_encoder_of_a_checkpoint_is_a_start():
    other = RDE(SIZE, RdeSettings(width=8))
    model = IRRA(SIZE, IrraSettings(classes=3, cross_depth=1, cross_heads=2))
    report = load_dual_encoder(model.base_model, other.state_dict(), "here")
    assert torch.equal(model.base_model.text_projection, other.base_model.text_projection)
    assert all(name.startswith(("visul", "texual")) for name in report.unused)


# ---- refusals --------------------------------------------------------------------------


def without(*names: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in clip_file().items() if name not in names}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "has no visual.conv1.weight"),
        ({"visual.layer1.0.conv1.weight": torch.zeros(1), "visual.conv1.weight": torch.zeros(3, 3)}, "has shape"),
        ({"visual.layer1.0.conv1.weight": torch.zeros(1)}, "encoded by a ResNet"),
        ({"bert.embeddings.weight": torch.zeros(1)}, "such as ViT-B/16"),
        ({**clip_file(), "text_projection": torch.zeros(3)}, "text_projection has shape"),
        ({name: value for name, value in clip_file().items() if "visual.transformer" not in name}, "no visual.transf"),
    ],
)
def test_files_of_another_architecture_have_no_size(weights, message):
    with pytest.raises(UserError, match=message) as refusal:
        size_of(weights, "here", (20, 12))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (without("ln_final.bias"), "it lacks ln_final.bias; check"),
        (without("ln_final.bias", "ln_final.weight"), r"\(2 tensors in all\)"),
        ({**clip_file(), "head.weight": torch.zeros(1)}, "holds head.weight, which the model does not have"),
        (clip_file(text_length=12), r"positional_embedding of shape \[12, 8\], the model \[10, 8\]"),
        (clip_file(text_depth=3), "holds transformer.resblocks.2"),
        (clip_file(vision_width=16), "not a grid of width 8"),
        ({**clip_file(), POSITIONS: torch.zeros(15, 8)}, "has 14 patches"),
        ({**clip_file(), POSITIONS: torch.zeros(3)}, r"of shape \[3\]"),
    ],
)
def test_files_that_do_not_fit_are_refused_whole(weights, message):
    model = DualEncoder(SIZE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=message) as refusal:
        load_dual_encoder(model, weights, "here")
    assert "\n" not in str(refusal.value)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_file_of_clip_alone_is_no_checkpoint():
    with pytest.raises(UserError, match="start from it instead"):
        load_model(RDE(SIZE, RdeSettings(width=8)), clip_file(), "here")


def test_a_checkpoint_of_rde_is_not_irra():
    with pytest.raises(UserError, match="visul_emb_layer"):
        load_model(IRRA(SIZE, IrraSettings(("sdm",))), RDE(SIZE, RdeSettings(width=8)).state_dict(), "here")
