"""What `python -m search serve` serves: the HTTP API, and the web page at /."""

import os

from fastapi import FastAPI

from search.searcher import Searcher
from search.service import build_app
from search.upload import LARGEST_UPLOAD


def build_site(searcher: Searcher, allow_upload: bool = False, host: str = "") -> FastAPI:
    """The API and the page. What the page shows is copied to the gallery's folder, nowhere else."""
    os.environ["GRADIO_TEMP_DIR"] = str(searcher.gallery.page)  # read when Gradio is imported
    import gradio

    from search.page import build_page

    page, app = build_page(searcher, allow_upload), build_app(searcher, allow_upload, host)
    return gradio.mount_gradio_app(app, page, path="/", max_file_size=LARGEST_UPLOAD, footer_links=[])
