"""What happens when something is asked on the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from search.batching.progress import report_progress
from search.explain import explain
from search.page.comparison import comparison_as_html, comparison_summary
from search.page.filters import Filters
from search.page.hits import chosen_path, hits_as_html, surroundings
from search.page.messages import escaped, problem, summary
from search.page.reasons import heat_pictures, why_as_html
from search.results.formats import search_result_as_json
from search.searcher import Searcher, SearchResult
from search.serving.upload import add_image
from utils.errors import UserError
from utils.text import counted

PROGRESS = gr.Progress()  # as a default it has Gradio show how far a search is
# searches that wait are answered together, where Gradio would begin one at a time; less than its 40 threads, which also
# answer for images and all else
TOGETHER: Mapping[str, Any] = {"concurrency_limit": 32, "concurrency_id": "searches"}


class Callbacks:
    """What happens on the page. filters: its fields, whose values come after all others."""

    def __init__(self, searcher: Searcher, filters: Filters):
        self.searcher, self.filters = searcher, filters

    def answer(
        self, text: str, top: int, k: int, group: str | None, progress: gr.Progress = PROGRESS, *fields: Any
    ) -> tuple[Any, ...]:
        """Search, and return the values of the page's outputs, in the order of `outputs` in layout.py."""
        try:
            found = self.search(text, top, k, group, fields, progress)
        except UserError as error:
            return "", problem(error), [], [], "", "", None, gr.Row(visible=False)
        return self.show(found)

    def show(self, found: SearchResult) -> tuple[Any, ...]:
        """What the page shows of an answer, as of `answer`."""
        gallery, text = self.searcher.gallery, found.query.text
        hits = hits_as_html(gallery, found.hits, text)
        moments = [[moment.path for moment in hit.moments] for hit in found.hits]
        shown = [hit.path for hit in found.hits]
        result = search_result_as_json(found, gallery)
        return hits, summary(found), shown, moments, text, "", result, gr.Row(visible=bool(shown))

    def compare(
        self,
        text: str,
        other: str,
        top: int,
        k: int,
        group: str | None,
        progress: gr.Progress = PROGRESS,
        *fields: Any,
    ) -> tuple[str, str]:
        """The hits of two sentences beside each other, and a message."""
        try:
            first, second = (self.search(one, top, k, group, fields, progress) for one in (text, other))
        except UserError as error:
            return "", problem(error)
        answers = (first, second)
        return comparison_as_html(self.searcher.gallery, answers, group or ""), comparison_summary(answers, group or "")

    def search(
        self, text: str, top: int, k: int, group: str | None, fields: Sequence[Any], progress: gr.Progress
    ) -> SearchResult:
        """The answer for a sentence, told how far it is. Raises UserError."""
        with report_progress(lambda done, of: progress((done, of), desc="Reading images", unit="images")):
            return self.searcher.search(text or "", int(top), int(k), self.where(fields), group or "")

    def where(self, fields: Sequence[Any]) -> str:
        """The filter that the fields make. Raises UserError."""
        return self.filters.where(self.searcher.gallery.columns(), fields)

    def reason(self, shown: list[str], moments: list[list[str]], sentence: str, event: gr.SelectData) -> str:
        """Why the image that was clicked was found; its frame, the others of its group, and heat maps."""
        path = chosen_path(shown, event.index)
        try:
            if not path:
                raise UserError("this image is no longer shown; search again")
            found = explain(self.searcher, sentence, path)
        except UserError as error:
            return f"<p role='alert'>{escaped(str(error))}</p>"
        around = surroundings(self.searcher.gallery, path, moments[event.index])
        return why_as_html(found, event.index, [*around, *heat_pictures(found)])

    def upload(self, content: bytes | None) -> str:
        """Add an uploaded image and say so."""
        if content is None:
            return ""
        try:
            image = add_image(self.searcher, content)
        except UserError as error:
            return problem(error)
        number = counted(len(self.searcher.gallery.records), "image")
        return f"Added as {escaped(image.path)}; the gallery holds {number}."
