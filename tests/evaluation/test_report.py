"""The report of an output folder: what is on the page, and what bad files say."""

import base64
import json
import os
import re

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from report_output import CAPTIONS, METRICS, Page, epoch, rankings_arrays, write_log

from evaluation.report import main, write_report
from evaluation.reporting.examples import choose_queries
from evaluation.results import read_log, read_metrics, read_rankings
from evaluation.studies.curves import as_points, draw_curves
from utils.errors import UserError, run_command_line


def test_the_report_has_all_parts(output):
    folder = write_report(output)
    assert folder == output / "report"
    assert sorted(path.name for path in folder.iterdir()) == ["curves.png", "index.html", "rankings.png"]
    page = Page(folder / "index.html")
    for text in ("run<1>", "77.62", "60.00", "71.41", "re-ranked", "2 epochs, 0 h 03 min", "4 of 4 captions"):
        assert text in page.text
    assert [kind for tag, kind in page.tags if tag == "article"] == [
        "hit",
        *("hit", "hit", "miss", "miss"),
    ]  # one that gained


def test_the_page_is_self_contained(output):
    page = Page(write_report(output) / "index.html")
    # curves; per caption 3 + 3 ranked images, the one that gained before the others; right images 2 + 2 + 2 + none
    assert len(page.sources) == 1 + 5 * 6 + 6
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    first = base64.b64decode(page.sources[1].partition("base64,")[2])
    assert first[:2] == b"\xff\xd8" and len(first) < 10_000  # a JPEG thumbnail


def test_captions_are_escaped_and_complete(evaluated):
    page = Page(write_report(evaluated) / "index.html")
    for caption in CAPTIONS:
        assert caption in page.text
    assert "(empty caption)" in page.text


def test_each_image_is_marked_by_its_identity(evaluated):
    text = Page(write_report(evaluated) / "index.html").text
    first, second, third, last = re.split(r"identity (?=\w+ · first right image: )", text)[1:]
    assert first.startswith("a · first right image: rank 2 (by embeddings), rank 1 (re-ranked)✓ 1.500✓ 1.500✗")
    assert second.startswith("b · first right image: rank 1 (by embeddings), rank 1 (re-ranked)✓ 1.500✗ 1.500✓")
    assert third.startswith("c · first right image: rank 2 (by embeddings), rank 2 (re-ranked)✗ 1.500✓ 1.500✗")
    assert "nobody · first right image: not among those kept" in "identity " + last
    assert "Right images" not in last


@pytest.mark.parametrize("kept", ["log.txt", "metrics.json", "rankings.npz"])
def test_any_one_file_is_enough(output, kept):
    for name in {"log.txt", "metrics.json", "rankings.npz"} - {kept}:
        (output / name).unlink()
    folder = write_report(output)
    heads = {"log.txt": "Training", "metrics.json": "Metrics", "rankings.npz": "Rankings"}
    page = Page(folder / "index.html")
    assert [head for head in heads.values() if head in page.text] == [heads[kept]]
    assert (folder / "curves.png").exists() == (kept == "log.txt")
    assert (folder / "rankings.png").exists() == (kept == "rankings.npz")


def test_an_empty_log_draws_no_curves(output):
    write_log(output)
    assert not (write_report(output) / "curves.png").exists()


def test_no_captions_and_no_candidates(evaluated):
    arrays = rankings_arrays(evaluated)
    stages = ("stage1_indices", "stage1_scores", "reranked_indices", "reranked_scores")
    np.savez(evaluated / "rankings.npz", **{**arrays, **{name: arrays[name][:, :0] for name in stages}})
    assert "4 whose first image is wrong" in Page(write_report(evaluated) / "index.html").text
    rows = (*stages, "captions", "caption_identities")
    np.savez(evaluated / "rankings.npz", **{**arrays, **{name: arrays[name][:0] for name in rows}})
    assert "Rankings" not in Page(write_report(evaluated) / "index.html").text


def test_a_run_without_reranking(evaluated):
    arrays = {name: value for name, value in rankings_arrays(evaluated).items() if "reranked" not in name}
    np.savez(evaluated / "rankings.npz", **arrays)
    text = Page(write_report(evaluated) / "index.html").text
    assert "0.250" in text and "1.500" not in text


def test_moved_images_are_named_or_found_again(evaluated, tmp_path, caplog):
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    write_report(evaluated)
    assert "--image_root" in caplog.text
    caplog.clear()
    write_report(evaluated, image_root=tmp_path / "elsewhere")
    assert caplog.text == ""


def test_writing_again_gives_the_same_report(output):
    before = (write_report(output) / "index.html").read_bytes()
    assert (write_report(output) / "index.html").read_bytes() == before


def test_queries_mix_hits_and_misses_in_proportion():
    hits = np.arange(1000) % 4 != 0  # R@1 75 %
    chosen = choose_queries(hits, 8)
    assert len(set(chosen)) == 8 and chosen == sorted(chosen)
    assert hits[chosen].sum() == 6
    assert chosen == choose_queries(hits, 8) != choose_queries(hits, 8, seed=1)


def test_rare_hits_and_rare_misses_are_shown():
    rare = np.arange(1000) == 77
    assert 77 in choose_queries(rare, 8)
    assert 77 in choose_queries(~rare, 8)
    assert choose_queries(np.ones(3, bool), 8) == [0, 1, 2]
    assert choose_queries(np.zeros(0, bool), 8) == []


def test_log_epochs_are_ordered_and_the_last_line_of_an_epoch_counts(tmp_path):
    write_log(tmp_path, epoch(1), epoch(2), epoch(0), epoch(1, lr=3.0))
    records = read_log(tmp_path / "log.txt")
    assert [(record["epoch"], record["lr"]) for record in records] == [(0, 1e-5), (1, 3.0), (2, 1e-5)]


def test_a_cut_off_last_line_is_left_out(tmp_path, caplog):
    write_log(tmp_path, epoch(0))
    with open(tmp_path / "log.txt", "a") as file:
        file.write('{"epoch": 1, "tra')
    assert len(read_log(tmp_path / "log.txt")) == 1
    assert "cut off" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "{}",
        '{"epoch": "0"}',
        '{"epoch": 0, "train": {"cl": ""}}',
        '{"epoch": 0, "val": 3}',
        '{"epoch": 0, "test": {"stage1": {"r1": "5"}}}',
        '{"epoch": 0, "grad_norm": "x"}',
        '{"epoch": 0, "curve": [1]}',
        '{"epoch": 0, "curve": {"cl": [1]}}',
        '{"epoch": 0, "curve": {"epoch": [1], "cl": [1, 2]}}',
        '{"epoch": 0, "curve": {"epoch": [1], "cl": ["1"]}}',
    ],
)
def test_a_damaged_log_line_is_named(tmp_path, line):
    (tmp_path / "log.txt").write_text(line + "\n" + json.dumps(epoch(1)) + "\n")
    with pytest.raises(UserError, match=r"line 1 of .*log\.txt"):
        read_log(tmp_path / "log.txt")


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({}, "epoch is missing"),
        ({"epoch": True}, "epoch must be a number"),
        ({"epoch": 0, "train": {"cl": "high"}}, "train.cl must be a number"),
        ({"epoch": 0, "train": [1.0]}, "train must be an object"),
        ({"epoch": 0, "val": {"reranked": {"r1": False}}}, "val.reranked.r1 must be a number"),
        ({"epoch": 0, "curve": {"epoch": [1], "cl": [1, 2]}}, "curve must be lists of the length of `epoch`"),
    ],
)
def test_the_field_that_is_wrong_is_named(tmp_path, record, problem):
    write_log(tmp_path, record, epoch(1))
    with pytest.raises(UserError, match=rf"line 1 of .*log\.txt is not .* \({re.escape(problem)}"):
        read_log(tmp_path / "log.txt")


def test_losses_and_metrics_of_any_name_are_kept(tmp_path):
    train, val = {"my_loss": 1.0, "cl": None, "total": 2.0}, {"stage1": {**METRICS, "r50": 99.0}, "note": "x"}
    write_log(tmp_path, epoch(0, train=train, val=val, machine={"name": "x"}))
    [record] = read_log(tmp_path / "log.txt")
    assert record == {**epoch(0), "train": train, "val": val, "machine": {"name": "x"}}
    (tmp_path / "metrics.json").write_text(json.dumps({"stage1": {**METRICS, "note": "x"}, "epoch": 3}))
    assert read_metrics(tmp_path / "metrics.json") == {"stage1": {**METRICS, "note": "x"}}


def test_every_loss_of_the_log_has_a_panel_in_its_order(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(Axes, "set_title", lambda axes, text, **_: titles.append(text))
    losses = {"zeta": 1.0, "cl": 2.0, "my_loss": 3.0, "total": 6.0}
    draw_curves([epoch(0, train=losses), {"epoch": 1, "train": None}], tmp_path / "curves.png")
    assert titles[:4] == ["loss: total", "loss: zeta", "loss: cl", "loss: my_loss"]


def test_the_headline_of_the_curves_is_the_title(tmp_path, monkeypatch):
    headlines = []
    monkeypatch.setattr(Figure, "suptitle", lambda figure, text, **_: headlines.append(text))
    draw_curves([epoch(0, val={"stage1": METRICS})], tmp_path / "curves.png", "my run")
    assert headlines == ["my run"]


def test_diverged_losses_and_missing_values_are_drawn(tmp_path):
    records = [epoch(0), {"epoch": 1, "train": {"cl": float("nan"), "mae": None}}, {"epoch": 2, "val": None}]
    write_log(tmp_path, *records)
    draw_curves(read_log(tmp_path / "log.txt"), tmp_path / "curves.png", "a $broken^ title")
    assert Image.open(tmp_path / "curves.png").size[0] > 1000


def test_the_points_of_an_epoch_stand_where_its_portions_end():
    curve = {"epoch": [1.5, 2.0], "step": [15, 20], "lr": [0.2, 0.1], "cl": [5.0, 4.0]}
    assert as_points(epoch(1, curve=curve)) == [
        {"epoch": 1.5, "step": 15, "lr": 0.2, "cl": 5.0},
        {"epoch": 2.0, "step": 20, "lr": 0.1, "cl": 4.0},
    ]


def test_an_epoch_without_a_curve_is_one_point_at_its_end():
    expected = {"epoch": 2, "cl": 6.0, "pitm": 0.6, "total": 9.0, "lr": 1e-5, "grad_norm": 0.5}
    assert as_points(epoch(1, grad_norm=0.5)) == [expected]


def test_curves_and_metrics_of_either_split_make_panels(tmp_path):
    """Three losses, learning rate and gradient norm, then R@1 and mAP and two stages: two rows of panels."""
    curve = {"epoch": [0.5, 1.0], "step": [5, 10], "lr": [0.2, 0.1], "grad_norm": [1, 2]}
    curve |= {"cl": [5.0, 4.0], "pitm": [0.6, 0.5], "total": [9.0, 8.0]}
    heights = []
    for record in ({}, {"curve": curve}, {"curve": curve, "test": {"stage1": METRICS, "reranked": METRICS}}):
        draw_curves([epoch(0, **record)], tmp_path / "curves.png")
        heights.append(Image.open(tmp_path / "curves.png").size[1])
    assert heights == [300, 600, 600]  # 4, 5 and 8 panels


@pytest.mark.parametrize("content", ["[]", "{}", '{"stage1": 3}', '{"stage1": {"r1": "x"}}', "{"])
def test_damaged_metrics_are_refused(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json"):
        read_metrics(tmp_path / "metrics.json")


@pytest.mark.parametrize(
    "change",
    [
        {"captions": np.array(["one"])},
        {"image_identities": np.array(["a"])},
        {"reranked_indices": np.full((4, 3), 6)},
        {"stage1_indices": np.full((4, 3), -1)},
        {"stage1_indices": np.zeros((4, 3))},
        {"stage1_scores": np.zeros((4, 2))},
        {"captions": np.array([{}] * 4, dtype=object)},
        {"image_root": None},
    ],
)
def test_damaged_rankings_are_refused_and_nothing_is_written(output, change):
    arrays = {**rankings_arrays(output), **change}
    np.savez(output / "rankings.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=r"rankings\.npz"):
        write_report(output)
    assert not (output / "report").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04broken"])
def test_a_broken_archive_is_refused(tmp_path, content):
    (tmp_path / "rankings.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"rankings\.npz"):
        read_rankings(tmp_path / "rankings.npz")


def test_a_folder_without_results_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"none of log\.txt"):
            write_report(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [{"queries": 0}, {"queries": 10**6}, {"seed": -1}])
def test_options_out_of_range_are_refused(output, option):
    with pytest.raises(UserError, match="must be"):
        write_report(output, **option)


def test_the_command_line_prints_the_table(evaluated, capsys):
    main([str(evaluated), "--queries", "2"])
    printed = capsys.readouterr().out
    assert "77.62" in printed and str(evaluated / "report" / "index.html") in printed


def test_the_command_line_says_what_is_wrong_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run_command_line(lambda: main([str(tmp_path)]))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_report_goes_where_it_is_told(output, tmp_path, monkeypatch):
    before = sorted(path.name for path in output.iterdir())
    main([str(output), "--output", str(tmp_path / "a/report")])
    assert {"index.html", "curves.png", "rankings.png"} <= {path.name for path in (tmp_path / "a/report").iterdir()}
    assert sorted(path.name for path in output.iterdir()) == before
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="or its disk is read-only; name another by --output"):
        main([str(output)])
