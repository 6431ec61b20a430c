"""Detectors find who is in frames, once for each frame, and what they answer is checked."""

import io
import json

import numpy as np
import pytest
import torch
from in_process import call, call_here
from PIL import Image

from search.__main__ import main
from search.frames.detector import DETECTED, NamedDetector, detect, open_detector
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from utils.errors import UserError

pytest.importorskip("pymilvus")

MODEL = "fasterrcnn_mobilenet_v3_large_320_fpn"
asked: list[torch.Size] = []


def make_detector():
    """Finds what is red: one person, twice, and a faint one beside."""

    def detect(frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(frame.shape)
        assert frame.dtype == torch.uint8
        rows, columns = torch.nonzero((frame[0] > 200) & (frame[1] < 90), as_tuple=True)
        if not len(rows):
            return torch.zeros(0, 4), torch.zeros(0)
        box = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=torch.float32)
        return torch.stack([box, box, box + 5]), torch.tensor([0.9, 0.8, 0.3])

    return detect


make_number = int


def make_broken():
    raise ValueError("no weights")


def make_failing():
    return lambda frame: torch.zeros(3) + torch.zeros(2)


def make_wrong():
    return lambda frame: None


@pytest.fixture
def frames(tmp_path):
    """One frame with someone in red, one without anybody, and a file that is no image."""
    folder = tmp_path / "frames"
    folder.mkdir()
    pixels = np.full((60, 80, 3), 128, np.uint8)
    Image.fromarray(pixels).save(folder / "empty.png")
    pixels[10:50, 20:36] = (250, 30, 30)
    Image.fromarray(pixels).save(folder / "red.png")
    (folder / "broken.jpg").write_text("no image")
    return folder


def test_people_are_found_once_and_indexed(encoder, frames, tmp_path):
    asked.clear()
    detector = open_detector(f"{__name__}:make_detector")
    with open_gallery(str(tmp_path / "gallery"), encoder, frames) as gallery:
        report = index(gallery, encoder, detector=detector)
        [image] = gallery.records
        assert image.path == "red.png#20,10,16,40" and image.metadata == {"score": pytest.approx(0.9)}
        assert asked == [(3, 60, 80)] * 2 and report.added == 1
        report = index(gallery, encoder, detector=detector)
        assert (report.unchanged, len(asked)) == (1, 2)
        kept = json.loads((gallery.address.folder / DETECTED).read_text())
        assert sorted(map(len, kept["frames"].values())) == [0, 3]
        index(gallery, encoder, detector=NamedDetector(detector.name, detector.detect, least=0.2))
        assert len(gallery.records) == 2 and len(asked) == 2
        index(gallery, encoder, detector=NamedDetector("another", detector.detect))
        assert len(gallery.records) == 1 and len(asked) == 4  # its own findings


def test_one_of_torchvision_has_its_weights_from_a_file(frames, tmp_path):
    from torchvision.models import get_model

    torch.manual_seed(0)
    model = get_model(MODEL, weights=None, weights_backbone=None)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    detector = open_detector(f"torchvision:{MODEL}={tmp_path / 'weights.pth'}")
    boxes, scores = detector.detect(torch.randint(0, 256, (3, 120, 160), dtype=torch.uint8))
    assert boxes.shape == (len(scores), 4)
    torch.save({"head.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"other.pth does not fit {MODEL}"):
        open_detector(f"torchvision:{MODEL}={tmp_path / 'other.pth'}")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("torchvision:fasterrcn_resnet50_fpn=x.pth", "did you mean 'fasterrcnn_resnet50_fpn'"),
        (f"torchvision:{MODEL}", "which file has its weights"),
        (f"torchvision:{MODEL}=nothing.pth", "nothing.pth does not exist"),
        ("nothing", "give MODULE:FUNCTION"),
        ("nothing_such:make", "cannot be made: No module named 'nothing_such'"),
        (f"{__name__}:nothing", "cannot be made: .* has no attribute 'nothing'"),
        (f"{__name__}:make_broken", r"cannot be made: no weights \(ValueError\)"),
        (f"{__name__}:make_number", r"make_number\(\) must return a function that finds people, not 0"),
    ],
)
def test_what_is_no_detector_is_refused(name, told):
    with pytest.raises(UserError, match=told):
        open_detector(name)


@pytest.mark.parametrize(("boxes", "scores"), [((2, 3), (2,)), ((2, 4), (3,)), ((4,), (1,))])
def test_what_a_detector_must_not_answer_is_told(encoder, frames, tmp_path, boxes, scores):
    answer = torch.zeros(boxes), torch.zeros(scores)
    with (
        open_gallery(str(tmp_path / "gallery"), encoder, frames) as gallery,
        pytest.raises(UserError, match=r"found boxes .* \[P, 4\] and \[P\] are expected"),
    ):
        index(gallery, encoder, detector=NamedDetector("wrong", lambda frame: answer))


@pytest.mark.parametrize("box", [(0, float("nan"), 4, 9), (0, 0, float("inf"), 9)])
def test_a_box_that_is_nowhere_is_told(box):
    content = io.BytesIO()
    Image.new("RGB", (20, 30)).save(content, "PNG")
    wrong = NamedDetector("wrong", lambda frame: (torch.tensor([box]), torch.ones(1)))
    with pytest.raises(UserError, match=r"detector wrong found a box in a.png whose sides or score are no numbers"):
        detect(wrong, content.getvalue(), "a.png")


@pytest.mark.parametrize("name", ["make_failing", "make_wrong"])
def test_a_detector_that_fails_is_named_with_the_frame(encoder, frames, tmp_path, name):
    detector = open_detector(f"{__name__}:{name}")
    with (
        open_gallery(str(tmp_path / "gallery"), encoder, frames) as gallery,
        pytest.raises(UserError, match=rf"{name} fails on empty.png: .*Error\); it must answer boxes"),
    ):
        index(gallery, encoder, detector=detector)


def test_the_command(trained, frames, tmp_path):
    given = "index", frames, "--gallery", tmp_path / "gallery", "--checkpoint", trained
    finder = "--detector", f"{__name__}:make_detector"
    assert "give one of them" in call(main, *given, *finder, "--boxes", "x.csv").errors
    assert "scores are from 0 to 1" in call(main, *given, *finder, "--least_score", "2").errors
    told = call_here(main, *given, *finder).output
    assert "1 added" in told and "unreadable: broken.jpg" in told
