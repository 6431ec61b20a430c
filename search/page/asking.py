"""The part of the page that asks what tells hits apart, and ranks them again by the answers."""

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from evaluation.description.asking import ANSWERS, Question
from search.describing.describer import GalleryDescriber
from search.describing.questions import Dialogue, DialogueRequest, QuestionAnswer, ask
from search.page.callbacks import TOGETHER, Callbacks
from search.page.callers import for_caller
from utils.errors import UserError

NO_MORE = "No question would tell these images further apart."


def build_asking(
    describer: GalleryDescriber,
    calls: Callbacks,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    searches: Sequence[Any],
) -> None:
    """A button that asks, and three to answer. inputs, outputs: of a search; searches: what begins a new one."""
    answers = gr.State([])  # (category, phrase, answer) of each question so far
    asked = gr.State(None)  # category and phrase of the question that is shown
    button = gr.Button("Ask me", elem_id="ask")
    with gr.Group(visible=False) as group:
        question = gr.Markdown(elem_id="question")
        with gr.Row():
            choices = [(word, gr.Button(word.capitalize(), elem_id=f"answer-{word}")) for word in ("yes", "no")]
            choices.append(("unknown", gr.Button("I don't know", elem_id="answer-unknown")))

    def dialogue_of(given: list[tuple[str, str | None, str]], values: tuple[Any, ...]) -> Dialogue:
        text, top, k, by, *chosen = values
        search = DialogueRequest(text or "", int(top), int(k), calls.where(chosen), by or "")
        return ask(
            describer, search, [QuestionAnswer(Question(name, phrase), ANSWERS[word]) for name, phrase, word in given]
        )

    def begin(*values: Any) -> tuple[Any, ...]:
        try:
            return [], *next_question(dialogue_of([], values))
        except UserError as error:
            return [], None, gr.Group(visible=True), html.escape(str(error))

    def reply(word: str) -> Any:
        def replied(
            given: list[tuple[str, str | None, str]], about: tuple[str, str | None] | None, *values: Any
        ) -> tuple[Any, ...]:
            unchanged = [gr.skip() for _ in outputs]
            try:
                if about is None:
                    raise UserError("nothing is asked; press Ask me")
                now = [*given, (*about, word)]
                found = dialogue_of(now, values)
            except UserError as error:
                return given, about, gr.Group(visible=True), html.escape(str(error)), *unchanged
            return now, *next_question(found), *calls.show(found.result, values[0])

        return replied

    told = [answers, asked, group, question]
    button.click(for_caller(begin), list(inputs), told, api_visibility="private", **TOGETHER)
    for word, choice in choices:
        sent = [answers, asked, *inputs]
        choice.click(for_caller(reply(word)), sent, [*told, *outputs], api_visibility="private", **TOGETHER)
    gr.on(list(searches), lambda: ([], None, gr.Group(visible=False), ""), None, told, api_visibility="private")


def next_question(found: Dialogue) -> tuple[Any, ...]:
    """The question to show: what it is about, that it is shown, its words."""
    if found.question is None:
        return None, gr.Group(visible=True), NO_MORE
    about = found.question.category, found.question.phrase
    words = found.words[0].upper() + found.words[1:]
    return about, gr.Group(visible=True), f"**{html.escape(words)}**"
