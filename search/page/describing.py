"""The part of the page that says what a hit shows, once it is asked for."""

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from search.describing.commands import options_of
from search.describing.describer import CategoryPrediction, GalleryDescriber
from search.page.callers import for_caller
from search.page.hits import chosen_path
from search.page.messages import escaped
from utils.errors import UserError


def build_describing(describer: GalleryDescriber, hits: gr.HTML, shown: gr.State, searches: Sequence[Any]) -> None:
    """A button that describes the chosen image. shown: paths of the hits; searches: what begins a new search."""
    chosen = gr.State("")
    button = gr.Button("What is seen?", visible=False, elem_id="describe")
    seen = gr.HTML(elem_id="seen", js_on_load=None, apply_default_css=False)

    def offer(paths: list[str], event: gr.SelectData) -> tuple[Any, ...]:
        path = chosen_path(paths, event.index)
        return path, gr.Button(visible=bool(path)), ""

    def describe(path: str) -> str:
        try:
            return predictions_as_html(path, describer.describe_hit(path), describer.calibration_warning())
        except UserError as error:
            return escaped(str(error))

    hits.select(offer, [shown], [chosen, button, seen], api_visibility="private")
    gr.on(
        list(searches),
        lambda: ("", gr.Button(visible=False), ""),
        None,
        [chosen, button, seen],
        api_visibility="private",
    )
    button.click(for_caller(describe), [chosen], [seen], api_visibility="private")


def predictions_as_html(path: str, seen: Sequence[CategoryPrediction], unsure: str) -> str:
    """A row for each category of which there is anything. unsure: which scores are no probabilities."""
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(one.category)}</th><td>{html.escape(options_of(one))}</td></tr>"
        for one in seen
        if one.shown
    )
    note = f"<p>{html.escape(unsure[0].upper() + unsure[1:])}.</p>" if unsure else ""
    return f"<h2>What is seen</h2><p>{html.escape(path)}</p><table>{rows}</table>{note}"
