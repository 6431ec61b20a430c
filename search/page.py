"""The web page: a sentence, the ranked images, why they were found; filters, an upload where it is allowed."""

import html
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import gradio as gr
from PIL import Image

from dataset.decoding import Unusable, decode
from evaluation.drawing.pictures import placeholder
from search.erasing_page import build_erasing, for_caller
from search.explain import Explanation, explain, overlay
from search.frames import frame_around
from search.grouping import ALIKE
from search.read_gallery import ReadGallery
from search.searcher import CANDIDATES, Answer, Hit, Searcher
from search.upload import add_image
from utils.errors import UserError
from utils.text import agreeing, counted

TITLE = "Person search by text"
EXAMPLES = (
    "a woman in a red coat and blue jeans with a black backpack",
    "a man wearing a white t-shirt, grey shorts and white sneakers",
    "a person in a long dress who carries a handbag",
)
PICTURE = (192, 384)  # width and height that images are shown in, in pixels
FRAME = (640, 480)
# as many pictures stand beside each other as are wide enough to be looked at, and none is scrolled in a box of its own
STYLE = """
#hits .grid-container, #heats .grid-container {
    grid-template-columns: repeat(auto-fill, minmax(max(140px, 18%), 1fr)) !important;
}
#hits .grid-wrap, #heats .grid-wrap {
    height: auto !important;
    min-height: 0 !important;
    max-height: none !important;
    overflow: visible;
}
"""
MOST_VALUES, MOST_FILTERS = 200, 4
CACHE_SECONDS = 600, 3600  # how often copies of what was shown are cleared away, and how old these are
NOTICE = (
    "Results are rankings with errors: look at every image before anything follows from it. Do not use this to track,"
    " profile or identify people without a legal basis."
)


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


def build_filters(columns: Mapping[str, Sequence[Any]]) -> dict[str, gr.Dropdown]:
    """A choice for each column of metadata that has few values."""
    few = {name: values for name, values in columns.items() if len(values) <= MOST_VALUES}
    with gr.Row():
        return {
            name: gr.Dropdown([str(value) for value in values], multiselect=True, label=name, elem_id=f"filter-{name}")
            for name, values in list(few.items())[:MOST_FILTERS]
        }


def build_groups(columns: Mapping[str, Sequence[Any]]) -> gr.Dropdown:
    """A choice of what makes several images one hit."""
    choices = [("each image", ""), ("images that look the same", ALIKE), *((name, name) for name in columns)]
    return gr.Dropdown(choices, value="", label="One hit for", elem_id="group")


def condition(columns: Mapping[str, Sequence[Any]], chosen: Mapping[str, Sequence[str] | None]) -> str:
    """A filter for the chosen values (as text) of each column; no image passes that of an unknown value."""
    parts = []
    for name, wanted in chosen.items():
        if wanted:
            values = [value for value in columns[name] if str(value) in wanted]
            parts.append(f"{name} in {json.dumps(values, ensure_ascii=False)}")
    return " and ".join(parts)


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


def picture_of(gallery: ReadGallery, path: str) -> Image.Image:
    """An image small enough for the page, or a grey field in place of it."""
    try:
        picture = decode(gallery.content_of(path))
    except Unusable:
        return placeholder(path, PICTURE)
    picture.thumbnail(PICTURE)
    return picture


def surroundings(gallery: ReadGallery, path: str, moments: Sequence[str]) -> list[tuple[Image.Image, str]]:
    """The frame that an image was cut out of, if it was, and the others of its group."""
    pictures = []
    with suppress(Unusable):  # the hit itself was there a moment ago
        if (frame := frame_around(gallery, path)) is not None:
            frame.thumbnail(FRAME)
            pictures.append((frame, "the frame"))
    return [*pictures, *((picture_of(gallery, moment), "another moment") for moment in moments)]


def label_of(hit: Hit) -> str:
    """Short, or the page cuts it."""
    more = f", +{len(hit.moments)}" if hit.moments else ""
    if hit.probability is not None:
        return f"{hit.probability:.0%} likely, cos. {hit.similarity:.2f}{more}"
    if hit.match is None:
        return f"cosine {hit.similarity:.2f}{more}"
    return f"match {hit.match:.0%}, cos. {hit.similarity:.2f}{more}"


def summary(found: Answer) -> str:
    """How many and how long, as text that cannot be Markdown."""
    seconds = sum(found.milliseconds.values()) / 1000
    stages = ", ".join(f"{name} {value:.0f} ms" for name, value in found.milliseconds.items())
    lost = len(found.missing)
    left_out = f" {counted(lost, 'image')} could not be read and {agreeing(lost, 'is', 'are')} left out."
    missing = left_out if lost else ""
    missing += "".join(f" {escaped(line[0].upper() + line[1:])}." for line in found.told)
    if not found.hits:
        return f"Nothing found.{missing}"
    verdict = f"**{escaped(found.verdict[0].upper() + found.verdict[1:])}.** " if found.verdict else ""
    return f"{verdict}{counted(len(found.hits), 'image')} in {seconds:.2f} s ({stages}).{missing}"


def problem(error: UserError) -> str:
    """A message in bold."""
    return f"**{escaped(str(error))}**"


def escaped(text: str) -> str:
    """Text that cannot be Markdown or HTML."""
    return "".join(f"\\{sign}" if sign in "*_`[]()#\\~|" else sign for sign in html.escape(text))


def reasons_as_html(found: Explanation) -> str:
    """A bar for each attribute of the sentence."""
    rows = "".join(reason_as_html(*bar) for bar in bars_of(found))
    none = "" if found.attributes else "<p>The sentence names no attribute such as “red coat”.</p>"
    return f"<p>{html.escape(found.path)}</p><table>{rows}</table>{none}"


def bars_of(found: Explanation) -> list[tuple[str, float, str]]:
    """Names, lengths from 0 to 1, and what is written beside them.

    The probabilities of a match; else the cosine, and what each attribute adds to it, as a share of the greatest.
    """
    if found.match is not None:
        shares = [("the whole sentence", found.match), *((one.words, one.match or 0) for one in found.attributes)]
        return [(name, match, f"{match:.0%}") for name, match in shares]
    added = [(one.words, one.similarity or 0) for one in found.attributes]
    most = max([value for _, value in added] + [1e-12])
    cosine = found.similarity or 0
    return [
        ("the whole sentence", max(cosine, 0), f"cosine {cosine:.2f}"),
        *((name, max(value, 0) / most, f"adds {value:.3f}") for name, value in added),
    ]


def reason_as_html(name: str, share: float, note: str) -> str:
    """A row of the table of reasons."""
    return (
        f"<tr><td style='padding:2px 12px 2px 0'>{html.escape(name)}</td><td style='width:240px;background:#8883'>"
        f"<div style='width:{100 * share:.0f}%;background:#0072b2;height:14px'></div></td>"
        f"<td style='padding-left:8px'>{note}</td></tr>"
    )


def heat_pictures(found: Explanation) -> list[tuple[Image.Image, str]]:
    whole = [(overlay(found.image, found.heat), "all words")]
    return whole + [(overlay(found.image, one.heat), one.words) for one in found.attributes]
