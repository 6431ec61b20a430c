"""Checkpoints of ALBEF, RaSa and MARS: their names and shapes, and how they are fitted to a model."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from benchmark_data import REPOSITORY
from golden_numbers import golden_folder
from tiny_model import SPECIAL, VISION, tiny_model
from torch.nn.functional import interpolate

from configs.loading import load_config
from models.build import build_model
from models.load_report import LoadReport
from models.objectives import only
from models.person_search import PersonSearchModel
from models.positions import resize_positions
from models.released import (
    is_momentum,
    load_trained,
    load_weights,
    needed_to_search,
    require_trained,
)
from utils.errors import UserError

LAYOUTS = golden_folder() / "checkpoint_layouts.json"
SQUARE = replace(VISION, image_size=(24, 24))  # 3 x 3 patches, as ALBEF's are square
QUEUES = {"image_queue", "text_queue", "idx_queue", "queue_ptr"}


# ---- the released layouts --------------------------------------------------------------


@cache
def layout(system: str) -> dict[str, list]:
    if not LAYOUTS.is_file():
        pytest.skip(f"{LAYOUTS} is absent: set GOLDEN_DIR to a folder that has it")
    return json.loads(LAYOUTS.read_text())[system]


@cache
def full_size(*configs: str) -> dict[str, list]:
    """Names, shapes and types of the model of configuration files, without its content."""
    with torch.device("meta"):
        model = build_model(load_config([REPOSITORY / "configs" / config for config in configs]), SPECIAL)
    return {name: [list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in model.state_dict().items()}


@pytest.mark.parametrize(
    ("system", "configs"),
    [
        ("MARS", "PS_cuhk_pedes.yaml"),
        ("MARS", "PS_icfg_pedes.yaml"),
        ("MARS", "PS_rstp_reid.yaml"),
        ("RaSa", "PS_cuhk_pedes.yaml recipes/rasa.yaml"),
        ("RaSa", "PS_icfg_pedes.yaml recipes/rasa.yaml"),
        ("RaSa", "PS_rstp_reid.yaml recipes/rasa.yaml"),
    ],
)
def test_a_configured_model_has_exactly_the_tensors_of_the_released_checkpoint(system, configs):
    assert full_size(*configs.split()) == layout(system)


def test_the_albef_model_differs_from_the_released_one_by_positions_and_identities_alone():
    ours, theirs = full_size("PS_cuhk_pedes.yaml", "recipes/albef.yaml"), layout("ALBEF")
    assert {name for name in ours if ours[name] != theirs.get(name)} == {
        "idx_queue",
        "visual_encoder.pos_embed",
        "visual_encoder_m.pos_embed",
    }
    assert set(theirs) < set(ours)


def test_the_released_albef_lacks_only_what_rasa_and_mars_add():
    added = ("prd_head.", "mrtd_head.", "visual_decoder", "mask_token", "decoder_pred.", "idx_queue")
    missing = set(full_size("PS_cuhk_pedes.yaml")) - set(layout("ALBEF"))
    assert {name for name in missing if not name.startswith(added)} == {
        name for name in missing if ".crossattention." in name
    }
    assert all(int(name.split(".layer.")[1].split(".")[0]) < 6 for name in missing if ".crossattention." in name)


# ---- a small ALBEF into a small MARS ---------------------------------------------------


def mars(**changed) -> PersonSearchModel:
    return tiny_model(seed=1, **changed)


def content(model: PersonSearchModel) -> dict[str, torch.Tensor]:
    """A checkpoint of `model`, its momentum parameters different from the online ones."""
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.momentum_pairs()[0]:
            parameter += 0.1 * torch.randn_like(parameter)
    return {name: value.clone() for name, value in model.state_dict().items()}


def small_albef() -> dict[str, torch.Tensor]:
    """What a checkpoint of ALBEF holds: square images, half cross-attention, no identities."""
    weights = content(tiny_model(only("cl", "pitm", "mlm"), SQUARE, seed=2, full_ca=False))
    del weights["idx_queue"]
    return weights


def test_albef_into_mars_reports_every_tensor():
    model, checkpoint = mars(), small_albef()
    report = load_weights(model, checkpoint, "albef.pth")
    positions = {"visual_encoder.pos_embed", "visual_encoder_m.pos_embed"}
    assert set(report.loaded) == set(checkpoint) - {"queue_ptr"}
    assert set(report.resized) == positions
    assert report.unused == {"queue_ptr": "belongs to the run that made it"}
    assert set(report.fresh) == set(model.state_dict()) - set(report.loaded)
    assert {name.split(".")[0] for name in report.fresh} == {
        "prd_head",
        "mrtd_head",
        "visual_decoder",
        "mask_token",
        "visual_decoder_pos_embed",
        "decoder_pred",
        "idx_queue",
        "queue_ptr",
        "text_encoder",
        "text_encoder_m",
    }
    assert all(".crossattention." in name for name in report.fresh if name.startswith("text_encoder"))


def test_albef_into_mars_copies_every_tensor_it_names():
    model, checkpoint = mars(), small_albef()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_weights(model, checkpoint, "albef.pth")
    after = model.state_dict()
    for name in set(report.loaded) - set(report.resized):
        assert torch.equal(after[name], checkpoint[name]), name
    for name in report.fresh:
        if not name.startswith("text_encoder_m"):
            assert torch.equal(after[name], before[name]), name


def test_momentum_parameters_of_the_checkpoint_are_kept_where_others_are_missing():
    model, checkpoint = mars(), small_albef()
    load_weights(model, checkpoint, "albef.pth")
    state, name = model.state_dict(), "text_encoder_m.bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(state[name], checkpoint[name])
    missing = "bert.encoder.layer.0.crossattention.self.query.weight"
    assert torch.equal(state[f"text_encoder_m.{missing}"], state[f"text_encoder.{missing}"])


def test_momentum_starts_at_the_online_parameters_where_a_checkpoint_has_none():
    model = mars()
    online = {name: value for name, value in content(mars()).items() if not name.split(".")[0].endswith("_m")}
    online = {name: value + 1 if value.is_floating_point() else value for name, value in online.items()}
    report = load_weights(model, online, "online.pth")
    momentum, source = model.momentum_pairs()
    assert any(name.startswith("text_encoder_m.") for name in report.fresh)
    assert all(torch.equal(one, other) for one, other in zip(momentum, source, strict=True))
    assert torch.equal(model.vision_proj_m.weight, online["vision_proj.weight"])


def test_parts_of_training_that_a_model_lacks_worry_nobody_who_searches(caplog):
    held = {name: value for name, value in content(mars()).items() if needed_to_search(name)}
    with caplog.at_level("INFO"):
        load_trained(mars(), {"path": "small.pth", "model": held})
    others = len(content(mars())) - len(held) - 2  # identities of the queue and its pointer are nobody's
    (line,) = caplog.messages
    loaded = f"{len(held)} tensors loaded, 0 of them resized, 0 fresh, 0 unused"
    assert line == f"checkpoint small.pth: {loaded}; it lacks {others} that ranking does not use"


def test_a_checkpoint_of_the_same_model_is_taken_over_exactly():
    model, checkpoint = mars(), content(tiny_model(seed=5))
    report = load_weights(model, checkpoint, "own.pth", old_grid=VISION.grid)
    assert (report.resized, set(report.fresh)) == ([], {"idx_queue", "queue_ptr"})
    state = model.state_dict()
    assert all(torch.equal(state[name], checkpoint[name]) for name in report.loaded)


def test_identities_and_pointer_of_another_run_are_not_taken_over():
    checkpoint = content(tiny_model(seed=5))
    checkpoint["idx_queue"][:], checkpoint["queue_ptr"][:] = 3, 7
    model = mars()
    report = load_weights(model, checkpoint, "own.pth")
    assert (model.idx_queue == -100).all()
    assert model.queue_ptr.item() == 0
    assert {"idx_queue", "queue_ptr"} <= set(report.unused)
    assert {"idx_queue", "queue_ptr"} <= set(report.fresh)


def test_unknown_names_and_other_shapes_are_reported_with_the_reason():
    checkpoint = content(tiny_model(seed=5))
    checkpoint["bert.pooler.weight"] = torch.zeros(2)
    checkpoint["vision_proj.weight"] = torch.zeros(9, 16)
    model = mars()
    kept = model.vision_proj.weight.clone()
    report = load_weights(model, checkpoint, "own.pth")
    assert report.unused["bert.pooler.weight"] == "no such parameter in this model"
    assert report.unused["vision_proj.weight"] == "shape [9, 16], here [8, 16]"
    assert "vision_proj.weight" in report.fresh
    assert torch.equal(model.vision_proj.weight, kept)


def test_half_precision_checkpoints_are_read_into_float32():
    checkpoint = {n: v.half() if v.is_floating_point() else v for n, v in content(tiny_model(seed=5)).items()}
    model = mars()
    load_weights(model, checkpoint, "half.pth")
    assert model.vision_proj.weight.dtype == torch.float32
    assert torch.equal(model.vision_proj.weight, checkpoint["vision_proj.weight"].float())


def test_a_checkpoint_that_matches_less_than_half_is_refused_and_nothing_is_copied():
    model = mars()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    part = {name: value + 1 for name, value in content(tiny_model(seed=5)).items() if name.startswith("visual_encoder")}
    with pytest.raises(UserError, match=r"checkpoint stranger\.pth matches only \d+ of \d+ tensors"):
        load_weights(model, part, "stranger.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("copies", [True, False], ids=["with-momentum-copies", "exported"])
def test_half_of_the_networks_is_enough_and_queues_do_not_count(copies):
    names = [name for name in mars().state_dict() if name not in QUEUES and (copies or not is_momentum(name))]
    names.sort(key=is_momentum, reverse=True)  # so that the half has them
    checkpoint, enough = content(tiny_model(seed=5)), (len(names) + 1) // 2
    load_weights(mars(), {name: checkpoint[name] for name in names[:enough]}, "half.pth")
    too_few = {name: checkpoint[name] for name in [*names[: enough - 1], "image_queue", "text_queue"]}
    with pytest.raises(UserError, match="matches only"):
        load_weights(mars(), too_few, "less.pth")


def test_the_report_reads_as_counts_and_names():
    report = LoadReport(["a", "b"], ["b"], [f"f{number}" for number in range(14)], {"u": "why"})
    lines = str(report).splitlines()
    assert lines[0] == "2 tensors loaded, 1 of them resized, 14 fresh, 1 unused"
    assert "  resized: b" in lines
    assert "  fresh:   f11" in lines
    assert "  fresh:   ... and 2 more" in lines
    assert "  unused:  u (why)" in lines


# ---- what search needs -----------------------------------------------------------------


def test_a_model_with_everything_search_needs_is_accepted():
    checkpoint = {
        name: value
        for name, value in content(tiny_model(seed=5)).items()
        if not name.startswith(("prd_head", "visual_decoder")) and "position_ids" not in name
    }
    report = load_weights(mars(), checkpoint, "own.pth")
    assert "prd_head.weight" in report.fresh
    require_trained(report, "own.pth")  # raises where search lacks something


def test_search_refuses_a_model_whose_cross_attention_is_fresh():
    report = load_weights(mars(), small_albef(), "albef.pth")
    with pytest.raises(UserError, match=r"albef\.pth lacks \d+ tensors that search needs, such as .*crossattention"):
        require_trained(report, "albef.pth")


# ---- positions -------------------------------------------------------------------------


def positions(grid: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """[1, 1 + L, 16]."""
    return torch.randn(1, 1 + grid[0] * grid[1], 16, generator=torch.Generator().manual_seed(seed))


def plainly_resized(old: torch.Tensor, old_grid: tuple[int, int], grid: tuple[int, int]) -> torch.Tensor:
    """[1, 1 + L, D] by torch's own interpolation of a [1, D, rows, columns] picture."""
    picture = torch.zeros(1, old.shape[-1], *old_grid)
    for place in range(old_grid[0] * old_grid[1]):
        picture[0, :, place // old_grid[1], place % old_grid[1]] = old[0, 1 + place]
    picture = interpolate(picture, size=grid, mode="bicubic", align_corners=False)
    rows = [old[0, 0]] + [picture[0, :, row, column] for row in range(grid[0]) for column in range(grid[1])]
    return torch.stack(rows)[None]


@pytest.mark.parametrize(
    ("old_grid", "stated", "grid"),
    [
        ((3, 3), None, (4, 4)),
        ((3, 3), None, (4, 2)),
        ((3, 3), (3, 3), (4, 2)),
        ((4, 2), (4, 2), (6, 3)),
        ((2, 4), (2, 4), (3, 3)),
        ((3, 3), (5, 7), (4, 2)),
        ((4, 4), None, (8, 2)),
        ((8, 2), (8, 2), (4, 4)),
        ((4, 2), (4, 2), (2, 4)),
    ],
)
def test_positions_are_interpolated_over_the_patch_grid_and_cls_stays(old_grid, stated, grid):
    old = positions(old_grid)
    like = torch.zeros(1, 1 + grid[0] * grid[1], 16)
    found = resize_positions(old, "visual_encoder.pos_embed", like, stated, grid, "x.pth")
    torch.testing.assert_close(found, plainly_resized(old, old_grid, grid), atol=1e-6, rtol=0)
    assert torch.equal(found[:, 0], old[:, 0])


@pytest.mark.parametrize(
    ("grid", "stated"), [((3, 3), None), ((3, 3), (3, 3)), ((4, 2), (4, 2)), ((4, 2), None), ((8, 2), (8, 2))]
)
def test_positions_of_the_same_grid_stay_exactly_as_they_are(grid, stated):
    old = positions(grid)
    assert resize_positions(old, "visual_encoder.pos_embed", torch.zeros_like(old), stated, grid, "x.pth") is old


def test_decoder_positions_keep_their_two_dimensions():
    old = positions((3, 3))
    found = resize_positions(old[0], "visual_decoder_pos_embed", torch.zeros(9, 16), None, (4, 2), "x.pth")
    torch.testing.assert_close(found, plainly_resized(old, (3, 3), (4, 2))[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("shape", "stated"), [((1, 8, 16), None), ((1, 1, 16), None), ((1, 10, 12), None), ((1, 8, 16), (2, 3))]
)
def test_positions_that_are_no_grid_of_this_width_are_refused(shape, stated):
    with pytest.raises(UserError, match=r"x\.pth: visual_encoder\.pos_embed has shape .* not a grid of width 16"):
        resize_positions(torch.zeros(shape), "visual_encoder.pos_embed", torch.zeros(1, 9, 16), stated, (4, 2), "x.pth")


@pytest.mark.parametrize("grid", [(4, 2), (3, 3), (5, 4)])
def test_mars_for_another_image_size_gets_all_three_positions_resized(grid):
    source, target = tiny_model(seed=5), replace(VISION, image_size=(8 * grid[0], 8 * grid[1]))
    checkpoint, model = content(source), mars(vision=target)
    report = load_weights(model, checkpoint, "own.pth", old_grid=VISION.grid)
    names = {"visual_encoder.pos_embed", "visual_encoder_m.pos_embed", "visual_decoder_pos_embed"}
    assert set(report.resized) == (set() if grid == VISION.grid else names)
    for name in names:
        old, found = checkpoint[name].view(1, 9, 16), model.state_dict()[name].view(1, -1, 16)
        torch.testing.assert_close(found, plainly_resized(old, VISION.grid, grid), atol=1e-6, rtol=0)


def test_as_many_patches_in_another_grid_are_no_reason_to_copy_positions():
    old_vision, new_vision = replace(VISION, image_size=(32, 32)), replace(VISION, image_size=(64, 16))
    checkpoint, model = content(tiny_model(vision=old_vision, seed=5)), mars(vision=new_vision)
    report = load_weights(model, checkpoint, "own.pth")
    assert len(report.resized) == 3
    expected = plainly_resized(checkpoint["visual_encoder.pos_embed"], (4, 4), (8, 2))
    torch.testing.assert_close(model.visual_encoder.pos_embed.detach(), expected, atol=1e-6, rtol=0)


def test_what_search_needs_is_enough_without_momentum_copies():
    source, model = mars(), mars()
    needed = {name: value for name, value in source.state_dict().items() if needed_to_search(name)}
    assert not any(name.split(".")[0].endswith(("_m", "queue")) for name in needed) and "itm_head.weight" in needed
    require_trained(load_weights(model, needed, "exported"), "exported")
    for name, value in model.state_dict().items():
        online = name.replace("_m.", ".", 1)
        assert online not in needed or torch.equal(value, needed[online]), name
