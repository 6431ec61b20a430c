"""Calibrations are right on numbers known by hand, and find what was put into drawn scores."""

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.calibration import (
    Calibration,
    StageCalibration,
    alarms_of,
    calibration_beside,
    choose_calibration,
    fit_logistic,
    fit_odds,
    fit_stage,
    read_calibration,
    weights_of,
    write_calibration,
)
from evaluation.statistics import probability_of
from utils.errors import UserError

NOTHING = -np.inf


def stage(**changed):
    values = {"slope": 2.0, "lift": 1.0, "offset": -3.0, "images": 100, "captions": 10, "people": 5}
    return StageCalibration(**{**values, "alarms": ((0.1, 2.0), (0.5, 1.0)), **changed})


def calibration(model=None):
    return Calibration(model=model, stages={"stage1": stage(), "reranked": stage(slope=0.5)})


# ---- what a fit says -------------------------------------------------------------------


def test_log_odds_are_a_line_of_the_score_and_of_the_best_one():
    # 2 * 1 + 1 * 1 - 3 = 0, an even chance; 2 * 0 + 1 * 1 - 3 = -2; no image, no chance
    found = stage().probabilities(np.array([[1.0, 0.0, NOTHING]]), images=100)
    assert found.tolist() == [[0.5, pytest.approx(1 / (1 + np.exp(2))), 0.0]]


def test_odds_are_divided_by_the_size_of_the_gallery():
    # of three times as many images, three times as many wrong ones reach a score: odds of 1 : 1 become 1 : 3
    assert stage().probabilities(np.array([[1.0]]), images=300)[0, 0] == pytest.approx(0.25)
    assert stage().probabilities(np.array([[1.0]]), images=50)[0, 0] == pytest.approx(2 / 3)


def test_thresholds_follow_the_rate_and_the_size_of_the_gallery():
    assert stage().threshold(0.1, images=100) == pytest.approx(2.0)
    assert stage().threshold(0.5, images=100) == pytest.approx(1.0)
    assert 1 < stage().threshold(0.3, images=100) < 2
    # nobody of 100 images alarms in 1 - 0.1 of the searches, so nobody of 200 in 0.9 * 0.9
    assert stage().threshold(1 - 0.9 * 0.9, images=200) == pytest.approx(2.0)
    assert stage().threshold(0.99, images=100) == pytest.approx(1.0)  # nothing is known beyond


def test_rates_that_were_never_seen_are_on_the_line_of_the_tail():
    # log rates fall as a line from a rate of 0.1 on: by 1 in score for each factor of about 10
    alarms = ((0.001, 5.0), (0.01, 4.0), (0.1, 3.0), (0.5, 1.0))
    counts = -np.log1p(-np.array([0.001, 0.1]))
    slope = 2 / np.log(counts[1] / counts[0])
    expected = 5 + slope * np.log(10)
    assert stage(alarms=alarms).threshold(0.001, images=1000) == pytest.approx(expected, abs=1e-3)
    assert stage(alarms=((0.5, 1.0),)).threshold(0.01, images=100) == 1.0  # of two searches, nothing can be said


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, float("nan")])
def test_rates_are_between_0_and_1(rate):
    with pytest.raises(UserError, match=r"a rate of false alarms must be between 0 and 1, such as 0.05"):
        stage().threshold(rate, images=10)


# ---- fitting ---------------------------------------------------------------------------


def test_the_best_hit_counts_as_much_as_all_others_and_both_halves_alike():
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, NOTHING, NOTHING]])
    weights = weights_of(scores, np.array([True, True, False]))
    # searches count 1/4, 1/4 and 1/2, the best hit of each 1 of these parts, the others 1 together, if there are any
    assert weights / weights[0, 0] == pytest.approx(np.array([[1, 0.5, 0.5], [1, 0.5, 0.5], [2, 0, 0]]))
    assert weights.sum() == pytest.approx(7)


def test_without_a_score_that_tells_it_is_the_share_of_right_hits():
    # targets of Platt: (3 + 1) / (3 + 2) and 1 / (1 + 2), in the mean (3 * 0.8 + 1 / 3) / 4
    factors, offset = fit_logistic(np.zeros((4, 0)), np.array([1.0, 1, 1, 0]), np.ones(4))
    assert factors.shape == (0,) and probability_of(offset) == pytest.approx((3 * 0.8 + 1 / 3) / 4)


def test_two_values_of_a_score_are_met_exactly():
    # of scores 0 a quarter is right, of scores 1 three quarters: as many values as unknowns
    inputs = np.repeat([0.0, 1.0], 4000)[:, None]
    right = np.tile([1.0, 0, 0, 0], 1000).tolist() + np.tile([1.0, 1, 1, 0], 1000).tolist()
    factors, offset = fit_logistic(inputs, np.array(right), np.ones(8000))
    assert probability_of(offset) == pytest.approx(0.25, abs=1e-3)
    assert probability_of(offset + factors[0]) == pytest.approx(0.75, abs=1e-3)


def test_weights_stand_for_repetitions():
    inputs, right = np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 1.0, 1.0])
    weighted = fit_logistic(inputs, right, np.array([2.0, 1.0, 3.0]))
    repeated = fit_logistic(np.repeat(inputs, [2, 1, 3], axis=0), np.repeat(right, [2, 1, 3]), np.ones(6))
    assert weighted[0] == pytest.approx(repeated[0], rel=1e-6) and weighted[1] == pytest.approx(repeated[1], rel=1e-6)


def test_perfect_scores_have_a_finite_answer():
    found = fit_odds(np.array([[1.0, 0.0]] * 50), np.array([[True, False]] * 50), np.ones((50, 2)))
    assert np.isfinite(found).all() and found[0] > 0


def test_the_odds_that_made_the_hits_are_found_again():
    rng = np.random.default_rng(0)
    scores = -np.sort(-rng.normal(size=(20000, 5)), axis=1)
    right = rng.random(scores.shape) < probability_of(3 * scores + 0.5 * scores[:, :1] - 2)
    found = fit_odds(scores, right, np.ones(scores.shape))
    assert found == pytest.approx((3, 0.5, -2), abs=0.15)


def test_scores_that_mislead_are_left_out(caplog):
    scores = np.array([[1.0, 0.0]] * 100)
    slope, lift, offset = fit_odds(scores, np.array([[False, True]] * 100), np.ones((100, 2)))
    assert (slope, lift) == (0, 0) and probability_of(offset) == pytest.approx(0.5, abs=0.01)
    assert "tells nobody apart" in caplog.text


def test_a_stage_is_fitted_on_searches_with_and_without_the_person():
    scores = np.array([[3.0, 1.0], [2.0, 1.0], [1.0, 0.5], [1.5, 0.5]])
    right = np.array([[True, False], [True, False], [False, False], [False, False]])
    present = np.array([True, True, False, False])
    found = fit_stage(scores, right, present, np.array([7, 8, 7, 8]), images=40)
    assert (found.captions, found.people, found.images) == (2, 2, 40)
    assert found.alarms[0] == (0.5, 1.5)  # of two searches, none rarer
    assert found.probabilities(scores, 40)[0, 0] > 0.5 > found.probabilities(scores, 40)[2, 0]


def test_rates_of_false_alarms_are_those_that_the_searches_can_tell():
    best = np.arange(1000.0)
    alarms = dict(alarms_of(best))
    assert min(alarms) == 0.001 and (best > alarms[0.001]).mean() <= 0.001
    for rate, score in alarms.items():
        assert rate - 0.0011 <= (best > score).mean() <= rate
    assert list(dict(alarms_of(np.array([5.0])))) == [0.9]


# ---- files -----------------------------------------------------------------------------


def test_a_calibration_lies_beside_its_checkpoint(tmp_path):
    checkpoint = tmp_path / "checkpoint_best.pth"
    file = write_calibration(checkpoint, calibration("abc"))
    assert file == tmp_path / "checkpoint_best.calibration.json" == calibration_beside(checkpoint)
    assert read_calibration(file, "it") == calibration("abc")
    assert read_calibration(json.loads(file.read_text()), "it") == calibration("abc")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"stages": {"stage9": {}}}, "stages.stage9"),
        ({"stages": {"stage1": {"slope": "steep"}}}, "stages.stage1.slope"),
        ({"more": 1}, "more: Extra inputs"),
    ],
)
def test_what_is_no_calibration_is_told_in_one_line(damage, words):
    content = {**calibration().model_dump(mode="json"), **damage}
    with pytest.raises(UserError, match=words) as told:
        read_calibration(content, "m.calibration.json")
    assert "\n" not in str(told.value) and "fit it again, or delete it" in str(told.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_must_be_finite(value):
    with pytest.raises(UserError, match="slope"):
        read_calibration({"stages": {"stage1": {**stage().model_dump(), "slope": value}}}, "it")


def test_one_of_other_weights_is_not_used(caplog):
    own, other, inside = calibration("own"), calibration("other"), calibration(None)

    def choose(*found):
        return choose_calibration([(each, "FILE") for each in found], Path("m.pth"), lambda: "own")

    assert choose(own, inside) is own and choose(inside, own) is inside and choose() is None
    assert not caplog.text
    assert choose(other, inside) is inside and choose(other) is None
    assert "FILE is of other weights than m.pth has" in caplog.text and "evaluation calibrate" in caplog.text
