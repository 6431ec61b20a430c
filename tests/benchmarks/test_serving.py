"""The load test compares answers as it says, and its drawn embeddings are like those of people."""

import numpy as np
import pytest

from benchmarks.index_scale import EACH, draw_embeddings
from benchmarks.serving import Load, differences, same

HIT = {"id": "a", "score": 1.0, "similarity": 0.5}


@pytest.mark.parametrize(
    ("changed", "equal"),
    [
        ({}, True),
        ({"score": 1.000005}, True),
        ({"score": 1.0001}, False),
        ({"similarity": 0.51}, False),
        ({"score": None}, False),
        ({"id": "b"}, False),
    ],
)
def test_answers_are_the_same_if_hits_and_scores_are(changed, equal):
    other = {**HIT, **changed}
    assert same([HIT, HIT], [HIT, other]) == same([HIT, other], [HIT, HIT]) == equal
    assert not same([HIT], [HIT, HIT])
    assert differences({"x": {"hits": [HIT]}}, {"x": {"hits": [other]}}) == (not equal)


def test_the_rate_is_queries_by_seconds():
    assert Load([0.5, 0.5, 1.0], 1.5, {}).rate == 2


def test_images_of_one_person_are_nearer_than_those_of_others():
    images, queries = draw_embeddings(800, 20, 32)
    assert np.linalg.norm(images, axis=1) == pytest.approx(np.ones(800), abs=1e-5)
    assert np.linalg.norm(queries, axis=1) == pytest.approx(np.ones(20), abs=1e-5)
    cosines = images @ images.T
    person = np.arange(800) // EACH
    own, other = cosines[person[:, None] == person], cosines[person[:, None] != person]
    assert own.mean() > 0.8 and other.mean() < 0.1
    assert np.array_equal(draw_embeddings(800, 20, 32)[0], images)
