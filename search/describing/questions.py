"""Asks what would tell the best hits of a search apart, and ranks them again by the answers; no language model does so.

Letters: N hits that questions are about, K options of a category.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluation.description.asking import (
    AnswerWord,
    Beliefs,
    Question,
    best_question,
    questions_of,
    update_beliefs,
)
from evaluation.description.meaning import UNCALIBRATED_SLOPE
from evaluation.description.mentions import mentioned_categories
from evaluation.description.phrases import PhraseTable
from search.describing.describer import GalleryDescriber
from search.gallery.searchable_gallery import SearchableGallery
from search.results.formats import search_result_as_json
from search.searcher import CANDIDATES, MAX_CANDIDATES, Hit, SearchResult
from utils.errors import UserError

AMONG = 20  # best hits that questions are about
SUREST = 1e-9  # how close to 0 or 1 a probability of the search may be
MAX_ANSWERS = 100


@dataclass(frozen=True)
class QuestionAnswer:
    """A question and its answer."""

    question: Question
    answer: AnswerWord


@dataclass(frozen=True)
class Dialogue:
    """A search, and what was asked since. answer: its hits, in the order that the answers give them.

    question: what is best asked next, `bits` what it is expected to tell; None when nothing more tells hits apart.
    """

    result: SearchResult
    answers: tuple[QuestionAnswer, ...]
    question: Question | None
    bits: float
    table: PhraseTable

    @property
    def words(self) -> str:
        """The next question as one asks it; empty when there is none."""
        return self.question.words(self.table) if self.question else ""


@dataclass(frozen=True)
class DialogueRequest:
    """A search that is asked about, as of `Searcher.search`; among: how many of its best hits questions tell apart."""

    text: str
    top: int = 10
    candidates: int = CANDIDATES
    where: str = ""
    group: str = ""
    among: int = AMONG


def ask(describer: GalleryDescriber, asked: DialogueRequest, answers: Sequence[QuestionAnswer] = ()) -> Dialogue:
    """Search, rank the best hits by the answers, and choose the next question.

    Raises UserError as `Searcher.search` does, and for a question that there is not.
    """
    if not 2 <= asked.among <= MAX_CANDIDATES or not 1 <= asked.top <= MAX_CANDIDATES:
        raise UserError(f"top must be from 1 to {MAX_CANDIDATES}, among from 2 to {MAX_CANDIDATES}")
    table, searcher = describer.table, describer.searcher
    require_questions(table, answers)
    if answers:
        told = "; ".join(f"{one.question.words(table)} {one.answer}" for one in answers)
        searcher.authorize("ask", text=asked.text, answers=told)
    with searcher.model_lock:
        most = max(asked.top, asked.among)
        found = searcher.search(asked.text, most, asked.candidates, asked.where, asked.group)
        alike = [hit for hit in found.hits[: asked.among] if same_scores(hit, found.hits[0])]
        evidence, missing = describer.evidence([hit.path for hit in alike])
    hits = [hit for hit in alike if hit.path in evidence]
    rest = [hit for hit in found.hits if hit.path not in evidence and hit.path not in missing]
    question, bits = None, 0.0
    if hits:
        options = [describer.options(evidence[hit.path]) for hit in hits]
        together = {name: np.concatenate([one[name] for one in options]) for name in table}
        beliefs = Beliefs(log_odds_of(hits), together, frozenset(mentioned_categories(table, asked.text)))
        for one in answers:
            beliefs = update_beliefs(table, beliefs, one.question, one.answer)
        hits = in_new_order(hits, beliefs) if answers else hits
        question, bits = best_question(table, beliefs) or (None, 0.0)
    found = replace(found, hits=[*hits, *rest][: asked.top], missing={**found.missing, **missing})
    return Dialogue(found, tuple(answers), question, bits, table)


def require_questions(table: PhraseTable, answers: Sequence[QuestionAnswer]) -> None:
    """Raises UserError for an answer to what cannot be asked, and for too many."""
    if len(answers) > MAX_ANSWERS:
        raise UserError(f"at most {MAX_ANSWERS} questions are answered, not {len(answers)}")
    known = set(questions_of(table))
    for one in answers:
        if one.question not in known:
            what = one.question.phrase or "anything"
            raise UserError(f"there is no question about {what!r} of the category {one.question.category!r}")


def same_scores(hit: Hit, first: Hit) -> bool:
    """Whether two hits are ordered by the same sort of score."""
    return (hit.score is None, hit.probability is None) == (first.score is None, first.probability is None)


def log_odds_of(hits: Sequence[Hit]) -> np.ndarray:
    """How likely each hit is the person [N], before any answer.

    As calibrated, else by the matching head, else cosines are taken for logits of the usual temperature.
    """
    if all(hit.probability is not None for hit in hits):
        chance = np.array([hit.probability for hit in hits], dtype=float).clip(SUREST, 1 - SUREST)
        return np.log(chance) - np.log1p(-chance)
    if all(hit.score is not None for hit in hits):
        return np.array([hit.score for hit in hits], dtype=float)
    similarity = np.array([hit.similarity for hit in hits])
    return UNCALIBRATED_SLOPE * (similarity - similarity.max())


def in_new_order(hits: Sequence[Hit], beliefs: Beliefs) -> list[Hit]:
    """The likeliest first; where probabilities are known, with those that the answers leave."""
    order = np.argsort(-beliefs.log_odds, kind="stable")
    chance = beliefs.probabilities
    return [
        hits[index] if hits[index].probability is None else replace(hits[index], probability=float(chance[index]))
        for index in order
    ]


# ---- for programs ----------------------------------------------------------------------


def dialogue_as_json(dialogue: Dialogue, gallery: SearchableGallery, with_files: bool = False) -> dict[str, Any]:
    """The result of the search, as `search_result_as_json` has it; what was asked and answered; the next question."""
    return {
        **search_result_as_json(dialogue.result, gallery, with_files),
        "answers": answers_as_json(dialogue),
        "question": question_as_json(dialogue),
    }


def question_as_json(dialogue: Dialogue) -> dict[str, Any] | None:
    """The next question, and what it is expected to tell."""
    if dialogue.question is None:
        return None
    return {**asked_as_json(dialogue.question, dialogue.table), "bits": dialogue.bits}


def asked_as_json(question: Question, table: PhraseTable) -> dict[str, Any]:
    return {"category": question.category, "phrase": question.phrase, "question": question.words(table)}


def answers_as_json(dialogue: Dialogue) -> list[dict[str, Any]]:
    """What was asked, with the answers."""
    return [{**asked_as_json(one.question, dialogue.table), "answer": one.answer} for one in dialogue.answers]
