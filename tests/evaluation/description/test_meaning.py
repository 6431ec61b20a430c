"""What scores of phrases mean: right on numbers known by hand, and what made drawn people is found again."""

import numpy as np
import pytest
from pydantic import ValidationError

from dataset.synthetic.known import NotKnown, people_of, read_people
from evaluation.description.fitting import fit_category, fit_multinomial, fit_options, weights_of
from evaluation.description.meaning import (
    UNCALIBRATED_SLOPE,
    CategoryCalibration,
    Evidence,
    probabilities_in,
    probabilities_of,
    softmax,
    usable,
)
from evaluation.description.phrases import Category, captions_of, read_phrase_table
from evaluation.description.truth import DOES_NOT_APPLY, OTHER, UNKNOWN, option_of, truth_of
from evaluation.studies.described import error_of
from utils.errors import UserError

SHOES = Category("shoes", {"boots": "In boots.", "sandals": "In sandals."}, {"boots": "b?", "sandals": "s?"})


def known(**changed):
    values = {"similarity": 2.0, "match": 1.0, "offsets": {"boots": 0.5, "sandals": -0.5}, "images": 8, "people": 4}
    return CategoryCalibration(**{"captions": dict(SHOES.options), **values, **changed})


def test_log_odds_are_lines_of_cosine_and_match():
    evidence = Evidence(np.array([[0.5, 0.25]]), np.array([[1.0, 2.0]]))
    # 2 * 0.5 + 1 + 0.5 = 2.5 and 2 * 0.25 + 2 - 0.5 = 2: half a log odd apart
    found = known().probabilities(SHOES, evidence)
    assert found[0, 0] == pytest.approx(1 / (1 + np.exp(-0.5))) and found.sum() == pytest.approx(1)
    alone = known(match=None).probabilities(SHOES, Evidence(evidence.similarity))
    assert alone[0, 0] == pytest.approx(1 / (1 + np.exp(-1.5)))


def test_without_a_calibration_options_are_compared_as_they_are():
    evidence = Evidence(np.array([[0.1, 0.0]]), np.array([[0.0, np.log(3)]]))
    assert probabilities_in(SHOES, evidence, None)[0].tolist() == pytest.approx([0.25, 0.75])
    cosines = probabilities_in(SHOES, Evidence(evidence.similarity), None)
    assert cosines[0, 0] == pytest.approx(1 / (1 + np.exp(-0.1 * UNCALIBRATED_SLOPE)))


def test_a_calibration_is_of_its_captions_alone():
    assert usable({"shoes": known()}, SHOES) == known()
    assert usable({}, SHOES) is None
    assert usable({"shoes": known(captions={**SHOES.options, "boots": "In a boot."})}, SHOES) is None
    assert usable({"shoes": known(offsets={"boots": 0.0})}, SHOES) is None
    for wrong in ({"similarity": -1.0}, {"match": float("nan")}, {"people": 0}):
        with pytest.raises(ValidationError):
            known(**wrong)


# ---- fitting ---------------------------------------------------------------------------


def test_two_scores_of_two_options_are_met_exactly():
    # where the first option scores 1 more, 3 of 4 are it; where it scores 1 less, 1 of 4: log odds of 3 for 1
    ahead, behind = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    features = np.array([ahead] * 4000 + [behind] * 4000)
    right = np.array(([0, 0, 0, 1] * 1000) + ([1, 1, 1, 0] * 1000))
    slopes, offsets = fit_options(features, right, np.ones(8000))
    assert slopes[0] == pytest.approx(np.log(3), abs=1e-3) and offsets == pytest.approx([0, 0], abs=1e-6)


def test_without_scores_that_tell_offsets_are_shares_and_a_prior():
    # 6 people with the first, 2 with the second, and a prior: derivative 8 p - 6 + offset = 0 of p = sigmoid(2 offset)
    features = np.zeros((8, 2, 1))
    _, offsets = fit_multinomial(features, np.array([0] * 6 + [1] * 2), np.ones(8))
    assert offsets.sum() == pytest.approx(0)
    assert 8 / (1 + np.exp(-2 * offsets[0])) - 6 + offsets[0] == pytest.approx(0, abs=1e-8)


def test_people_count_once_however_many_images_show_them():
    assert weights_of(np.array([7, 7, 7, 7, 9])).tolist() == [0.25, 0.25, 0.25, 0.25, 1]
    rng = np.random.default_rng(0)
    features, right = rng.normal(size=(30, 3, 2)), rng.integers(3, size=30)
    once = fit_options(features, right, np.ones(30))
    twice = fit_options(np.repeat(features, 2, axis=0), np.repeat(right, 2), np.full(60, 0.5))
    assert once[0] == pytest.approx(twice[0]) and once[1] == pytest.approx(twice[1])


def test_what_made_the_options_is_found_again_and_is_calibrated():
    rng = np.random.default_rng(1)
    features, offsets = rng.normal(size=(20000, 4, 2)), np.array([1.0, 0.0, -0.5, -0.5])
    chance = softmax(features @ np.array([1.5, 0.5]) + offsets)
    right = (chance.cumsum(1) < rng.random((20000, 1))).sum(1)
    slopes, found = fit_options(features, right, np.ones(20000))
    assert slopes == pytest.approx([1.5, 0.5], abs=0.05) and found == pytest.approx(offsets, abs=0.06)
    told = softmax(features @ slopes + found)
    sure, hit = told.max(1), told.argmax(1) == right
    near = (sure > 0.75) & (sure < 0.85)
    assert near.sum() > 1000 and hit[near].mean() == pytest.approx(0.8, abs=0.03)
    assert error_of(sure, hit, np.arange(20000), 0).mean < 1.5


def test_scores_that_mislead_are_left_out(caplog):
    right = np.array([0, 1] * 20)
    good, bad = np.eye(2)[right], -np.eye(2)[right] + 0.1 * np.random.default_rng(0).normal(size=(40, 2))
    both = fit_category(SHOES, Evidence(bad, good), right, np.arange(40))
    assert both.similarity == 0 and both.match > 0 and not caplog.text
    nothing = fit_category(SHOES, Evidence(bad), right, np.arange(40))
    assert nothing.similarity == 0 and nothing.match is None and "shoes: better scores" in caplog.text
    assert nothing.images == nothing.people == 40


def test_too_few_people_are_not_fitted():
    evidence, right = Evidence(np.zeros((8, 2))), np.array([0, 1] * 4)
    assert fit_category(SHOES, evidence, right, np.arange(8) // 3) is None  # three people
    assert fit_category(SHOES, evidence, np.zeros(8, dtype=int), np.arange(8)) is None  # all alike
    assert fit_category(SHOES, evidence, np.array([0, 1, *[UNKNOWN] * 6]), np.arange(8)) is None


def test_the_error_of_probabilities_is_that_of_their_bins():
    # ten of 0.9, eight of them right: 0.1 off; ten of 0.3, three right: 0
    sure, right = np.array([0.9] * 10 + [0.3] * 10), np.array([1] * 8 + [0] * 2 + [1] * 3 + [0] * 7, dtype=bool)
    found = error_of(sure, right, np.arange(20), 0)
    assert found.mean == pytest.approx(5) and found.low <= 5 <= found.high


# ---- what is true ----------------------------------------------------------------------

THING = {"colour": "red", "pattern": "plain"}
PERSON = {
    "gender": "woman",
    "sleeves": "none",
    "hair": {**THING, "kind": "bald"},
    "dress": {**THING, "kind": "dress", "pattern": "vertical stripes"},
    "shoes": {**THING, "kind": "boots", "colour": "blue"},
    "bag": {**THING, "kind": "backpack"},
}


def true_of(person):
    table = read_phrase_table()
    found = {name: option_of(category, table, person) for name, category in table.items()}
    return {name: table[name].names[index] if index >= 0 else index for name, index in found.items()}


def test_what_a_drawn_person_has_is_known():
    assert true_of(PERSON) == {
        "person": "woman",
        "upper body": "dress",
        "upper colour": "red",
        "pattern": "striped",
        "sleeves": "none",
        "lower body": "dress",
        "lower colour": "red",
        "shoes": "boots",
        "shoe colour": "blue",
        "bag": "backpack",
        "bag colour": "red",
        "headwear": "no headwear",
        "headwear colour": DOES_NOT_APPLY,
        "hair": "bald",
        "hair colour": DOES_NOT_APPLY,
        "glasses": "no glasses",
        "scarf": "no scarf",
        "scarf colour": DOES_NOT_APPLY,
        "in the hand": "nothing held",
        "colour of what is held": DOES_NOT_APPLY,
    }
    jacket = true_of({**PERSON, "upper": {**THING, "kind": "jacket", "colour": "navy"}})
    assert (jacket["upper body"], jacket["upper colour"], jacket["lower colour"]) == ("jacket", "navy", "red")


def test_of_other_phrases_nothing_or_another_is_true(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("bag: {phrases: [handbag], nothing: {no bag: A person.}}\nbelt: [belt, chain]")
    table = read_phrase_table(file)
    found = truth_of(table, [PERSON, {**PERSON, "bag": {**THING, "kind": "handbag"}}])
    assert found["bag"].tolist() == [OTHER, 0] and found["belt"].tolist() == [UNKNOWN, UNKNOWN]


def test_every_phrase_is_true_of_somebody_drawn(benchmark):
    people = read_people_of(benchmark)
    found = truth_of(read_phrase_table(), people)
    assert all((values != OTHER).all() and (values != UNKNOWN).all() for values in found.values())


def read_people_of(benchmark):
    import json

    names = [entry["file_path"] for entry in json.loads((benchmark / "reid_raw.json").read_text())]
    people = read_people(names, [benchmark / "processed_data", benchmark])
    assert len(people) == len(names) == 32
    return people


def test_other_data_are_not_known(tmp_path, benchmark):
    with pytest.raises(
        NotKnown, match=r"is not known: there is no .*attributes.json, as `python -m dataset.synthetic`"
    ):
        read_people(["a.jpg"], [tmp_path])
    with pytest.raises(NotKnown, match=r"attributes.json does not know the image a.jpg; it is of other data"):
        read_people(["a.jpg"], [benchmark])
    with pytest.raises(UserError, match="is not a table of attributes"):
        people_of([], tmp_path)


def test_a_table_is_fitted_column_by_column():
    table = read_phrase_table()
    count = len(captions_of(table))
    evidence = Evidence(np.arange(2.0 * count).reshape(2, count))
    found = probabilities_of(table, evidence, {})
    first = next(iter(table))
    expected = softmax(UNCALIBRATED_SLOPE * np.array([[0.0, 1.0], [count, count + 1.0]]))
    assert found[first] == pytest.approx(expected) and {*found} == {*table}
