"""Bins are right on numbers known by hand, and the bins of a real split are that split."""

import json

import numpy as np
import pytest
from PIL import Image

from evaluation.studies.density import bins_of, main, quantile_edges
from utils.errors import UserError


def members(bins):
    return {name: inside.nonzero()[0].tolist() for name, inside in bins.items()}


def test_bins_begin_at_their_edges_and_the_last_is_open():
    lengths = np.array([5, 9, 10, 12, 40])
    assert members(bins_of(lengths, [0, 10, 20, 30])) == {"0-9": [0, 1], "10-19": [2, 3], "30+": [4]}


def test_values_below_the_first_edge_are_a_bin():
    assert members(bins_of(np.array([3, 10, 11]), [10])) == {"3-9": [0], "10+": [1, 2]}


def test_a_bin_of_one_number_has_its_name():
    assert members(bins_of(np.array([0, 1, 1, 2, 7]), range(3))) == {"0": [0], "1": [1, 2], "2+": [3, 4]}


def test_quantiles_hold_as_many_captions():
    values = np.arange(100)
    edges = quantile_edges(values, 5)
    assert [int(inside.sum()) for inside in bins_of(values, edges).values()] == [20] * 5
    assert quantile_edges(np.full(9, 4), 5) == [4]  # equal lengths cannot be told apart


@pytest.fixture(scope="module")
def studied(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("density")
    checkpoints = [str(tiny_run / f"checkpoint_{name}.pth") for name in ("best", "last")]
    options = ["--label", "one", "two", "--length_bins", "0", "22", "30", "--output_dir", str(folder)]
    main(["--checkpoint", *checkpoints, *options])
    return folder


def test_the_bins_together_are_the_split(studied, tiny_run):
    found = json.loads((studied / "density.json").read_text())
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    for stage in ("stage1", "reranked"):
        for by in ("length", "attributes"):
            rows = [row for row in found["rows"] if (row["model"], row["by"], row["stage"]) == ("one", by, stage)]
            assert sum(row["captions"] for row in rows) == found["captions"] == metrics[stage]["captions"]
            for name in ("r1", "mAP", "mINP"):
                mean = np.average([row[name] for row in rows], weights=[row["captions"] for row in rows])
                assert mean == pytest.approx(metrics[stage][name])
                assert all(row[f"{name}_low"] <= row[name] <= row[f"{name}_high"] for row in rows)


def test_lengths_and_attributes_are_also_told_together(studied):
    found = json.loads((studied / "density.json").read_text())
    grid = found["length_by_attributes"]["two"]["reranked"]
    assert sum(cell["captions"] for cell in grid) == found["captions"]
    assert set(found["spearman_with_average_precision"]) == {"one", "two"}
    assert (studied / "density.csv").read_text().startswith("model,by,bin,captions,stage,r1,r1_low")
    with Image.open(studied / "density.png") as picture:
        assert picture.width >= 900


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--length_bins", "10", "5"], "--length_bins must ascend"),
        (["--length_bins", "-3", "5"], "--length_bins must ascend"),
        (["--most_attributes", "0"], "--most_attributes must be 1 or more"),
        ([], "missing.pth"),
    ],
)
def test_bad_input_is_one_line(arguments, words, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        main(["--checkpoint", str(tmp_path / "missing.pth"), "--output_dir", str(tmp_path / "out"), *arguments])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_models_of_different_captions_are_not_compared(tiny_run, benchmark, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("checkpoint_best.pth", "config.yaml"):
        (other / name).write_bytes((tiny_run / name).read_bytes())
    settings = (other / "config.yaml").read_text()
    assert "processed_data/test.json" in settings
    shorter = json.loads((benchmark / "processed_data/test.json").read_text())[1:]
    (tmp_path / "test.json").write_text(json.dumps(shorter))
    test_file = str(benchmark / "processed_data/test.json")
    (other / "config.yaml").write_text(settings.replace(test_file, str(tmp_path / "test.json")))
    checkpoints = [str(folder / "checkpoint_best.pth") for folder in (tiny_run, other)]
    with pytest.raises(UserError, match="different test splits"):
        main(["--checkpoint", *checkpoints, "--output_dir", str(tmp_path / "out")])
