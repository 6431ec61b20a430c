"""Which question about a person tells candidates apart best, and what its answer says of them.

Each candidate has a weight, how likely it is the person, and a probability that its answer is yes: how likely what is
asked is true of it by the scores of phrases, mixed with an error rate (`ERROR_RATE`). Questions are ranked by the
mutual information of answer and candidate; an answer updates the odds of the candidates by Bayes' rule.

Letters: N candidates, K options of a category.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from evaluation.description.phrases import Category, PhraseTable
from evaluation.statistics import probability_of
from utils.errors import UserError, did_you_mean

ERROR_RATE = 0.05  # of answers, and of sure descriptions: no answer alone rules a candidate out
MIN_BITS = 0.01  # bits that a question must be expected to tell
AnswerWord = Literal["yes", "no", "unknown"]
ANSWERS: Mapping[str, AnswerWord] = {
    "yes": "yes", "y": "yes", "no": "no", "n": "no", "unknown": "unknown", "u": "unknown", "?": "unknown",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """Whether a phrase of a category is true of the person; phrase None: whether there is anything of it at all."""

    category: str
    phrase: str | None

    def words(self, table: PhraseTable) -> str:
        """As one asks it."""
        category = table[self.category]
        return (category.existence_question or "") if self.phrase is None else category.questions[self.phrase]


@dataclass(frozen=True)
class Beliefs:
    """What is known of N candidates.

    log_odds [N]: that each is the person; options: for each category, how likely each option is of each candidate
    [N, K], where there is anything that it could be of. excluded: categories and questions that nothing is asked of.
    """

    log_odds: np.ndarray
    options: Mapping[str, np.ndarray]
    excluded: AbstractSet[str | Question] = field(default_factory=frozenset)

    @property
    def probabilities(self) -> np.ndarray:
        """How likely each candidate is the person [N]."""
        return probability_of(self.log_odds)

    @property
    def weights(self) -> np.ndarray:
        """How likely each candidate is the one, if one of them is [N]; sums to 1."""
        # log p = log odds - log(1 + odds), which no candidate loses to rounding
        logs = self.log_odds - np.logaddexp(0, self.log_odds)
        weights = np.exp(logs - logs.max())
        return weights / weights.sum()


def questions_of(table: PhraseTable) -> list[Question]:
    """All that can be asked."""
    found = []
    for name, category in table.items():
        found += [Question(name, None)] if category.existence_question else []
        found += [Question(name, phrase) for phrase in category.questions]
    return found


def question_probability(table: PhraseTable, beliefs: Beliefs, question: Question) -> np.ndarray:
    """How likely what is asked is true of each candidate [N]."""
    category, options = table[question.category], beliefs.options[question.category]
    if question.phrase is None:
        return presence_probability(category, options)
    chance = options[:, category.names.index(question.phrase)]
    if category.parent is None:
        return chance
    return chance * presence_probability(table[category.parent], beliefs.options[category.parent])


def presence_probability(category: Category, options: np.ndarray) -> np.ndarray:
    """How likely there is anything of a category [N]; options [N, K]."""
    return 1 - options[:, category.names.index(category.none_option)] if category.none_option else np.ones(len(options))


def yes_probability(chance: np.ndarray) -> np.ndarray:
    """How likely "yes" is answered of candidates of whom something is true with this chance."""
    return ERROR_RATE + (1 - 2 * ERROR_RATE) * chance


def mutual_information(weights: np.ndarray, yes: np.ndarray) -> float:
    """Bits that an answer is expected to tell of which candidate it is; weights, yes [N]."""
    return float(entropy(weights @ yes) - weights @ entropy(yes))


def entropy(chance: np.ndarray) -> np.ndarray:
    """Bits of a question that is answered by yes with this chance, strictly between 0 and 1."""
    return -(chance * np.log2(chance) + (1 - chance) * np.log2(1 - chance))


def open_questions(table: PhraseTable, beliefs: Beliefs) -> list[Question]:
    """What may be asked still."""
    return [
        question
        for question in questions_of(table)
        if question.category not in beliefs.excluded and question not in beliefs.excluded
    ]


def best_question(table: PhraseTable, beliefs: Beliefs) -> tuple[Question, float] | None:
    """The question that is expected to tell most, the first of equal ones, and its bits; None: none tells enough."""
    weights, best = beliefs.weights, None
    for question in open_questions(table, beliefs):
        bits = mutual_information(weights, yes_probability(question_probability(table, beliefs, question)))
        if bits >= MIN_BITS and (best is None or bits > best[1] + 1e-12):
            best = question, bits
    return best


# ---- answers ---------------------------------------------------------------------------


def update_beliefs(table: PhraseTable, beliefs: Beliefs, question: Question, answer: AnswerWord) -> Beliefs:
    """What is known once a question is answered; `unknown` only keeps it from being asked again."""
    excluded = beliefs.excluded | {question}
    if answer == "unknown":
        return replace(beliefs, excluded=excluded)
    chance = question_probability(table, beliefs, question)
    yes = yes_probability(chance)
    likelihood = yes if answer == "yes" else 1 - yes
    evidence = beliefs.weights @ likelihood
    if answer == "yes" and question.phrase is not None:
        excluded = excluded | {question.category}
    if answer == "no" and question.phrase is None:
        excluded = excluded | {name for name, one in table.items() if question.category in (name, one.parent)}
    return Beliefs(
        log_odds=beliefs.log_odds + np.log(likelihood) - np.log(evidence),
        options={**beliefs.options, **update_options(table, beliefs, question, answer == "yes")},
        excluded=excluded,
    )


def update_options(table: PhraseTable, beliefs: Beliefs, question: Question, is_so: bool) -> dict[str, np.ndarray]:
    """How likely options are [N, K] of each candidate, should it be the one that the answer is about.

    Of the category asked about, and of the one that it depends on: who has no red bag has another one, or none.
    """
    category, options = table[question.category], beliefs.options[question.category]
    asked = np.array([name == question.phrase for name in category.names])
    if question.phrase is None:  # about anything: all options but the last
        asked = np.array([name != category.none_option for name in category.names])
    found = {question.category: reweight(options, asked == is_so)}
    if category.parent is not None:
        other, known = table[category.parent], beliefs.options[category.parent]
        there = np.array([name != other.none_option for name in other.names])
        without = options[:, asked].sum(axis=1)  # of those who have anything: what the answer is about
        kept = there if is_so else np.where(there, 1 - without[:, None], 1.0)
        found[category.parent] = reweight(known, kept)
    return found


def reweight(options: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """options [N, K] times what is kept of each [K] or [N, K], of sum 1; what sums to nothing stays as it is."""
    left = options * kept
    total = left.sum(axis=1, keepdims=True)
    return np.where(total > 1e-12, left / np.maximum(total, 1e-12), options)


def parse_answers(words: Sequence[str]) -> list[AnswerWord]:
    """`yes`, `no` or `unknown`, or their first letters. Raises UserError for another word."""
    found = []
    for word in words:
        if word.strip().lower() not in ANSWERS:
            raise UserError(f"an answer is yes, no or unknown, not {word!r}{did_you_mean(word, ANSWERS)}")
        found.append(ANSWERS[word.strip().lower()])
    return found
