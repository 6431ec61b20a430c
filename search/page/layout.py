"""What stands on the page, in the order of the keyboard, and which callback each part calls."""

import html
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import gradio as gr

from search.describing.describer import GalleryDescriber
from search.gallery.filters import Columns
from search.page.asking import build_asking
from search.page.callbacks import TOGETHER, Callbacks
from search.page.callers import for_caller
from search.page.describing import build_describing
from search.page.downloads import build_downloads
from search.page.erasing import build_erasing
from search.page.filters import Filters, build_groups
from search.page.history import build_history
from search.searcher import CANDIDATES, Searcher
from utils.errors import UserError
from utils.text import counted

TITLE = "Person search by text"
EXAMPLES = (
    "a woman in a red coat and blue jeans with a black backpack",
    "a man in a white t-shirt, grey shorts and white sneakers",
    "a person in a long dress who carries a handbag",
)
CACHE_SECONDS = 600, 3600  # how often copies of what was uploaded are cleared away, and how old these are
NOTICE = (
    "Results are rankings with errors: look at every image before anything follows from it. Do not use this to track,"
    " profile or identify people without a legal basis."
)
DONE = "(hits) => window.personSearch.done(hits)"
OWN_SETTINGS = 2  # that every gallery has: how many images are shown, and how many candidates are re-ranked
CHOOSING = "hits.js"  # tells Gradio which hit was chosen


def part(name: str) -> str:
    """A file of this package that a browser gets, such as page.css."""
    return files("search.page").joinpath(name).read_text(encoding="utf-8")


def theme() -> gr.themes.Base:
    """Colours whose contrast suffices (page.css has the rest), and fonts of the reader's own machine."""
    return gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])


def build_page(
    searcher: Searcher,
    allow_upload: bool = False,
    allow_forget: bool = False,
    root_path: str = "",
    accounts: bool = False,
    describer: GalleryDescriber | None = None,
) -> gr.Blocks:
    """All of the page, for `gradio.mount_gradio_app`; see `search.site.build_site`. describer: says what hits show."""
    columns = searcher.gallery.columns()
    filters = Filters(columns)
    calls = Callbacks(searcher, filters)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=CACHE_SECONDS) as page:
        shown = gr.State([])  # paths of the hits, in their order
        moments = gr.State([])  # of each hit: paths of the others of its group
        sentence, found = gr.State(""), gr.State(None)
        head = plain(header(len(searcher.gallery.records), root_path, accounts), "header")
        text, button = build_sentence()
        build_history(accounts)
        settings = build_settings(filters, columns)
        message = plain("", "message")
        hits = gr.HTML(elem_id="hits", js_on_load=part(CHOOSING), apply_default_css=False)
        downloads = build_downloads(searcher, found)
        inputs, searches = [text, *settings], [button.click, text.submit]
        reasons = gr.HTML("", elem_id="reasons", js_on_load=None, apply_default_css=False, render=False)
        outputs = [hits, message, shown, moments, sentence, reasons, found, downloads]
        if describer is not None:
            build_asking(describer, calls, inputs, outputs, searches)
        reasons.render()
        if describer is not None:
            build_describing(describer, hits, shown, searches)
        build_comparison(calls, text, settings)
        asked = gr.on(
            searches,
            for_caller(calls.answer),
            inputs,
            outputs,
            api_visibility="private",
            trigger_mode="always_last",
            show_progress_on=hits,
            **TOGETHER,
        )
        asked.then(None, hits, js=DONE, api_visibility="private")
        hits.select(for_caller(calls.reason), [shown, moments, sentence], reasons, api_visibility="private")

        def as_of_now() -> list[Any]:
            """The header and the choices: images come and go while a gallery is served. Out of reach, they stay."""
            try:
                count, now = len(searcher.gallery.records), searcher.gallery.columns()
            except UserError:
                return [gr.skip()] * len(of_gallery)
            return [header(count, root_path, accounts), *filters.choices_of(now)]

        of_gallery = [head, *settings[OWN_SETTINGS : OWN_SETTINGS + 1 + len(filters.choices)]]
        page.load(for_caller(as_of_now), None, of_gallery, api_visibility="private", show_progress="hidden")
        if allow_forget:
            build_erasing(searcher, hits, shown, message)
        if allow_upload:
            file = gr.File(label="Add an image to the gallery", file_types=["image"], type="binary", elem_id="upload")
            file.upload(for_caller(calls.upload), file, message, api_visibility="private")
    return page


def build_sentence() -> tuple[gr.Textbox, gr.Button]:
    """Where a sentence is written, with examples, and the button that searches for it."""
    with gr.Row(elem_id="asking"):
        text = gr.Textbox(label="Who?", placeholder=EXAMPLES[0], max_lines=8, scale=5, elem_id="text")
        button = gr.Button("Search", variant="primary", scale=1, elem_id="search")
    gr.Examples([[example] for example in EXAMPLES], text, label="Examples", elem_id="examples")
    return text, button


def build_settings(filters: Filters, columns: Columns) -> list[gr.components.Component]:
    """What a search depends on beside its sentence, in the order of `Callbacks.answer`: `OWN_SETTINGS`, then what
    depends on the gallery.
    """
    with gr.Accordion("Filters and settings", open=False, elem_id="settings"):
        fields = filters.build(columns)
        with gr.Row():
            top = gr.Slider(1, 50, 10, step=1, label="Images shown")
            k = gr.Slider(0, 256, CANDIDATES, step=1, label="Candidates k that are read with the sentence (0: none)")
        group = build_groups(columns)
    return [top, k, group, *fields]


def plain(value: str, elem_id: str) -> gr.HTML:
    """A part of the page that is shown as it is."""
    return gr.HTML(value, elem_id=elem_id, js_on_load=None, apply_default_css=False)


def header(images: int, root_path: str, accounts: bool) -> str:
    """The way past all that is asked, what this is, what it must not be used for, and where else to go."""
    start = html.escape(root_path, quote=True)
    account = f" <a href='{start}/account'>Account</a>." if accounts else ""
    return (
        "<a class='skip' href='#hits'>Skip to the results</a>"
        f"<h1>{TITLE}</h1><p>{counted(images, 'image')}. {NOTICE} For programs: <a href='{start}/docs'>HTTP API</a>."
        f"{account}</p><p class='unseen' id='busy' role='status'></p>"
    )


def build_comparison(calls: Callbacks, text: gr.Textbox, settings: Sequence[gr.components.Component]) -> None:
    """A second sentence, and the hits of both beside each other; settings: what the first one is searched with too."""
    with gr.Accordion("Compare with another sentence", open=False, elem_id="comparing"):
        with gr.Row():
            other = gr.Textbox(label="Who else?", placeholder=EXAMPLES[1], max_lines=8, scale=5, elem_id="other")
            button = gr.Button("Compare both", scale=1, elem_id="compare")
        said = plain("", "compared")
        both = plain("", "comparison")
    asked = gr.on(
        [button.click, other.submit],
        for_caller(calls.compare),
        [text, other, *settings],
        [both, said],
        api_visibility="private",
        trigger_mode="always_last",
        show_progress_on=both,
        **TOGETHER,
    )
    asked.then(None, js=DONE, api_visibility="private")
