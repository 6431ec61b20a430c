"""Results of the page as files, which the browser makes of text: no copy of them is kept on the server."""

from typing import Any

import gradio as gr

from search.page.callers import for_caller
from search.results.formats import results_as_csv, still_there
from search.searcher import Searcher
from utils.errors import UserError
from utils.files import as_json

FORMATS = {"csv": "text/csv", "json": "application/json"}


def build_downloads(searcher: Searcher, found: gr.State) -> gr.Row:
    """A row of buttons, to be shown with the hits. found: an answer as `search_result_as_json` has it, or None."""
    # the texts on their way to the browser; not in the row, with which Gradio would show them, and hidden by page.css
    contents = {name: gr.Textbox(label=f"results as {name}", elem_classes="on-its-way") for name in FORMATS}
    with gr.Row(visible=False, elem_id="downloads") as row:
        for name, media_type in FORMATS.items():
            button = gr.Button(f"Download results as {name.upper()}", elem_id=f"download-{name}", size="sm")
            make = for_caller(maker(searcher, name))
            made = button.click(make, found, contents[name], api_visibility="private", show_progress="hidden")
            save = f"text => window.personSearch.save(text, 'results.{name}', '{media_type}')"
            made.then(None, contents[name], None, js=save, api_visibility="private")
    return row


def maker(searcher: Searcher, name: str) -> Any:
    """The callback that makes a file of this format of what was found."""

    def download(found: dict[str, Any] | None) -> str:
        try:
            return content_of(searcher, found, name) if found else ""
        except UserError as error:
            raise gr.Error(str(error)) from None  # Gradio shows it

    download.__name__ = f"download_{name}"
    return download


def content_of(searcher: Searcher, found: dict[str, Any], name: str) -> str:
    """What was found as text of a format; images that were erased since are left out. Recorded as an action."""
    results = still_there(found["hits"], searcher.gallery)
    searcher.authorize("download", text=found["text"], format=name, hits=len(results))
    return results_as_csv(results) if name == "csv" else as_json({**found, "hits": results}, indent=2)
