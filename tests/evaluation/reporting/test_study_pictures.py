"""Pictures of studies on the page of a report: of this run's checkpoint alone, each with its question."""

import json
import os

import pytest
from PIL import Image
from report_output import Page, write_log

from evaluation.questions import find_studies
from evaluation.report import write_report
from evaluation.reporting.studies import study_pictures


@pytest.fixture
def run(tmp_path):
    """A run with a checkpoint and two pictures of it."""
    folder = tmp_path / "runs" / "one"
    (folder / "studies").mkdir(parents=True)
    write_log(folder)
    (folder / "checkpoint_best.pth").write_bytes(b"weights")
    checkpoint = str(folder / "checkpoint_best.pth")
    save(folder, "gradcam", {"checkpoints": {"one": checkpoint, "baseline": "/elsewhere/checkpoint_best.pth"}})
    save(folder, "reconstruction", {"checkpoint": checkpoint})
    return folder


def save(folder, name, record):
    Image.new("RGB", (2000, 600), (200, 220, 240)).save(folder / "studies" / f"{name}.png")
    (folder / "studies" / f"{name}.json").write_text(json.dumps(record))


def shown(folder):
    return [one.name for one in study_pictures(folder)]


def test_pictures_of_the_checkpoint_are_on_the_page_with_their_questions(run):
    page = Page(write_report(run) / "index.html")
    assert "Inside the model" in page.text and len(page.sources) == 2
    for name in ("gradcam", "reconstruction"):
        assert find_studies()[name] in page.text


@pytest.mark.parametrize("record", [{"checkpoint": "PATH"}, {"checkpoints": ["PATH"]}, {"checkpoints": {"a": "PATH"}}])
@pytest.mark.parametrize("path", ["{run}", "{run}/../one", "runs/one", "one", "."])
def test_a_checkpoint_may_be_written_in_any_way(run, record, path):
    full = f"{path.format(run=run)}/checkpoint_best.pth"
    save(run, "gradcam", json.loads(json.dumps(record).replace("PATH", full)))
    assert shown(run) == ["gradcam", "reconstruction"]


def test_a_linked_folder_is_the_same(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert shown(tmp_path / "link") == ["gradcam", "reconstruction"]


@pytest.mark.parametrize(
    "record",
    [
        {"checkpoint": "/elsewhere/one/checkpoint_best.pth"},
        {"checkpoint": "runs/other/checkpoint_best.pth"},
        {"checkpoint": "{run}/checkpoint_last.pth"},
        {"checkpoints": {}},
        {"checkpoint": None, "checkpoints": [3, {}]},
        {"checkpoint": "a\0b"},
        {},
        [],
        "text",
    ],
)
def test_pictures_of_other_models_are_left_out_without_a_word(run, record, caplog):
    save(run, "gradcam", json.loads(json.dumps(record).replace("{run}", str(run))))
    assert shown(run) == ["reconstruction"]
    assert "Where each attribute" not in Page(write_report(run) / "index.html").text and caplog.text == ""


def test_a_study_of_an_earlier_checkpoint_is_left_out(run):
    old = (run / "checkpoint_best.pth").stat().st_mtime - 60
    os.utime(run / "studies" / "gradcam.json", (old, old))
    assert shown(run) == ["reconstruction"]


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", None])
def test_a_study_without_a_readable_record_is_left_out(run, damage):
    record = run / "studies" / "gradcam.json"
    record.unlink() if damage is None else record.write_bytes(damage)
    assert shown(run) == ["reconstruction"]


def test_damaged_and_missing_pictures_are_left_out(run):
    (run / "studies" / "gradcam.png").write_bytes(b"no picture")
    (run / "studies" / "reconstruction.png").unlink()
    page = Page(write_report(run) / "index.html")
    assert page.sources == [] and "Inside the model" not in page.text


def test_a_run_without_studies_says_nothing_of_them(run):
    for path in (run / "studies").iterdir():
        path.unlink()
    assert "Inside the model" not in Page(write_report(run) / "index.html").text
