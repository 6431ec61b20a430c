"""What `python -m search serve` serves: the HTTP API, and the web page at /."""

import os

from fastapi import FastAPI
from starlette.requests import ClientDisconnect

from evaluation.description.phrases import PhraseTable, read_phrase_table
from search.describing.describer import GalleryDescriber
from search.searcher import Searcher
from search.serving.api import answer_nobody, build_app
from search.serving.upload import LARGEST_UPLOAD


def build_site(
    searcher: Searcher,
    allow_upload: bool = False,
    host: str = "",
    allow_forget: bool = False,
    root_path: str = "",
    accounts: bool = False,
    table: PhraseTable | None = None,
) -> FastAPI:
    """The API and the page. What the page shows is copied to the gallery's folder, nowhere else.

    root_path: where a proxy serves it; accounts: people sign in, and the page leads to where they sign out. table: of
    phrases that describe people; None = the built-in one.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(searcher.gallery.page)  # read when Gradio is imported
    import gradio

    from search.page.layout import build_page, part, theme

    describer = GalleryDescriber(searcher, table or read_phrase_table())
    page = build_page(searcher, allow_upload, allow_forget, root_path, accounts, describer)
    app = build_app(searcher, allow_upload, host, allow_forget, describer)
    looks = {"css": part("page.css"), "js": part("page.js"), "theme": theme()}
    kept = {"run_history": False}  # or a browser keeps all that was shown, also after its user has signed out
    faults = {"exception_handlers": {ClientDisconnect: answer_nobody}}
    settings = {"max_file_size": LARGEST_UPLOAD, "footer_links": [], "root_path": root_path or None}
    settings["show_error"] = False  # what fails unexpectedly may name files of the server
    return gradio.mount_gradio_app(app, page, path="/", app_kwargs=faults, **settings, **looks, **kept)
