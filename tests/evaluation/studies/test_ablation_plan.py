"""What a plan trains, what each run is compared to, and which plans are refused."""

import json
from pathlib import Path

import pytest
from ablation_plans import ALONG, LENGTHS, PLAN, plan_of

from evaluation.studies.ablation_plan import Training, all_runs, check, folder_name, trainings
from utils.checkpoints import named
from utils.errors import UserError


def test_every_variant_is_trained_with_every_seed(tmp_path):
    plan = plan_of(tmp_path, PLAN, ["precision=fp32"])
    runs = all_runs(trainings(plan, tmp_path))
    assert [(run.name, run.overrides) for run in runs] == [
        ("full, seed 1", ("precision=fp32",)),
        ("no MAE, seed 1", ("precision=fp32", "weights.mae=0")),
        ("full, seed 2", ("precision=fp32",)),
        ("no MAE, seed 2", ("precision=fp32", "weights.mae=0")),
    ]
    assert runs[1].folder == tmp_path / "runs" / "no-mae" / "seed-1"
    assert runs[1].made_with()["settings"]["weights"]["mae"] == 0


def test_a_grid_is_every_combination(tmp_path):
    grid = "grid: {weights.mae: [0, 0.5], bert_config.full_ca: [true, false]}"
    text = f"config: configs/demo_from_nothing.yaml\nseeds: [1]\n{grid}"
    plan = plan_of(tmp_path, text)
    assert list(plan.variants) == [
        "weights.mae=0, bert_config.full_ca=true",
        "weights.mae=0, bert_config.full_ca=false",
        "weights.mae=0.5, bert_config.full_ca=true",
        "weights.mae=0.5, bert_config.full_ca=false",
    ]
    assert plan.base == "weights.mae=0, bert_config.full_ca=true"
    last = trainings(plan, tmp_path)["weights.mae=0.5, bert_config.full_ca=false"][0]
    assert last.made_with()["settings"]["bert_config"]["full_ca"] is False


def test_a_first_stage_is_trained_once_for_each_seed(tmp_path):
    text = PLAN + "first_stage: configs/demo_from_nothing_pretrain.yaml\nset: [schedular.epochs=1]\n"
    plan = plan_of(tmp_path, text, ["precision=fp32"])
    runs = all_runs(trainings(plan, tmp_path))
    assert [run.name for run in runs[:3]] == [
        "first stage demo_from_nothing_pretrain, seed 1",
        "full, seed 1",
        "no MAE, seed 1",
    ]
    assert len(runs) == 6
    assert runs[1].checkpoint == runs[2].checkpoint == runs[0].folder / "checkpoint_best.pth"
    assert runs[0].overrides == ("precision=fp32",)  # `set` is of the variants
    assert runs[1].overrides == ("precision=fp32", "schedular.epochs=1")
    other = plan_of(tmp_path, text, [], tmp_path / "mine.pth")
    assert {run.checkpoint for run in all_runs(trainings(other, tmp_path))} == {tmp_path / "mine.pth"}


def test_a_variant_may_have_a_start_of_its_own(tmp_path):
    text = PLAN + "  other: {config: configs/demo_vim.yaml, first_stage: configs/demo_vim_pretrain.yaml}\n"
    plan = plan_of(tmp_path, text + "checkpoint: start.pth\n")
    by_variant = trainings(plan, tmp_path)
    assert [str(runs[0].checkpoint) for runs in by_variant.values()][:2] == ["start.pth", "start.pth"]
    assert by_variant["other"][0].start.config == "configs/demo_vim_pretrain.yaml"


def test_every_variant_is_trained_at_every_length(tmp_path):
    plan = plan_of(tmp_path, LENGTHS)
    runs = trainings(plan, tmp_path)
    assert {name: of[0].made_with()["settings"]["schedular"]["steps"] for name, of in runs.items()} == {
        "full x 0.5": 200,
        "ALBEF x 0.5": 360,  # half of an odd number: the even one beside it
        "full x 2": 800,
        "ALBEF x 2": 1442,
    }
    assert runs["ALBEF x 0.5"][0].folder == tmp_path / "runs" / "albef-x-0.5" / "seed-1"
    assert plan.compared() == {
        "full x 0.5": "full x 0.5",
        "ALBEF x 0.5": "full x 0.5",
        "full x 2": "full x 2",
        "ALBEF x 2": "full x 2",
    }
    assert plan_of(tmp_path, PLAN).compared() == {"full": "full", "no MAE": "full"}
    other = plan_of(tmp_path, LENGTHS + "base: ALBEF")
    assert other.compared()["full x 2"] == "ALBEF x 2" and next(iter(trainings(other, tmp_path))) == "ALBEF x 0.5"


def test_a_length_needs_steps(tmp_path):
    plan = plan_of(tmp_path, PLAN + "lengths: [1, 2]")
    with pytest.raises(UserError, match=r"variant full has no schedular.steps that `lengths` could multiply"):
        trainings(plan, tmp_path)


def test_every_variant_is_trained_with_every_value(tmp_path):
    plan = plan_of(tmp_path, ALONG, ["precision=fp32"])
    runs = trainings(plan, tmp_path)
    assert {name: of[0].overrides for name, of in runs.items()} == {
        "full, noisy_rate=0": ("precision=fp32", "schedular.steps=400", "noisy_rate=0"),
        "ALBEF, noisy_rate=0": ("precision=fp32", "weights.mae=0", "noisy_rate=0"),
        "full, noisy_rate=0.5": ("precision=fp32", "schedular.steps=400", "noisy_rate=0.5"),
        "ALBEF, noisy_rate=0.5": ("precision=fp32", "weights.mae=0", "noisy_rate=0.5"),
    }
    assert runs["full, noisy_rate=0.5"][0].made_with()["settings"]["noisy_rate"] == 0.5
    assert runs["full, noisy_rate=0.5"][0].folder == tmp_path / "runs" / "full-noisy-rate-0.5" / "seed-1"
    assert plan.compared()["ALBEF, noisy_rate=0.5"] == "full, noisy_rate=0.5"
    assert plan.before() == {
        "full, noisy_rate=0.5": "full, noisy_rate=0",
        "ALBEF, noisy_rate=0.5": "ALBEF, noisy_rate=0",
    }
    assert not plan_of(tmp_path, PLAN).before() and not plan_of(tmp_path, LENGTHS).before()


def test_a_start_of_the_repository_is_meant_by_its_name(tmp_path, monkeypatch):
    ours = tmp_path / "starts" / "small.safetensors"
    ours.parent.mkdir()
    ours.touch()
    monkeypatch.setattr(named, "STARTS", ours.parent)
    of_file = trainings(plan_of(tmp_path, PLAN + "checkpoint: small\n"), tmp_path)
    of_flag = trainings(plan_of(tmp_path, PLAN, checkpoint=Path("small")), tmp_path)
    for by_variant in (of_file, of_flag):
        assert {run.checkpoint for runs in by_variant.values() for run in runs} == {ours}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config: configs/demo_from_nothing.yaml\nseeds: [1]", "nothing to compare"),
        (PLAN.replace("seeds: [1, 2]", "seeds: []"), "seeds"),
        (PLAN.replace("[1, 2]", "[1, 1]"), "a seed is named twice"),
        (PLAN.replace("[1, 2]", "[-1]"), "seeds"),
        (LENGTHS.replace("[0.5, 2]", "[2, 2.0]"), "a length is named twice"),
        (LENGTHS.replace("[0.5, 2]", "[0]"), "lengths"),
        (LENGTHS + "along: {alpha: [0, 1]}", "it has `lengths` and values `along` alpha; leave one of them out"),
        (ALONG.replace("[0, 0.5]", "[0.5, 0.5]"), "a value `along` is named twice"),
        (ALONG.replace("[0, 0.5]", "[0.5]"), "along"),
        (ALONG.replace("[0, 0.5]", "[0, 0.5], alpha: [0, 1]"), "along"),
        (PLAN + "base: nobody", "'nobody' is none of the variants: full, no MAE"),
        (PLAN + "  No mae: {}\n", "same name"),
        (PLAN.replace("set:", "sets:"), "sets"),
        (PLAN.replace("config:", "confg:"), "confg"),
        ("[1, 2]", "study.yaml"),
    ],
)
def test_a_wrong_plan_is_told(tmp_path, text, words):
    with pytest.raises(UserError) as told:
        plan_of(tmp_path, text)
    assert words in str(told.value) and "\n" not in str(told.value)


def test_names_become_folders():
    assert folder_name("No MAE, no attribute loss") == "no-mae-no-attribute-loss"
    assert folder_name("../../etc") == "etc" and folder_name("ÄÖ") == "variant"


def test_a_folder_of_other_settings_is_refused(tmp_path):
    run = Training("full, seed 1", tmp_path / "run", "configs/demo_from_nothing.yaml", (), 1)
    check(run)  # nothing there
    (run.folder).mkdir()
    (run.folder / "made_with.json").write_text(json.dumps(run.made_with()))
    check(run)
    with pytest.raises(UserError, match=r"weights.mae 0.1, now 0.0"):
        check(Training("full, seed 1", tmp_path / "run", "configs/demo_from_nothing.yaml", ("weights.mae=0",), 1))
    (run.folder / "made_with.json").unlink()
    (run.folder / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        check(run)
    with pytest.raises(UserError, match=r"checkpoint none.pth does not exist"):
        check(Training("full, seed 1", tmp_path / "new", "configs/demo_from_nothing.yaml", (), 1, "none.pth"))
    with pytest.raises(UserError, match=r"checkpoint .* is a folder$"):
        check(Training("full, seed 1", tmp_path / "new", "configs/demo_from_nothing.yaml", (), 1, str(tmp_path)))
