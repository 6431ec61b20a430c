"""Information, Bayes' rule and what a sentence says are right on numbers known by hand."""

import numpy as np
import pytest

from evaluation.description.asking import (
    ERROR_RATE,
    Beliefs,
    Question,
    best_question,
    mutual_information,
    open_questions,
    parse_answers,
    question_probability,
    questions_of,
    update_beliefs,
    yes_probability,
)
from evaluation.description.mentions import mentioned_categories
from evaluation.description.phrases import read_phrase_table
from utils.errors import UserError

TABLE = """
bag:
  template: A person with a {}.
  nothing: {no bag: A person.}
  any: with a bag?
  phrases: [backpack, handbag]
bag colour:
  template: A person with a {} bag.
  question: with a {} bag?
  of: bag
  phrases: [red, blue]
shoes: [boots, sandals]
"""


@pytest.fixture
def table(tmp_path):
    """Three categories, and none of those built in."""
    file = tmp_path / "phrases.yaml"
    built_in = [name for name in read_phrase_table() if name not in ("bag", "bag colour", "shoes")]
    file.write_text(TABLE + "".join(f"{name}:\n" for name in built_in))
    return read_phrase_table(file)


def beliefs(bag, colour=None, shoes=None, log_odds=None, excluded=()):
    count = len(bag)
    return Beliefs(
        np.zeros(count) if log_odds is None else np.array(log_odds, dtype=float),
        {
            "bag": np.array(bag, dtype=float),
            "bag colour": np.array(colour or [[0.5, 0.5]] * count),
            "shoes": np.array(shoes or [[0.5, 0.5]] * count),
        },
        frozenset(excluded),
    )


# ---- information -----------------------------------------------------------------------


def test_an_answer_that_is_known_of_each_of_two_equal_candidates_tells_one_bit():
    assert mutual_information(np.array([0.5, 0.5]), np.array([1 - 1e-12, 1e-12])) == pytest.approx(1, abs=1e-9)
    assert mutual_information(np.array([0.5, 0.5]), np.array([0.3, 0.3])) == pytest.approx(0, abs=1e-12)


def test_information_is_that_of_the_table_of_candidates_and_answers():
    weights, yes = np.array([0.5, 0.25, 0.25]), np.array([0.9, 0.2, 0.4])
    # sum over candidates and answers of p(i, a) log2 (p(i, a) / (p(i) p(a)))
    both = np.stack([weights * yes, weights * (1 - yes)])
    alone = both.sum(0) * both.sum(1, keepdims=True)
    assert mutual_information(weights, yes) == pytest.approx((both * np.log2(both / alone)).sum())


def test_weights_are_the_shares_of_probabilities():
    # odds of 1 : 1 and 3 : 1 are 1/2 and 3/4, of 5/4 together
    found = beliefs([[1, 0, 0]] * 2, log_odds=[0, np.log(3)])
    assert found.weights.tolist() == pytest.approx([0.4, 0.6])
    assert found.probabilities.tolist() == pytest.approx([0.5, 0.75])
    sure = beliefs([[1, 0, 0]] * 2, log_odds=[800, -800])
    assert sure.weights.tolist() == [1, 0]


def test_the_best_question_divides_the_candidates(table):
    # a backpack tells the first two from the others; boots tell nobody apart, red tells the first from the second
    bag = [[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]]
    found = beliefs(bag, colour=[[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]])
    question, bits = best_question(table, found)
    assert question == Question("bag", None)  # as good as a backpack, and the first of both
    # of two halves: 1 bit, short of what a mistake takes
    lost = -(ERROR_RATE * np.log2(ERROR_RATE) + (1 - ERROR_RATE) * np.log2(1 - ERROR_RATE))
    assert bits == pytest.approx(1 - lost)
    assert best_question(table, beliefs([[0.2, 0.3, 0.5]] * 4)) is None  # all alike


def test_what_is_closed_is_not_asked(table):
    bag = [[1, 0, 0], [0, 0, 1]]
    assert best_question(table, beliefs(bag, excluded=["bag", "bag colour"])) is None
    questions = open_questions(table, beliefs(bag, excluded=["bag", Question("shoes", "boots")]))
    assert {*questions} == {Question("shoes", "sandals"), Question("bag colour", "red"), Question("bag colour", "blue")}


# ---- answers ---------------------------------------------------------------------------


def test_a_colour_is_of_what_is_there(table):
    found = beliefs([[0.5, 0.1, 0.4], [0, 0, 1]], colour=[[0.7, 0.3], [0.7, 0.3]])
    assert question_probability(table, found, Question("bag colour", "red")).tolist() == pytest.approx([0.42, 0])
    assert question_probability(table, found, Question("bag", None)).tolist() == pytest.approx([0.6, 0])
    assert question_probability(table, found, Question("bag", "handbag")).tolist() == pytest.approx([0.1, 0])


def test_odds_are_multiplied_by_the_likelihood_of_the_answer(table):
    found = beliefs([[0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])
    after = update_beliefs(table, found, Question("bag", "backpack"), "yes")
    yes = yes_probability(np.array([0.8, 0.2]))  # 0.05 + 0.9 * 0.8 = 0.77, and 0.23
    assert yes.tolist() == pytest.approx([0.77, 0.23])
    # even odds times 0.77 or 0.23, divided by what both say together, 0.5
    assert np.exp(after.log_odds).tolist() == pytest.approx([1.54, 0.46])
    against = update_beliefs(table, found, Question("bag", "backpack"), "no")
    assert np.exp(against.log_odds).tolist() == pytest.approx([0.46, 1.54])
    # the posterior of which of the two it is, by Bayes' rule
    exact = np.array([0.77, 0.23]) / (0.77 + 0.23)
    odds = np.exp(after.log_odds)
    assert (odds / odds.sum()).tolist() == pytest.approx(exact.tolist())


def test_no_answer_is_believed_more_than_people_are(table):
    found = update_beliefs(table, beliefs([[1, 0, 0], [0, 0, 1]]), Question("bag", "backpack"), "no")
    odds = np.exp(found.log_odds)
    assert odds[1] / odds[0] == pytest.approx((1 - ERROR_RATE) / ERROR_RATE)


def test_yes_ends_a_category_and_no_leaves_the_others(table):
    found = beliefs([[0.5, 0.3, 0.2]])
    yes = update_beliefs(table, found, Question("bag", "backpack"), "yes")
    assert yes.options["bag"].tolist() == [[1, 0, 0]] and "bag" in yes.excluded
    no = update_beliefs(table, found, Question("bag", "backpack"), "no")
    assert no.options["bag"].tolist() == [pytest.approx([0, 0.6, 0.4])]
    assert {question.phrase for question in open_questions(table, no) if question.category == "bag"} == {
        None,
        "handbag",
    }
    nothing = update_beliefs(table, found, Question("bag", None), "no")
    assert nothing.options["bag"].tolist() == [[0, 0, 1]]
    assert {question.category for question in open_questions(table, nothing)} == {"shoes"}
    something = update_beliefs(table, found, Question("bag", None), "yes")
    assert something.options["bag"].tolist() == [pytest.approx([0.625, 0.375, 0])]


def test_what_is_said_of_a_colour_is_known_of_the_thing(table):
    # has 0.8, red 0.25: of all, 0.2 have a red bag; of the others 0.2 / 0.8 have none
    found = beliefs([[0.6, 0.2, 0.2]], colour=[[0.25, 0.75]])
    no = update_beliefs(table, found, Question("bag colour", "red"), "no")
    assert no.options["bag"].tolist() == [pytest.approx([0.6 * 0.75 / 0.8, 0.2 * 0.75 / 0.8, 0.2 / 0.8])]
    assert no.options["bag colour"].tolist() == [[0, 1]]
    yes = update_beliefs(table, found, Question("bag colour", "red"), "yes")
    assert yes.options["bag"].tolist() == [pytest.approx([0.75, 0.25, 0])]
    assert yes.options["bag colour"].tolist() == [[1, 0]]


def test_who_does_not_know_changes_nothing_and_is_not_asked_again(table):
    found = beliefs([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    after = update_beliefs(table, found, Question("bag", "backpack"), "unknown")
    assert after.log_odds.tolist() == found.log_odds.tolist() and after.options is found.options
    assert Question("bag", "backpack") not in open_questions(table, after)
    assert len(open_questions(table, after)) == len(open_questions(table, found)) - 1


def test_all_questions_have_words(table):
    words = [question.words(table) for question in questions_of(table)]
    assert set(words) == {
        f"with {one}?" for one in ("a bag", "backpack", "handbag", "a red bag", "a blue bag", "boots", "sandals")
    }
    assert all(question.words(read_phrase_table()).endswith("?") for question in questions_of(read_phrase_table()))


def test_answers_are_three_words_or_their_letters():
    assert parse_answers(["yes", "N", " unknown", "u", "y", "?"]) == [
        "yes",
        "no",
        "unknown",
        "unknown",
        "yes",
        "unknown",
    ]
    with pytest.raises(UserError, match="an answer is yes, no or unknown, not 'yess' \\(did you mean 'yes'\\?\\)"):
        parse_answers(["yess"])


# ---- what is said ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        (
            "A woman in a red coat and blue jeans.",
            {"person", "upper body", "upper colour", "lower body", "lower colour"},
        ),
        ("someone with a bag", {"bag"}),
        ("someone with a black backpack", {"bag", "bag colour"}),
        ("a person wearing dress shoes", {"shoes"}),
        ("a man, hair tied in a bun", {"person", "hair"}),
        ("a man with short grey hair", {"person", "hair", "hair colour"}),
        ("white sneakers. A striped shirt", {"shoes", "shoe colour", "upper body", "pattern"}),
        ("somebody red", set()),
        ("", set()),
    ],
)
def test_a_sentence_says_what_its_words_name(sentence, said):
    assert mentioned_categories(read_phrase_table(), sentence) == said


def test_a_colour_is_said_of_the_thing_it_stands_before():
    assert "shoe colour" not in mentioned_categories(
        read_phrase_table(), "a red coat with a belt and shoes and a blue bag"
    )
    assert "bag colour" in mentioned_categories(read_phrase_table(), "a red coat with a belt and shoes and a blue bag")
