"""The part of the page that asks what tells hits apart, and ranks them again by the answers."""

import html
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from evaluation.description.asking import ANSWERS, Question
from search.describing.describer import GalleryDescriber
from search.describing.questions import Dialogue, DialogueRequest, QuestionAnswer, ask
from search.page.callbacks import TOGETHER, Callbacks
from search.page.callers import for_caller
from search.page.messages import escaped
from utils.errors import UserError

CHOICES = {"yes": "Yes", "no": "No", "unknown": "I don't know"}  # what the buttons of the answers say
NO_MORE = "No question would tell these images further apart."

Answers = list[tuple[str, str | None, str]]
"""Category, phrase and answer of each question so far."""
Asked = tuple[str, str | None]
"""Category and phrase of the question that is shown."""


def build_asking(
    describer: GalleryDescriber,
    calls: Callbacks,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    searches: Sequence[Any],
) -> None:
    """A button that asks, and three to answer. inputs, outputs: of a search; searches: what begins a new one."""
    asking = Asking(describer, calls)
    answers, asked = gr.State([]), gr.State(None)  # `Answers`, and `Asked` or None
    button = gr.Button("Ask me", elem_id="ask")
    with gr.Group(visible=False) as group:
        question = gr.Markdown(elem_id="question")
        with gr.Row():
            choices = {word: gr.Button(label, elem_id=f"answer-{word}") for word, label in CHOICES.items()}
    shown = [answers, asked, group, question]
    button.click(for_caller(asking.begin), list(inputs), shown, api_visibility="private", **TOGETHER)
    for word, choice in choices.items():
        reply = for_caller(asking.reply_by(word, len(outputs)))
        choice.click(reply, [answers, asked, *inputs], [*shown, *outputs], api_visibility="private", **TOGETHER)
    gr.on(list(searches), lambda: ([], None, gr.Group(visible=False), ""), None, shown, api_visibility="private")


class Asking:
    """What the buttons do. Their callbacks return the answers so far, what is asked now, and how that is shown."""

    def __init__(self, describer: GalleryDescriber, calls: Callbacks):
        self.describer, self.calls = describer, calls

    def begin(self, *values: Any) -> tuple[Any, ...]:
        """The first question about a search. values: of its inputs, in the order of `Callbacks.answer`."""
        try:
            return [], *next_question(self.dialogue([], values))
        except UserError as error:
            return [], None, *message(error)

    def reply_by(self, word: str, outputs: int) -> Callable[..., tuple[Any, ...]]:
        """The callback of an answer: the next question, and hits in a new order. outputs: how many a search has."""

        def replied(answers: Answers, asked: Asked | None, *values: Any) -> tuple[Any, ...]:
            try:
                if asked is None:
                    raise UserError("nothing is asked; press Ask me")
                with_this = [*answers, (*asked, word)]
                found = self.dialogue(with_this, values)
            except UserError as error:
                return answers, asked, *message(error), *(gr.skip() for _ in range(outputs))
            return with_this, *next_question(found), *self.calls.show(found.result)

        return replied

    def dialogue(self, answers: Answers, values: Sequence[Any]) -> Dialogue:
        """The search with what was answered so far. Raises UserError."""
        text, top, k, group, *fields = values
        search = DialogueRequest(text or "", int(top), int(k), self.calls.where(fields), group or "")
        known = [QuestionAnswer(Question(category, phrase), ANSWERS[word]) for category, phrase, word in answers]
        return ask(self.describer, search, known)


def next_question(found: Dialogue) -> tuple[Any, ...]:
    """The question to show: what it is about, that it is shown, its words."""
    if found.question is None:
        return None, gr.Group(visible=True), NO_MORE
    about = found.question.category, found.question.phrase
    words = found.words[0].upper() + found.words[1:]
    return about, gr.Group(visible=True), f"**{html.escape(words)}**"


def message(error: UserError) -> tuple[Any, ...]:
    """What went wrong, in place of a question: that it is shown, its words."""
    return gr.Group(visible=True), escaped(str(error))
