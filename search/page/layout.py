"""What stands on the page, in its order, and which callback each part calls."""

from importlib.resources import files

import gradio as gr

from search.page.callbacks import Callbacks
from search.page.callers import for_caller
from search.page.erasing import build_erasing
from search.page.filters import build_filters, build_groups
from search.searcher import CANDIDATES, Searcher
from utils.text import counted

TITLE = "Person search by text"
EXAMPLES = (
    "a woman in a red coat and blue jeans with a black backpack",
    "a man wearing a white t-shirt, grey shorts and white sneakers",
    "a person in a long dress who carries a handbag",
)
CACHE_SECONDS = 600, 3600  # how often copies of what was shown are cleared away, and how old these are
NOTICE = (
    "Results are rankings with errors: look at every image before anything follows from it. Do not use this to track,"
    " profile or identify people without a legal basis."
)


def part(name: str) -> str:
    """A file of this package that a browser gets, such as page.css."""
    return files("search.page").joinpath(name).read_text(encoding="utf-8")


def build_page(
    searcher: Searcher,
    allow_upload: bool = False,
    allow_forget: bool = False,
    root_path: str = "",
    accounts: bool = False,
) -> gr.Blocks:
    """All of the page, for `gradio.mount_gradio_app`; see `search.site.build_site`."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=CACHE_SECONDS) as page:
        shown = gr.State([])  # paths of the hits, in their order
        moments = gr.State([])  # of each hit: paths of the others of its group
        sentence = gr.State("")
        gr.Markdown(
            f"# {TITLE}\n{counted(len(searcher.gallery.records), 'image')}. {NOTICE} For programs:"
            f" [HTTP API]({root_path}/docs).{f' [Account]({root_path}/account).' if accounts else ''}"
        )
        with gr.Row():
            text = gr.Textbox(label="Who?", placeholder=EXAMPLES[0], max_lines=8, scale=5, elem_id="text")
            button = gr.Button("Search", variant="primary", scale=1, elem_id="search")
        gr.Examples([[example] for example in EXAMPLES], text, label="Examples")
        with gr.Row():
            top = gr.Slider(1, 50, 10, step=1, label="Images shown")
            k = gr.Slider(0, 256, CANDIDATES, step=1, label="Candidates k that are read with the sentence (0: none)")
        group = build_groups(searcher.gallery.columns())
        filters = build_filters(searcher.gallery.columns())
        message = gr.Markdown(elem_id="message")
        hits = build_pictures("Hits", columns=5, elem_id="hits")
        gr.Markdown("Click an image to see why it was found.")
        reasons = gr.HTML(elem_id="reasons")
        heats = build_pictures("Where it is, and where the model looked", columns=6, elem_id="heats", visible=False)
        inputs = [text, top, k, group, *filters.values()]
        outputs = [hits, message, shown, moments, sentence, reasons, heats]
        calls = Callbacks(searcher, list(filters))
        gr.on(
            [button.click, text.submit],
            for_caller(calls.answer),
            inputs,
            outputs,
            api_visibility="private",
            trigger_mode="always_last",
        )
        asked = [shown, moments, sentence]
        hits.select(for_caller(calls.reason), asked, [reasons, heats], api_visibility="private")
        if allow_forget:
            build_erasing(searcher, hits, shown, message)
        if allow_upload:
            file = gr.File(label="Add an image to the gallery", file_types=["image"], type="binary")
            file.upload(for_caller(calls.upload), file, message, api_visibility="private")
    return page


def build_pictures(label: str, columns: int, elem_id: str, visible: bool = True) -> gr.Gallery:
    """A grid of pictures that can be clicked."""
    return gr.Gallery(
        label=label,
        columns=columns,
        height="auto",
        object_fit="contain",
        allow_preview=False,
        visible=visible,
        elem_id=elem_id,
    )
