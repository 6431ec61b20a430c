"""The table of a report: rows of a run and its start with intervals, and what differs between them."""

import json

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image
from report_output import PEOPLE, Page, change_arrays, write_evaluation

from evaluation.report import main, read_results, write_report
from evaluation.reporting.scores import WITH_INTERVAL
from evaluation.statistics import estimate, paired_p_value
from utils.errors import UserError, run_command_line

CEILING = {"r1": 98.5, "r5": 99.0, "r10": 99.5, "mAP": 97.5, "mINP": 96.0, "captions": 12, "images": 6}
FEW, MORE, MOST = [1, 2] * PEOPLE, [1, 1, 2] * 4, [1] * 11 + [3]  # R@1 50, 66.67, 91.67
PEOPLE_OF_CAPTIONS = np.arange(PEOPLE).repeat(2)


@pytest.fixture
def run(tmp_path):
    """A run that was evaluated, on a benchmark with a ceiling."""
    return write_evaluation(tmp_path / "run", tmp_path, CEILING, stage1=MORE, reranked=MOST)


@pytest.fixture
def start(tmp_path):
    """An evaluation of what the run started from."""
    return write_evaluation(tmp_path / "start", tmp_path, CEILING, stage1=FEW, reranked=MORE)


def r1(ranks):
    return 100.0 * (np.array(ranks) == 1)


def test_a_start_stands_above_the_run_and_the_ceiling_below(run, start):
    rows = read_results(run, start).scores.rows
    assert [(row.name, round(row.metrics["r1"], 2), row.role) for row in rows] == [
        ("start, by embeddings", 50.0, ""),
        ("start, re-ranked", 66.67, ""),
        ("this run, by embeddings", 66.67, ""),
        ("this run, re-ranked", 91.67, "final"),
        ("ceiling", 98.5, "ceiling"),
    ]


def test_without_a_start_the_rows_are_those_of_the_run(run):
    assert [row.name for row in read_results(run).scores.rows] == ["by embeddings", "re-ranked", "ceiling"]


def test_intervals_are_those_of_studies_over_people(run):
    embeddings, reranked, ceiling = read_results(run, seed=3).scores.rows
    assert embeddings.estimates["r1"] == estimate(r1(MORE), PEOPLE_OF_CAPTIONS, 3)
    assert reranked.estimates["mAP"] == estimate(100 / np.array(MOST), PEOPLE_OF_CAPTIONS, 3)
    assert set(reranked.estimates) == set(WITH_INTERVAL) and not ceiling.estimates


def test_differences_are_paired_by_caption_and_person(run, start):
    found = {one.name: one for one in read_results(run, start).scores.differences}
    assert list(found) == [
        "re-ranking over embeddings alone",
        "this run over start, by embeddings",
        "this run over start, re-ranked",
    ]
    one = found["this run over start, re-ranked"]
    assert one.estimates["r1"] == estimate(r1(MOST) - r1(MORE), PEOPLE_OF_CAPTIONS)
    assert one.estimates["r1"].mean == pytest.approx(25.0)
    assert one.p_values["r1"] == paired_p_value(r1(MOST), r1(MORE), PEOPLE_OF_CAPTIONS)
    mean = found["re-ranking over embeddings alone"].estimates["mAP"].mean
    assert mean == pytest.approx(100 * (1 / np.array(MOST) - 1 / np.array(MORE)).mean())


def test_a_start_of_embeddings_alone_is_compared_by_them_and_by_last_stages(run, tmp_path):
    start = write_evaluation(tmp_path / "early", tmp_path, stage1=FEW)
    assert [one.name for one in read_results(run, start).scores.differences] == [
        "re-ranking over embeddings alone",
        "this run over start, by embeddings",
        "this run, re-ranked, over start, by embeddings",
    ]


def test_the_page_shows_intervals_differences_and_a_chart(run, start):
    folder = write_report(run, start=start)
    page = Page(folder / "index.html")
    best = estimate(r1(MOST), PEOPLE_OF_CAPTIONS)
    gain = estimate(r1(MOST) - r1(MORE), PEOPLE_OF_CAPTIONS)
    p_value = paired_p_value(r1(MOST), r1(MORE), PEOPLE_OF_CAPTIONS)
    for text in (
        f"this run, re-ranked91.67{best.low:.2f} to {best.high:.2f}",
        f"this run over start, re-ranked+25.00{gain.low:+.2f} to {gain.high:+.2f}p = {p_value:.3f}",
        "bootstrap over the 6 people",
        "Ceiling: ",
    ):
        assert text in page.text
    assert Image.open(folder / "metrics.png").size[0] > 400


def test_the_chart_has_dots_with_intervals_and_dashed_ceilings(run, start, monkeypatch):
    drawn, dashed = {}, []
    monkeypatch.setattr(Axes, "axvline", lambda axes, x, **style: dashed.append((x, style["linestyle"])))
    errorbar = Axes.errorbar

    def record(axes, x, y, **style):
        drawn[style["label"]] = (x, y, style["xerr"])
        return errorbar(axes, x, y, **style)

    monkeypatch.setattr(Axes, "errorbar", record)
    write_report(run, start=start)
    means, heights, reaches = drawn["R@1"]
    assert means == pytest.approx([50, 66.667, 66.667, 91.667], abs=0.01)
    assert np.round(heights).tolist() == [0, 1, 2, 3]
    best = estimate(r1(MOST), PEOPLE_OF_CAPTIONS)
    assert [side[-1] for side in reaches] == pytest.approx([best.mean - best.low, best.high - best.mean])
    assert [x for x, _ in dashed] == [98.5, 97.5] and all(style != "-" for _, style in dashed)


def test_without_ranks_the_table_has_no_intervals(run):
    change_arrays(run, stage1_ranks=None, reranked_ranks=None)
    folder = write_report(run)
    text = Page(folder / "index.html").text
    assert "91.67" in text and "95 % intervals" not in text and not (folder / "metrics.png").exists()


def test_a_run_of_embeddings_alone_has_intervals_and_no_difference(tmp_path):
    run = write_evaluation(tmp_path / "run", tmp_path, stage1=MORE)
    scores = read_results(run).scores
    assert [set(row.estimates) for row in scores.rows] == [set(WITH_INTERVAL)] and scores.differences == []
    assert "p-values" not in Page(write_report(run) / "index.html").text


def test_a_metric_that_was_not_reported_has_no_interval(run):
    metrics = json.loads((run / "metrics.json").read_text())
    for stage in ("stage1", "reranked"):
        del metrics[stage]["mAP"], metrics[stage]["mINP"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert [set(row.estimates) for row in read_results(run).scores.rows] == [{"r1"}, {"r1"}, set()]
    assert (write_report(run) / "metrics.png").exists()


def test_metrics_of_another_evaluation_get_no_intervals(run, caplog):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["reranked"]["r1"] = 50.0
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = Page(write_report(run) / "index.html").text
    assert "50.00" in text and "95 % intervals" not in text
    assert caplog.text.count("of different evaluations") == 1


def test_the_command_prints_all_rows_and_differences(run, start, capsys):
    main([str(run), "--start", str(start), "--queries", "1"])
    printed = capsys.readouterr().out
    assert "start, by embeddings" in printed and "this run over start, re-ranked: R@1 +25.00 [" in printed


def refused(run, start, tmp_path, capsys):
    """The one line that refuses a start; nothing is written."""
    with pytest.raises(SystemExit) as stop:
        run_command_line(lambda: main([str(run), "--start", str(start), "--output", str(tmp_path / "page")]))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "page").exists()
    return error


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"captions": np.array(["another"] * 12)}, "other captions"),
        ({"caption_identities": np.array(list("abcdef") * 2)}, "other captions"),
        ({"image_paths": np.array([f"{number}.jpg" for number in range(PEOPLE)])}, "other images"),
        ({"image_identities": np.array(list("543210"))}, "other images"),
        ({"stage1_ranks": None, "reranked_ranks": None}, "does not say how each caption did"),
        ({"stage1_ranks": np.full((12, 1), 7)}, "beyond the number of images"),
        ({"reranked_ranks": np.full((12, 1), 3)}, "does not say how each caption did"),
    ],
)
def test_a_start_of_other_data_or_without_ranks_is_refused(run, start, tmp_path, capsys, change, problem):
    change_arrays(start, **change)
    assert problem in refused(run, start, tmp_path, capsys)


def test_a_start_of_fewer_captions_is_refused_with_the_numbers(run, tmp_path, capsys):
    start = write_evaluation(tmp_path / "start", tmp_path, stage1=FEW)
    with np.load(start / "rankings.npz") as file:
        by_caption = {name: file[name][:10] for name in file if len(np.atleast_1d(file[name])) == 12}
    change_arrays(start, **by_caption)
    assert "10 and 12 captions" in refused(run, start, tmp_path, capsys)


@pytest.mark.parametrize("name", ["metrics.json", "rankings.npz"])
def test_a_start_without_its_files_is_refused(run, start, tmp_path, capsys, name):
    (start / name).unlink()
    assert f"holds no {name}: name the output folder of an evaluation" in refused(run, start, tmp_path, capsys)


@pytest.mark.parametrize("name", ["metrics.json", "rankings.npz"])
def test_a_run_without_results_has_nothing_to_compare(run, start, tmp_path, capsys, name):
    (run / name).unlink()
    assert f"holds no {name}: evaluate the run" in refused(run, start, tmp_path, capsys)


def test_other_starts_that_are_none_are_refused(run, start, tmp_path, capsys):
    assert "is the run itself" in refused(run, run / ".." / "run", tmp_path, capsys)
    assert "holds no metrics.json" in refused(run, tmp_path / "nowhere", tmp_path, capsys)
    (start / "rankings.npz").write_bytes(b"PK\x03\x04broken")
    assert "rankings.npz" in refused(run, start, tmp_path, capsys)
    with pytest.raises(UserError, match="the seed must be 0 or more"):
        read_results(run, start, seed=-1)
