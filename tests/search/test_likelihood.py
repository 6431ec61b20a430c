"""Search says how likely hits are right, and when probably nobody fits, where the model is calibrated."""

import json

import numpy as np
import pytest
from in_process import call, call_here
from known_scores import KNOWN, calibrated_copy, stage
from starlette.testclient import TestClient

from evaluation.calibration import Calibration, calibration_beside
from evaluation.trained import TrainedModel
from search.__main__ import main
from search.encoder import Encoder
from search.likelihood import hit_probabilities
from search.page.hits import label_of
from search.page.messages import summary
from search.searcher import Searcher
from search.serving.api import build_app

pytest.importorskip("pymilvus")

SENTENCE = "a woman in a red coat"
NOBODY = "probably nobody here fits: of searches for people who are not here, more than"
FIELDS = ("checkpoint", "config", "model", "tokenizer", "setting")


@pytest.fixture
def calibrated(trained, tmp_path):
    """A copy of the checkpoint with a calibration beside it."""
    return calibrated_copy(trained, tmp_path / "checkpoint.pth")


def with_calibration(searcher, found, **options):
    encoder = Encoder(searcher.encoder.trained, searcher.encoder.source)
    encoder.trained = TrainedModel(**{name: getattr(encoder.trained, name) for name in FIELDS})
    encoder.trained.__dict__["calibration"] = found
    return Searcher(encoder, searcher.gallery, **options)


def test_probabilities_are_those_of_the_stage_that_orders_hits(searcher):
    known, images = with_calibration(searcher, KNOWN), len(searcher.gallery.records)
    for candidates, name in ((128, "reranked"), (0, "stage1")):
        answer = known.search(SENTENCE, top=5, candidates=candidates)
        scores = [hit.score if candidates else hit.similarity for hit in answer.hits]
        expected = KNOWN.stages[name].probabilities(np.array([scores]), images)[0]
        assert [hit.probability for hit in answer.hits] == pytest.approx(expected.tolist())
        plain = searcher.search(SENTENCE, top=5, candidates=candidates)
        assert [hit.path for hit in plain.hits] == [hit.path for hit in answer.hits]
        assert all(hit.probability is None for hit in plain.hits)
        assert plain.nobody_fits is None and plain.verdict == "" and plain.likelihood is None


def test_a_filter_makes_the_gallery_smaller(searcher):
    known = with_calibration(searcher, KNOWN)
    answer = known.search(SENTENCE, candidates=0, where="camera == 'c1'")
    images = sum(image.metadata["camera"] == "c1" for image in searcher.gallery.records)
    assert 0 < images < len(searcher.gallery.records)
    expected = KNOWN.stages["stage1"].probabilities(np.array([[hit.similarity for hit in answer.hits]]), images)[0]
    assert [hit.probability for hit in answer.hits] == pytest.approx(expected.tolist())
    nothing = known.search(SENTENCE, where="camera == 'none'")
    assert not nothing.hits and nothing.nobody_fits is None


def test_images_that_were_not_ranked_again_have_no_probability(searcher):
    answer = with_calibration(searcher, KNOWN).search(SENTENCE, top=4, candidates=2)
    assert [hit.probability is None for hit in answer.hits] == [False, False, True, True]


@pytest.mark.parametrize(("rate", "nobody"), [(0.05, True), (0.5, False)])
def test_nobody_fits_below_the_threshold_of_a_rate(searcher, rate, nobody):
    known = Calibration(stages={"stage1": stage(images=len(searcher.gallery.records))})
    answer = with_calibration(searcher, known, false_alarms=rate).search(SENTENCE, candidates=0)
    assert answer.nobody_fits is nobody
    assert answer.verdict == (f"{NOBODY} 5 % have as good a best hit" if nobody else "")
    assert answer.hits and answer.hits[0].probability is not None


def test_the_threshold_is_of_the_best_hit():
    one = stage(alarms=((0.5, 2.0),))
    assert hit_probabilities([2.1, 5.0], one, 16, 0.5).nobody_fits is False
    assert hit_probabilities([2.0], one, 16, 0.5).nobody_fits is True  # not beyond it


def test_the_api_and_the_page_say_it(searcher):
    known = with_calibration(searcher, KNOWN)
    client = TestClient(build_app(known))
    found = client.post("/api/search", json={"text": SENTENCE, "top": 2}).json()
    assert found["nobody_fits"] is True and all(0 <= hit["probability"] <= 1 for hit in found["hits"])
    answer = known.search(SENTENCE, top=2)
    assert summary(answer).startswith(f"<strong>P{NOBODY[1:]} 5 % have as good a best hit.</strong> 2 results in ")
    assert label_of(answer.hits[0]).startswith(f"{answer.hits[0].probability:.0%} likely, cos. ")
    plain = TestClient(build_app(searcher)).post("/api/search", json={"text": SENTENCE, "top": 2}).json()
    assert plain["nobody_fits"] is None and plain["hits"][0]["probability"] is None
    assert summary(searcher.search(SENTENCE, top=2)).startswith("2 results in ")


def test_the_command_line_says_it(calibrated, photos, tmp_path):
    gallery = ("--gallery", tmp_path / "of-command")
    call_here(main, "index", photos, "--checkpoint", calibrated, *gallery)
    for flags in ((), ("--candidates", 0)):
        told = call_here(main, "query", SENTENCE, "--top", 2, *flags, *gallery)
        lines = told.output.splitlines()
        assert lines[0] == f"{NOBODY} 5 % have as good a best hit" and len(lines) == 3
        assert lines[1].startswith("  1  probability 0.") and "match" not in lines[1]
    sure = call_here(main, "query", SENTENCE, "--top", 2, "--false_alarms", 0.9, *gallery)
    assert NOBODY not in sure.output and "probability" in sure.output
    found = json.loads(call_here(main, "query", SENTENCE, "--top", 2, "--json", *gallery).output)
    assert found["nobody_fits"] is True and found["hits"][0]["probability"] > 0
    assert "not 2" in call(main, "query", SENTENCE, "--false_alarms", 2, *gallery).errors
    calibration_beside(calibrated).unlink()
    asked = call_here(main, "query", SENTENCE, "--top", 2, "--false_alarms", 0.1, *gallery)
    assert asked.errors.count("are not calibrated, so nobody can be told to be absent; python -m evaluation") == 1
    assert "  1  match " in asked.output and "probability" not in asked.output
    assert "calibrated" not in call_here(main, "query", SENTENCE, "--top", 2, *gallery).errors
