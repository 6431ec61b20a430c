"""curves, rankings, cost and cross_domain on a tiny model: what they write, and what they refuse."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.loading import load_config
from evaluation.metrics import of_captions
from evaluation.results import read_log, read_metrics, read_rankings
from evaluation.studies import cost, cross_domain, curves, rankings
from evaluation.studies.study import ModelStudy, labels_of
from utils.checkpoints import named
from utils.errors import UserError
from utils.files import write_json


@pytest.fixture
def best(tiny_run):
    return str(tiny_run / "checkpoint_best.pth")


def rows_of(folder, name):
    assert (folder / f"{name}.csv").read_text().count("\n") > 1
    with Image.open(folder / f"{name}.png") as picture:
        assert picture.width > 800
    return json.loads((folder / f"{name}.json").read_text())["rows"]


# ---- what all share --------------------------------------------------------------------


def labels(*paths, given=(), most=None):
    return labels_of([Path(path) for path in paths], given, most)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["out/full/best.pth", "out/none/best.pth"], ["full", "none"]),
        (["a/vit/seed-1/best.pth", "a/vim/seed-1/best.pth"], ["vit/seed-1", "vim/seed-1"]),
        (["out/a/best.pth", "out/a/last.pth"], ["a/best", "a/last"]),
        (["demo_start"], ["demo_start"]),  # weights of the repository
        (["out/a/best.pth", "demo_start"], ["a", "demo_start"]),
    ],
)
def test_models_are_named_by_what_tells_them_apart(paths, names):
    assert labels(*paths) == names


def test_results_of_weights_of_the_repository_lie_beside_them(tmp_path, monkeypatch):
    (tmp_path / "small.safetensors").touch()
    monkeypatch.setattr(named, "STARTS", tmp_path)
    options = argparse.Namespace(checkpoint=[Path("small")], label=[], most=None, seed=0, output_dir=None)
    study = ModelStudy("cost", options)
    assert (study.labels, study.folder) == (["small"], tmp_path / "studies")


@pytest.mark.parametrize("ending", [".png", ".csv", ".json"])
def test_what_stands_in_the_way_of_results_is_told_before_a_model_is_opened(best, tmp_path, ending, monkeypatch):
    (tmp_path / f"cost{ending}").mkdir()
    monkeypatch.setattr("evaluation.studies.study.open_models", lambda options: pytest.fail("a model was opened"))
    with pytest.raises(UserError, match=f"cost{ending} is a folder; name a file, or move it away"):
        cost.main(["--checkpoint", best, "--output_dir", str(tmp_path)])


def test_names_of_models_are_checked():
    assert labels("a.pth", "b.pth", given=["one", "two"]) == ["one", "two"]
    for paths, given, words in (
        (["a.pth", "b.pth"], ["one"], "a different name for each of the 2"),
        (["a.pth", "b.pth"], ["one", "one"], "a different name"),
        (["a.pth", "./a.pth"], [], "given twice"),
    ):
        with pytest.raises(UserError, match=words):
            labels(*paths, given=given)
    with pytest.raises(UserError, match="at most 2"):
        labels("a.pth", "b.pth", "c.pth", most=2)


def test_a_command_needs_a_configuration(best, tmp_path, tiny_run):
    alone = tmp_path / "alone.pth"
    alone.write_bytes((tiny_run / "checkpoint_best.pth").read_bytes())
    cost.main(["--checkpoint", str(alone), "--k", "0", "--output_dir", str(tmp_path)])  # recorded in it
    with pytest.raises(UserError, match=r"nothing.pth does not exist"):
        cost.main(["--checkpoint", str(tmp_path / "nothing.pth")])
    with pytest.raises(UserError, match="test_file"):
        cost.main(["--checkpoint", best, "--set", "test_file=null", "--output_dir", str(tmp_path)])
    with pytest.raises(UserError, match="--seed must be 0 or more"):
        cost.main(["--checkpoint", best, "--seed", "-1"])


# ---- curves ----------------------------------------------------------------------------


def test_curves_of_one_run_and_of_two(tiny_run, tmp_path):
    curves.main(["--checkpoint", str(tiny_run), "--output_dir", str(tmp_path)])
    rows = rows_of(tmp_path, "curves")
    assert [row["epoch"] for row in rows] == list(range(len(rows))) and {"train/total", "val/stage1/r1"} <= set(rows[0])
    one = (tmp_path / "curves.png").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    (other / "log.txt").write_text((tiny_run / "log.txt").read_text())
    curves.main(["--checkpoint", str(tiny_run / "checkpoint_best.pth"), str(other), "--output_dir", str(tmp_path)])
    assert {row["run"] for row in rows_of(tmp_path, "curves")} == {"run", "other"}
    assert (tmp_path / "curves.png").read_bytes() != one


def test_minutes_go_on_from_epoch_to_epoch_and_from_an_earlier_run(tiny_run, tmp_path):
    first = {"epoch": 0, "seconds": 60.0, "curve": {"epoch": [0.25, 1.0], "cl": [5.0, 4.0]}}
    half = {"epoch": 1, "seconds": 30.0, "curve": {"epoch": [1.25, 1.5], "cl": [3.0, 2.0]}}  # ends amid its epoch
    placed = curves.over_minutes([first, half], before=2.0)
    assert [record["minutes"] for record in placed] == [3.0, 3.5]
    assert [record["curve"]["minutes"] for record in placed] == [[2.25, 3.0], [3.25, 3.5]]
    spent = sum(record["seconds"] for record in read_log(tiny_run / "log.txt")) / 60
    given = ["--checkpoint", str(tiny_run), str(tiny_run), "--label", "after", "alone", "--against", "minutes"]
    curves.main([*given, "--after", str(tiny_run), "-", "--output_dir", str(tmp_path)])
    last = {row["run"]: row["minutes"] for row in rows_of(tmp_path, "curves")}
    assert last == pytest.approx({"after": 2 * spent, "alone": spent})
    for wrong, told in ((["-"], "names 1 run for 2"), (["-", str(tmp_path / "none")], "--after .*none does not exist")):
        with pytest.raises(UserError, match=told):
            curves.main([*given, "--after", *wrong])
    with pytest.raises(UserError, match="needs --against minutes"):
        curves.main([*given[:-2], "--after", "-", "-"])


def test_an_epoch_none_of_whose_steps_was_finite_has_minutes_too():
    skipped = {"epoch": 0, "seconds": 60.0, "curve": {"epoch": [], "cl": []}}
    (placed,) = curves.over_minutes([skipped])
    assert placed["minutes"] == 1.0 and placed["curve"] == {"epoch": [], "cl": [], "minutes": []}


def test_curves_need_a_log(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*log.txt"):
        curves.main(["--checkpoint", str(tmp_path)])
    (tmp_path / "log.txt").write_text("")
    with pytest.raises(UserError, match="holds no epoch yet"):
        curves.main(["--checkpoint", str(tmp_path)])


# ---- rankings --------------------------------------------------------------------------


def test_gains_and_losses_are_picked_in_order():
    change = np.array([0.0, 5.0, -3.0, 5.0, -9.0, 1.0])
    assert rankings.pick("gain", 3, change, 0) == [1, 3, 5]
    assert rankings.pick("gain", 6, change, 0) == [1, 3, 5]  # what did not gain is no gain
    assert rankings.pick("loss", 1, change, 0) == [4]
    assert rankings.pick("random", 3, change, 1) == rankings.pick("random", 3, change, 1)
    assert sorted(rankings.pick("random", 6, change, 1)) == list(range(6))


def test_the_sheet_shows_what_an_evaluation_found(best, tiny_run, tmp_path):
    rankings.main(["--checkpoint", best, "--captions", "2", "0", "--output_dir", str(tmp_path)])
    rows, found = rows_of(tmp_path, "rankings"), read_rankings(tiny_run / "rankings.npz")
    for caption in (2, 0):
        shown = [row for row in rows if row["caption"] == caption]
        expected = found.indices["reranked"][caption, : len(shown)]
        assert [row["image"].split("/imgs/")[1] for row in shown] == found.image_paths[expected].tolist()
        assert [row["right"] for row in shown] == found.right("reranked")[caption, : len(shown)].tolist()
        scores = found.scores["reranked"][caption, : len(shown)].tolist()
        assert [row["score"] for row in shown] == pytest.approx(scores)


def test_two_models_are_shown_one_under_the_other(best, tiny_run, tmp_path):
    last = str(tiny_run / "checkpoint_last.pth")
    rankings.main(["--checkpoint", best, last, "--queries", "3", "--output_dir", str(tmp_path)])
    rows = rows_of(tmp_path, "rankings")
    assert list(dict.fromkeys(row["model"] for row in rows)) == ["run/checkpoint_best", "run/checkpoint_last"]
    assert len({row["caption"] for row in rows}) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--captions", "100000"], "there is no caption 100000; they are numbered 0 to"),
        (["--captions", "-1"], "there is no caption -1"),
        (["--identities", "nobody"], "there is no person nobody"),
        (["--queries", "0"], "--queries must be from 1 to 100"),
        (["--pick", "gain", "--set", "k_test=0"], "no caption has one"),
    ],
)
def test_queries_that_are_not_there(best, tmp_path, arguments, words):
    with pytest.raises(UserError, match=words):
        rankings.main(["--checkpoint", best, "--output_dir", str(tmp_path), *arguments])
    assert not list(tmp_path.iterdir())


# ---- cost, cross_domain ----------------------------------------------------------------


def test_cost_of_k_is_the_evaluation_with_k(best, tiny_run, tmp_path):
    cost.main(["--checkpoint", best, "--k", "6", "0", "100000", "--output_dir", str(tmp_path)])
    rows = rows_of(tmp_path, "cost")
    images = json.loads((tmp_path / "cost.json").read_text())["images"]
    assert [row["k"] for row in rows] == [0, 6, images]
    metrics = read_metrics(tiny_run / "metrics.json")  # of k_test 6
    for row, stage in ((rows[0], "stage1"), (rows[1], "reranked")):
        assert {key: row[key] for key in ("r1", "mAP", "mINP")} == pytest.approx(
            {key: metrics[stage][key] for key in ("r1", "mAP", "mINP")}
        )
    assert all(row["ms_per_query_alone"] > 0 and row["ms_per_query_together"] > 0 for row in rows)
    with pytest.raises(UserError, match="0 or more, not -3"):
        cost.main(["--checkpoint", best, "--k", "8", "-3", "--output_dir", str(tmp_path)])


def test_other_data_are_read_as_the_model_reads(best, tiny_run, tmp_path):
    settings = load_config(tiny_run / "config.yaml")
    of_data = {}
    for name, split in (("ours", "test"), ("theirs", "val")):
        of_data[name] = tmp_path / f"{name}.yaml"
        files = {"test_file": getattr(settings, f"{split}_file"), "test_image_root": settings.test_image_root}
        write_json(of_data[name], {**files, "image_res": 384, "max_words": 3})  # JSON is YAML
    cross_domain.main(["--checkpoint", best, "--data", *map(str, of_data.values()), "--output_dir", str(tmp_path)])
    rows = rows_of(tmp_path, "cross_domain")
    assert [(row["data"], row["stage"]) for row in rows] == [
        ("ours", "stage1"),
        ("ours", "reranked"),
        ("theirs", "stage1"),
        ("theirs", "reranked"),
    ]
    assert rows[1]["mAP"] == pytest.approx(read_metrics(tiny_run / "metrics.json")["reranked"]["mAP"])
    write_json(tmp_path / "empty.yaml", {})
    with pytest.raises(UserError, match=r"--data .*empty.yaml: config: key `test_file` is not set"):
        cross_domain.main(["--checkpoint", best, "--data", str(tmp_path / "empty.yaml")])


def test_ranks_in_the_file_are_those_of_the_metrics(tiny_run):
    found, metrics = read_rankings(tiny_run / "rankings.npz"), read_metrics(tiny_run / "metrics.json")
    for stage, ranks in found.ranks.items():
        means = {name: 100 * float(values.mean()) for name, values in of_captions(torch.from_numpy(ranks)).items()}
        assert means == pytest.approx({name: metrics[stage][name] for name in means})
