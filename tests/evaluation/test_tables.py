"""Tables are aligned, whole, and cannot be broken by what stands in them."""

import torch

from evaluation.metrics import STAGE_NAMES, summarise
from evaluation.reporting.scores import WAYS
from evaluation.studies.curves import STAGE_STYLES
from evaluation.tables import as_cell, markdown_table, metrics_table


def test_markdown_is_aligned_and_cannot_be_broken():
    table = markdown_table([{"name": "a|b\nc", "R@1": 1.0}, {"name": "d", "R@1": float("nan")}])
    assert table.splitlines() == ["| name   |  R@1 |", "| ------ | ---: |", "| a\\|b c | 1.00 |", "| d      |    - |"]
    assert as_cell(None) == "-" and as_cell(7) == "7"
    assert markdown_table([]) == ""


def test_table_is_aligned_and_has_every_metric():
    first = {"r1": 5.0, "r5": 50.126, "r10": 100.0, "mAP": 7.5, "mINP": 1.0, "captions": 6156, "images": 3074}
    lines = metrics_table({"stage1": first, "reranked": {**first, "r1": 77.62}}).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["R@1", "R@5", "R@10", "mAP", "mINP", "captions", "images"]
    assert lines[1].split() == ["stage1", "5.00", "50.13", "100.00", "7.50", "1.00", "6156", "3074"]
    assert lines[2].split()[1] == "77.62"


def test_table_shows_captions_without_match_only_when_there_are_any():
    without = summarise(torch.tensor([[1], [0]]))
    assert "without match" in metrics_table({"stage1": without})
    assert "without match" not in metrics_table({"stage1": {**without, "captions_without_match": 0}})


def test_table_marks_a_missing_metric():
    line = metrics_table({"stage1": {"r1": 1.0}}).splitlines()[1]
    assert line.split() == ["stage1", "1.00", "-", "-", "-", "-"]


def test_every_stage_has_a_name_in_reports_and_a_style_in_curves():
    assert STAGE_NAMES.keys() == WAYS.keys() == STAGE_STYLES.keys()
