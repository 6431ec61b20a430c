"""The part of the HTTP API that says what an image shows, and asks what tells hits apart."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from evaluation.description.asking import AnswerWord, Question
from search.describing.describer import GalleryDescriber, predictions_as_json
from search.describing.questions import (
    AMONG,
    MAX_ANSWERS,
    DialogueRequest,
    QuestionAnswer,
    ask,
    dialogue_as_json,
)
from search.searcher import CANDIDATES, MAX_CANDIDATES
from search.serving.numbers import Whole
from utils.errors import NotThere


class DescribeRequest(BaseModel):
    """The image to describe."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(description="the id of an image, in quotes")


class AnswerGiven(BaseModel):
    """An answer to a question of an earlier reply."""

    model_config = ConfigDict(extra="forbid", strict=True)

    category: str
    phrase: str | None = None
    answer: AnswerWord


class AskRequest(BaseModel):
    """A sentence, and the answers to the questions so far."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str = Field(description="a sentence")
    answers: list[AnswerGiven] = Field(
        [],
        max_length=MAX_ANSWERS,
        description='a list such as [{"category": "bag", "phrase": "backpack", "answer": "yes"}] (yes, no or unknown;'
        " phrase null: anything)",
    )
    top: Whole = Field(10, ge=1, le=MAX_CANDIDATES, description=f"a whole number from 1 to {MAX_CANDIDATES}")
    candidates: Whole = Field(
        CANDIDATES, ge=0, le=MAX_CANDIDATES, description=f"a whole number from 0 to {MAX_CANDIDATES}"
    )
    among: Whole = Field(AMONG, ge=2, le=MAX_CANDIDATES, description=f"a whole number from 2 to {MAX_CANDIDATES}")
    where: str = Field("", max_length=2000, description="a filter of at most 2000 characters")
    group: str = Field("", max_length=2000, description="the name of metadata in quotes, or 'alike'")


def add_describing(app: FastAPI, describer: GalleryDescriber) -> None:
    searcher = describer.searcher

    @app.post("/api/describe")
    def describe(request: DescribeRequest) -> dict[str, Any]:
        """What an image of the gallery shows, by category."""
        found = searcher.gallery.records.by_id.get(request.id)
        if found is None:
            raise NotThere("the gallery holds no image of this id")
        return {"path": found.path, "categories": predictions_as_json(describer.describe_hit(found.path))}

    @app.post("/api/ask")
    def ask_about(request: AskRequest) -> dict[str, Any]:
        """The images that fit a sentence and the answers, and the question that would tell them apart best."""
        answers = [QuestionAnswer(Question(one.category, one.phrase), one.answer) for one in request.answers]
        asked = DialogueRequest(**request.model_dump(exclude={"answers"}))
        return dialogue_as_json(ask(describer, asked, answers), searcher.gallery)
