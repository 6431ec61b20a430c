"""Figures of open galleries on searches small enough to count by hand."""

import numpy as np
import pytest

from evaluation.open_set_metrics import OpenSearches, auroc, bin_of, calibration_error, measure, measures_of, share

ALL = np.ones(4)


def searches(**changed):
    """Two searches for people present, of which one finds somebody else; two for people who are absent."""
    values = {
        "scores": np.array([[4.0, 1.0], [2.0, 1.0], [3.0, 0.0], [1.0, -np.inf]]),
        "right": np.array([[True, False], [False, True], [False, False], [False, False]]),
        "probabilities": np.array([[0.9, 0.2], [0.55, 0.1], [0.35, 0.0], [0.05, 0.0]]),
        "present": np.array([True, True, False, False]),
        "people": np.array([0, 1, 0, 1]),
        "thresholds": {0.01: 3.5, 0.1: 1.5},
    }
    return OpenSearches(**{**values, **changed})


def values_of(found, weights=ALL):
    return {name: value(weights) for name, value in measures_of(found).items()}


def test_the_area_under_the_curve_is_the_share_of_pairs_in_the_right_order():
    # of the pairs 4 > 3, 4 > 1, 2 < 3, 2 > 1 three are in the right order
    assert auroc(np.array([4.0, 2, 3, 1]), np.array([True, True, False, False]))(ALL) == pytest.approx(75)
    assert auroc(np.array([1.0, 1, 1, 1]), np.array([True, True, False, False]))(ALL) == pytest.approx(50)
    # the third search drawn three times: 4 and 2 against 3, 3, 3 and 1: 4 + 1 of 8
    weights = np.array([1, 1, 3, 1])
    assert auroc(np.array([4.0, 2, 3, 1]), np.array([True, True, False, False]))(weights) == pytest.approx(62.5)
    assert np.isnan(auroc(np.array([1.0]), np.array([True]))(np.ones(1)))


def test_found_people_and_false_alarms_are_counted_at_thresholds():
    found = values_of(searches())
    assert (found["tpir_0.01"], found["fpir_0.01"]) == (50, 0)
    assert (found["tpir_0.1"], found["fpir_0.1"]) == (50, 50)  # a wrong best hit of somebody present finds nobody
    assert found["r1"] == 50 and found["auroc"] == pytest.approx(75)


def test_the_calibration_error_is_the_mean_distance_of_bins():
    found = values_of(searches())
    # four bins of one best hit each: |0.9 - 1|, |0.55 - 0|, |0.35 - 0|, |0.05 - 0|
    assert found["ece"] == pytest.approx(100 * (0.1 + 0.55 + 0.35 + 0.05) / 4)
    # of the three other hits: |0.2 - 0|, |0.1 - 1| and 0
    assert found["ece_others"] == pytest.approx(100 * (0.2 + 0.9 + 0) / 3)
    assert "ece_raw" not in found
    raw = values_of(searches(raw=np.array([1.0, 0.0, 0.0, 0.0])))
    assert raw["ece_raw"] == 0


def test_hits_of_a_bin_are_averaged_before():
    # 0.25 and 0.25 share a bin, one of the two is right: |0.25 - 0.5|
    error = calibration_error(np.array([[0.25], [0.25]]), np.array([[True], [False]]), np.ones((2, 1), dtype=bool))
    assert error(np.ones(2)) == pytest.approx(25)
    assert error(np.array([0, 4])) == pytest.approx(25) and error(np.array([3, 1])) == pytest.approx(50)
    assert np.isnan(error(np.zeros(2)))


def test_a_probability_of_one_is_in_the_last_bin():
    assert bin_of(np.array([0.0, 0.0999, 0.1, 0.95, 1.0])).tolist() == [0, 0, 1, 9, 9]


def test_shares_of_nothing_are_nan():
    assert np.isnan(share(np.array([True]), np.array([False]))(np.ones(1)))


def test_intervals_are_those_of_people_drawn_again():
    found = measure(searches(), seed=0)
    assert found["r1"].mean == 50 and (found["r1"].low, found["r1"].high) == (
        0,
        100,
    )  # only one of the two, or the other
    assert found["r1"].count == 4
    assert measure(searches(), seed=0) == found
