"""The ceiling of a benchmark beside what a model reaches: in the log, metrics.json, tables, the report and curves."""

import json
import shutil
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from configs.loading import load_config
from dataset.build import open_tokenizer
from evaluation.evaluate import final_stage
from evaluation.report import main as report
from evaluation.results import read_log, read_metrics
from evaluation.studies.curves import compare_curves, draw_curves
from evaluation.tables import metrics_table
from evaluation.trained import open_split
from evaluation.verify import compare
from utils.errors import UserError

STAGE = {"r1": 70.0, "r5": 80.0, "r10": 90.0, "mAP": 60.0, "mINP": 50.0}
CEILING = {"r1": 98.0, "r5": 99.0, "r10": 99.5, "mAP": 97.0, "mINP": 96.0}


def known(benchmark: Path, split: str) -> dict:
    """What synthetic.json says, as evaluations repeat it."""
    found = json.loads((benchmark / "synthetic.json").read_text())["ceiling"][split]
    return {name: value for name, value in found.items() if name != "digest"}


def test_an_evaluation_has_the_ceiling_beside_its_stages(benchmark, tiny_run, tmp_path, capsys):
    metrics = read_metrics(tiny_run / "metrics.json")
    assert list(metrics) == ["stage1", "reranked", "ceiling"]
    assert metrics["ceiling"] == known(benchmark, "test")
    for record in read_log(tiny_run / "log.txt"):
        assert record["val"]["ceiling"] == known(benchmark, "val")
    report([str(tiny_run), "--queries", "1", "--output", str(tmp_path)])
    assert f"ceiling   {metrics['ceiling']['r1']:>5.2f}" in capsys.readouterr().out
    page = (tmp_path / "index.html").read_text()
    assert '<tr class="ceiling"><th scope="row">ceiling</th>' in page
    assert page.count('class="final"') == 1 and '<tr class="final"><th scope="row">re-ranked</th>' in page


@pytest.fixture
def ceiling_of(benchmark, tiny_run, tmp_path):
    """The ceiling of the test split of a benchmark in another folder, with its synthetic.json or without."""

    def read(where: Path = tmp_path, marker: bool = True, settings: tuple[str, ...] = (), **change: str) -> dict:
        files = where / "processed_data"
        shutil.copytree(benchmark / "processed_data", files, dirs_exist_ok=True)
        if marker:
            shutil.copy(benchmark / "synthetic.json", where)
        text = (files / "test.json").read_text()
        for old, new in change.items():
            assert old in text
            text = text.replace(old, new, 1)
        (files / "test.json").write_text(text)
        shutil.rmtree(where / "elsewhere", ignore_errors=True)
        shutil.copytree(benchmark / "imgs", where / "elsewhere" / "imgs")
        where_to = [f"test_file={files}/test.json", f"test_image_root={where}/elsewhere/imgs"]
        config = load_config(tiny_run / "config.yaml", [*where_to, *settings])
        return dict(open_split(config, "test", open_tokenizer(config, None, False)).ceiling)

    return read


def test_the_ceiling_is_found_by_the_content_of_the_split(benchmark, ceiling_of):
    assert ceiling_of() == known(benchmark, "test")
    assert ceiling_of(settings=("caption_rules=plain",)) == known(benchmark, "test")


@pytest.mark.parametrize("change", [{"wear": "bear"}, {'"id": 13': '"id": 99'}])
def test_another_split_has_no_ceiling(ceiling_of, change):
    assert ceiling_of(**change) == {}


def test_without_a_marker_there_is_no_ceiling(ceiling_of):
    assert ceiling_of(marker=False) == {}


def test_other_queries_have_no_ceiling(benchmark, tiny_run):
    from evaluation.trained import TrainedModel

    trained = TrainedModel.open(tiny_run / "checkpoint_best.pth")
    split = trained.open_split("test")
    assert split.ceiling == known(benchmark, "test")
    assert split.of_captions([0, 1]).ceiling == {}
    assert split.with_texts(["a man"] * len(split.texts), trained.tokenizer, 20).ceiling == {}


def test_the_final_stage_is_not_the_ceiling():
    metrics = {"stage1": {**STAGE, "r1": 1.0}, "reranked": STAGE, "ceiling": CEILING}
    assert final_stage(metrics) == STAGE
    assert final_stage({"stage1": STAGE, "ceiling": CEILING}) == STAGE


def test_a_ceiling_alone_is_no_result(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"ceiling": CEILING}))
    with pytest.raises(UserError, match="holds no metrics of any stage"):
        read_metrics(tmp_path / "metrics.json")


def test_the_table_has_a_line_for_the_ceiling():
    head, stage, ceiling = metrics_table({"stage1": STAGE, "ceiling": CEILING}).splitlines()
    assert [line.split()[0] for line in (head, stage, ceiling)] == ["R@1", "stage1", "ceiling"]
    assert ceiling.split()[1:] == ["98.00", "99.00", "99.50", "97.00", "96.00"]


def test_a_checkpoint_is_verified_by_its_stages_alone():
    # the marker may be gone, or a later version may compute another ceiling
    compare({"stage1": STAGE, "ceiling": CEILING}, {"stage1": STAGE}, "checkpoint")
    with pytest.raises(UserError, match="stage1 r1"):
        compare({"stage1": STAGE, "ceiling": CEILING}, {"stage1": {**STAGE, "r1": 1.0}}, "checkpoint")


@pytest.fixture
def plotted(monkeypatch) -> list[tuple]:
    """What is drawn: label, x, y and style of each line."""
    lines: list[tuple] = []
    plot = Axes.plot

    def record(axes, x, y, **style):
        lines.append((style["label"], x, y, style.get("linestyle", "-")))
        return plot(axes, x, y, **style)

    monkeypatch.setattr(Axes, "plot", record)
    return lines


def epochs(**more) -> list[dict]:
    stages = {"stage1": STAGE, "reranked": {**STAGE, "r1": 75.0}, **more}
    return [{"epoch": number, "train": {"cl": 1.0}, "val": stages} for number in range(3)]


def test_curves_have_dashed_lines_at_the_ceiling(plotted, tmp_path):
    draw_curves(epochs(ceiling=CEILING), tmp_path / "curves.png")
    found = [line for line in plotted if "ceiling" in line[0]]
    assert {line[0] for line in found} == {"R@1 ceiling", "mAP ceiling"} and len(found) == 2 * 3  # panels
    for label, x, y, style in found:
        assert x == [0, 3] and y == [CEILING["r1" if "R@1" in label else "mAP"]] * 2 and style != "-"


@pytest.mark.parametrize("ceiling", [{}, {"ceiling": None}, {"ceiling": {"r1": None}}])
def test_curves_without_a_ceiling_have_no_such_line(plotted, tmp_path, ceiling):
    draw_curves(epochs(**ceiling), tmp_path / "curves.png")
    compare_curves({"one": epochs(**ceiling), "other": epochs()}, tmp_path / "curves.png")
    assert plotted and not any("ceiling" in line[0] for line in plotted)


def test_runs_on_one_benchmark_share_the_line_of_its_ceiling(plotted, tmp_path):
    both = {"one": epochs(ceiling=CEILING), "other": epochs(ceiling=CEILING)[:2]}
    compare_curves(both, tmp_path / "curves.png")
    found = [line for line in plotted if line[0] == "ceiling"]
    assert [(x, y[0]) for _, x, y, _ in found] == [([0, 3], 98.0), ([0, 3], 97.0)] * 2  # R@1 and mAP of two stages
