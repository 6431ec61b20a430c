"""What happens when something is asked on the page."""

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from search.explain import explain
from search.page.filters import condition
from search.page.hits import label_of, picture_of, surroundings
from search.page.messages import problem, summary
from search.page.reasons import heat_pictures, reasons_as_html
from search.searcher import Searcher
from search.upload import add_image
from utils.errors import UserError
from utils.text import counted


class Callbacks:
    """What happens on the page. names: columns of metadata that it filters by."""

    def __init__(self, searcher: Searcher, names: Sequence[str]):
        self.searcher, self.names = searcher, names

    def answer(self, text: str, top: int, k: int, group: str | None, *chosen: Sequence[str] | None) -> tuple[Any, ...]:
        """What the page shows for a sentence: hits, message, their paths and those of their groups, the sentence, no
        reasons, no heat maps."""
        nothing = gr.Gallery(value=[], visible=False)
        try:
            where = condition(self.searcher.gallery.columns(), dict(zip(self.names, chosen, strict=True)))
            found = self.searcher.search(text or "", int(top), int(k), where, group or "")
        except UserError as error:
            return [], problem(error), [], [], "", "", nothing
        pictures = [(picture_of(self.searcher.gallery, hit.path), label_of(hit)) for hit in found.hits]
        moments = [[moment.path for moment in hit.moments] for hit in found.hits]
        return pictures, summary(found), [hit.path for hit in found.hits], moments, text, "", nothing

    def reason(
        self, shown: list[str], moments: list[list[str]], sentence: str, event: gr.SelectData
    ) -> tuple[str, gr.Gallery]:
        """Why the image that was clicked was found, as HTML; its frame, the others of its group, and heat maps."""
        try:
            if not 0 <= event.index < len(shown):
                raise UserError("this image is no longer shown; search again")
            found = explain(self.searcher, sentence, shown[event.index])
        except UserError as error:
            return html.escape(str(error)), gr.Gallery(value=[], visible=False)
        around = surroundings(self.searcher.gallery, shown[event.index], moments[event.index])
        return reasons_as_html(found), gr.Gallery(value=[*around, *heat_pictures(found)], visible=True)

    def upload(self, content: bytes | None) -> str:
        """Add an uploaded image and say so."""
        if content is None:
            return ""
        try:
            image = add_image(self.searcher, content)
        except UserError as error:
            return problem(error)
        return f"Added as {image.path}; the gallery holds {counted(len(self.searcher.gallery.records), 'image')}."
