"""The part of the page that erases images."""

from typing import Any

import gradio as gr

from search.page.callers import for_caller
from search.page.hits import chosen_path
from search.page.messages import escaped
from search.searcher import Searcher
from search.serving.erasing import erase_image
from utils.errors import UserError


def build_erasing(searcher: Searcher, hits: gr.HTML, shown: gr.State, message: gr.HTML) -> None:
    """A button that erases the image that was clicked, behind a box to be ticked. shown: paths of the hits."""
    chosen = gr.State("")
    with gr.Group(visible=False) as group:
        name = gr.Textbox(label="Erase this image from the gallery", interactive=False, elem_id="erasing")
        sure = gr.Checkbox(label="It is meant to be erased for good", elem_id="sure")
        button = gr.Button("Erase", variant="stop", elem_id="erase")

    def choose(paths: list[str], event: gr.SelectData) -> tuple[Any, ...]:
        path = chosen_path(paths, event.index)
        return path, gr.Group(visible=bool(path)), path, False

    def erase(path: str, is_sure: bool) -> tuple[Any, ...]:
        """What the page shows once an image is erased: a message, no hits, and no button."""
        try:
            if not is_sure:
                raise UserError("tick the box first: what is erased cannot be had back")
            erase_image(searcher, path)
        except UserError as error:
            return escaped(str(error)), gr.skip(), gr.skip(), gr.skip()
        return "The image is erased from the gallery; its file is left alone.", "", [], gr.Group(visible=False)

    hits.select(choose, [shown], [chosen, group, name, sure], api_visibility="private")
    button.click(for_caller(erase), [chosen, sure], [message, hits, shown, group], api_visibility="private")
