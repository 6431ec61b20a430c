"""Where each attribute of a caption looks in its image: Grad-CAM of cross-attention, by one or two models.

The map of a word is its attention to the patches times the gradient of the match logit by that attention, negative
products left out (`models.gradcam`); that of an attribute is the mean of its words. Captions are shown with the image
that they were written for, every map up to its own maximum: heat says where, not how much.

Letters: C attributes of a caption, L patches, H and W pixels.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from dataset.attributes import Attribute, cached_attributes, parse_attributes
from dataset.captions import clean_caption, clean_caption_with_offsets
from dataset.decoding import Unusable, read_content
from dataset.evaluation_split import EvaluationSplit, blocks_of
from dataset.images import image_from, load_image
from evaluation.drawing.panels import (
    Cell,
    Colour,
    coloured_text,
    draw_cell,
    flow,
    lines_needed,
    overlay,
    stack,
    text_line,
)
from evaluation.drawing.pictures import GREY, INK, PAPER, clean, font, load_picture, text_width
from evaluation.studies.heatmaps import (
    CaptionMaps,
    add_map_options,
    chosen_layer,
    look,
    look_at_own_images,
    peak_of,
    upsample,
)
from evaluation.studies.study import (
    markdown_table,
    open_models,
    open_output,
    study_parser,
    tell,
    write_table,
)
from evaluation.trained import TrainedModel
from utils.errors import UserError
from utils.files import atomic_write

logger = logging.getLogger(__name__)

NAME = "gradcam"
FEWEST_ATTRIBUTES = 2  # of a caption that is drawn by seed: one attribute has nothing to be told from
PARSED_AT_ONCE = 64
MOST_QUERIES = 50

WIDTH, MARGIN, GAP = 1180, 16, 12
PICTURE, WORD_PICTURE = (122, 244), (86, 172)  # most width and height of a picture
TITLE, TEXT, SMALL = 24, 22, 18  # letters
TITLE_LINES = 4
COLOURS: tuple[Colour, ...] = tuple(
    ImageColor.getrgb(name)
    for name in ("#0072b2", "#d55e00", "#00805c", "#b0408a", "#6a4fc0", "#9a7400", "#008ba3", "#a0522d")
)


@dataclass(frozen=True)
class Query:
    """A caption, the image it is shown on, and its attributes in characters of the cleaned caption.

    number: its place in the split, counted from 0; None = a pair of one's own.
    """

    number: int | None
    text: str
    image: Path
    attributes: list[Attribute]

    def words_of(self, place: int) -> str:
        """The words of an attribute."""
        cleaned = clean_caption(self.text, None)
        return " ".join(cleaned[start:end] for start, end in self.attributes[place])


def build_parser() -> argparse.ArgumentParser:
    parser = study_parser(NAME, __doc__, most=2)
    add_map_options(parser)
    parser.add_argument(
        "--queries",
        type=int,
        default=4,
        metavar="N",
        help=f"captions drawn by seed among those with {FEWEST_ATTRIBUTES} attributes or more (%(default)s)",
    )
    parser.add_argument(
        "--captions",
        type=int,
        nargs="+",
        metavar="NUMBER",
        help="these captions instead: their places in the split, counted from 0",
    )
    parser.add_argument("--image", type=Path, metavar="FILE", help="an image of one's own, with --text")
    parser.add_argument("--text", help="a caption of one's own, with --image")
    parser.add_argument("--words", action="store_true", help="show a map for every word too")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Raises UserError for bad input."""
    options = build_parser().parse_args(arguments)
    check_options(options)
    models = open_models(options)
    first = next(iter(models.values()))
    folder = open_output(options, first.checkpoint.parent)
    layers = {name: chosen_layer(trained, options) for name, trained in models.items()}
    split = None if options.text is not None else first.open_split(options.split)
    queries = [own_query(options, first)] if split is None else choose_queries(options, first, split, folder)
    maps = {name: maps_of(trained, split, queries, layers[name], options.target) for name, trained in models.items()}
    rows, grids = tabulate(queries, maps, models)
    sheet = draw_sheet(queries, maps, models, heading(options, layers), options.words)
    with atomic_write(folder / f"{NAME}.png") as temporary:
        sheet.save(temporary, format="PNG")
    write_table(
        folder,
        NAME,
        rows,
        target=options.target,
        layers=layers,
        split=options.split,
        seed=options.seed,
        checkpoints={name: trained.checkpoint for name, trained in models.items()},
        maps=grids,
    )
    tell(folder, NAME, markdown_table([printed(row) for row in rows]))


def check_options(options: argparse.Namespace) -> None:
    """Raises UserError when options contradict each other."""
    if (options.image is None) != (options.text is None):
        raise UserError("--image and --text belong together: give both, or neither for captions of the split")
    if options.text is not None and options.captions:
        raise UserError("--captions names captions of the split, --text one of your own: give one of them")
    if options.text is not None and not clean_caption(options.text, None):
        raise UserError("--text holds no word; write what the image shows")
    if not 1 <= options.queries <= MOST_QUERIES or len(options.captions or []) > MOST_QUERIES:
        raise UserError(f"--queries, --captions: from 1 to {MOST_QUERIES} captions can be shown together")


# ---- which captions --------------------------------------------------------------------


def own_query(options: argparse.Namespace, trained: TrainedModel) -> Query:
    """The pair that --image and --text give. Raises UserError when the image is none."""
    try:
        image_from(read_content(options.image), trained.config.image_size)
    except Unusable as fault:
        raise UserError(f"--image {options.image} {fault}; name another one") from None
    attributes = parse_attributes([options.text], trained.config.max_words)[0]
    return Query(None, options.text, options.image, attributes)


def choose_queries(
    options: argparse.Namespace, trained: TrainedModel, split: EvaluationSplit, folder: Path
) -> list[Query]:
    """The captions that were asked for by number, or some drawn by seed, in the order of their numbers.

    Raises UserError for a number that there is not, or when no caption has attributes enough.
    """
    count = len(split.texts)
    wrong = [number for number in options.captions or [] if not 0 <= number < count]
    if wrong:
        raise UserError(f"--captions {wrong[0]}: the {options.split} split has captions 0 to {count - 1}")
    if options.captions:
        numbers = list(dict.fromkeys(options.captions))
        return as_queries(numbers, trained, split, options.split, folder)
    order, found = np.random.default_rng(options.seed).permutation(count).tolist(), []
    for portion in blocks_of(count, PARSED_AT_ONCE):
        parsed = as_queries([order[row] for row in portion], trained, split, options.split, folder)
        found += [query for query in parsed if len(query.attributes) >= FEWEST_ATTRIBUTES]
        if len(found) >= options.queries:
            break
    if not found:
        raise UserError(
            f"no caption of the {options.split} split has {FEWEST_ATTRIBUTES} attributes; choose some with"
            " --captions NUMBER"
        )
    if len(found) < options.queries:
        logger.warning("only %d captions have %d attributes or more", len(found), FEWEST_ATTRIBUTES)
    return sorted(found[: options.queries], key=lambda query: query.number)


def as_queries(
    numbers: Sequence[int], trained: TrainedModel, split: EvaluationSplit, name: str, folder: Path
) -> list[Query]:
    """Captions of a split with their attributes, which are kept beside its annotations once they are found."""
    beside = Path(getattr(trained.config, f"{name}_file"))
    texts = [split.texts[number] for number in numbers]
    known = cached_attributes(texts, beside, folder, trained.config.max_words)
    images = [split.image_root / split.images[int(split.caption_image[number])] for number in numbers]
    return [Query(*parts, known[parts[1]]) for parts in zip(numbers, texts, images, strict=True)]


def maps_of(
    trained: TrainedModel, split: EvaluationSplit | None, queries: Sequence[Query], layer: int, target: str
) -> list[CaptionMaps]:
    """Maps of each caption on its image; split None = a pair of one's own."""
    attributes = [query.attributes for query in queries]
    if split is not None:
        numbers = [query.number for query in queries]
        return list(look_at_own_images(trained, split, numbers, attributes, layer, target))
    image = load_image(queries[0].image, trained.setting.image_size)[None].to(trained.setting.device)
    return look(trained, image, [queries[0].text], attributes, layer, target)


# ---- tables ----------------------------------------------------------------------------


def tabulate(
    queries: Sequence[Query], maps: Mapping[str, Sequence[CaptionMaps]], models: Mapping[str, TrainedModel]
) -> tuple[list[dict], list[dict]]:
    """A row for each caption, attribute and model, the whole caption first; and the maps themselves."""
    rows, grids = [], []
    for name, found in maps.items():
        grid = models[name].model.grid
        for query, one in zip(queries, found, strict=True):
            for attribute, grid_map, logit in shown_maps(query, one):
                peak = peak_of(grid_map, grid)
                key = {"model": name, "caption": query.number, "attribute": attribute}
                places = (
                    {"peak_row": None, "peak_column": None}
                    if peak is None
                    else dict(zip(("peak_row", "peak_column"), peak, strict=True))
                )
                rows.append(
                    {
                        **key,
                        "match_logit": one.match,
                        "attribute_logit": logit,
                        **places,
                        "grid_rows": grid[0],
                        "grid_columns": grid[1],
                    }
                )
                grids.append({**key, "map": grid_map.reshape(grid).tolist()})
    return rows, grids


def shown_maps(query: Query, maps: CaptionMaps) -> list[tuple[str, Tensor, float | None]]:
    """Attribute (the whole caption: empty), map [L] and match logit of the attribute alone, where it was read."""
    own = [
        (query.words_of(place), maps.attributes[place], maps.attribute_match[place])
        for place in range(len(query.attributes))
        if maps.present[place]
    ]
    return [("", maps.of_caption(), None), *own]


def printed(row: Mapping) -> dict:
    """A row for the terminal."""
    peak = "nowhere" if row["peak_row"] is None else f"{row['peak_row']}, {row['peak_column']}"
    return {
        "model": row["model"],
        "caption": "own" if row["caption"] is None else str(row["caption"]),
        "attribute": row["attribute"] or "(whole caption)",
        "match logit": row["match_logit"],
        "attribute's logit": row["attribute_logit"],
        "peak (row, column)": peak,
    }


# ---- the picture -----------------------------------------------------------------------


def heading(options: argparse.Namespace, layers: Mapping[str, int]) -> str:
    """What all maps of the sheet have in common."""
    numbers = sorted(set(layers.values()))
    layer = f"layer{'s' if len(numbers) > 1 else ''} {' and '.join(map(str, numbers))}"
    logit = "match logit" if options.target == "match" else "match logit of the attribute"
    return f"Grad-CAM of cross-attention, {layer}, {logit}"


def draw_sheet(
    queries: Sequence[Query],
    maps: Mapping[str, Sequence[CaptionMaps]],
    models: Mapping[str, TrainedModel],
    title: str,
    words: bool,
) -> Image.Image:
    """A block for each caption: its text, and for each model a line of overlays."""
    width = WIDTH - 2 * MARGIN
    blocks = [draw_heading(title, width)]
    for number, query in enumerate(queries):
        parts = [draw_caption(query, width)]
        for name, found in maps.items():
            one, grid = found[number], models[name].model.grid
            parts.append(text_line(f"{name}: match logit {one.match:.2f}", SMALL, width, GREY))
            parts.append(flow(draw_attributes(query, one, grid), width, GAP))
            if words:
                parts.append(flow(draw_words(query, one, grid), width, GAP))
        blocks.append(stack(parts, 8))
    return stack(blocks, 34, MARGIN)


def draw_heading(title: str, width: int) -> Image.Image:
    """The title, and a scale from no heat to the most, on a line of its own where both do not fit on one."""
    scale = overlay(Image.new("RGB", (150, 18), (128, 128, 128)), torch.linspace(0, 1, 150).expand(18, 150))
    legend = Image.new("RGB", (430, TITLE + 8), PAPER)
    draw = ImageDraw.Draw(legend)
    draw.text((0, 5), "nothing", fill=INK, font=font(SMALL))
    legend.paste(scale, (82, 7))
    draw.text((240, 5), "the map's maximum", fill=INK, font=font(SMALL))
    return flow([text_line(title, TITLE, int(text_width(clean(title), TITLE)) + 2), legend], width, GAP)


def draw_caption(query: Query, width: int) -> Image.Image:
    """The caption as written, the words of each attribute in its colour."""
    text = query.text if query.number is None else f"{query.number}:  {query.text}"
    offset = len(text) - len(query.text)
    colours = [GREY] * offset + character_colours(query)
    return coloured_text(text, colours, TEXT, width)


def character_colours(query: Query) -> list[Colour]:
    """The colour of each character of the caption as written."""
    colours = [INK] * len(query.text)
    _, origins = clean_caption_with_offsets(query.text, None)
    for place, spans in enumerate(query.attributes):
        for start, end in spans:
            for character in range(origins[start], origins[end - 1] + 1):
                colours[character] = colour_of(place)
    return colours


def colour_of(attribute: int) -> Colour:
    return COLOURS[attribute % len(COLOURS)]


def draw_attributes(query: Query, maps: CaptionMaps, grid: tuple[int, int]) -> list[Image.Image]:
    """The image, the mean of all words, and each attribute that the model read."""
    picture = read_picture(query.image, PICTURE)
    cells = [Cell(picture, "image"), Cell(heated(picture, maps.of_caption(), grid), "all words")]
    for place in range(len(query.attributes)):
        if maps.present[place]:
            shown = heated(picture, maps.attributes[place], grid)
            note = f"{maps.attribute_match[place]:.2f}"
            cells.append(Cell(shown, query.words_of(place), f"logit {note}", colour_of(place)))
    lines = lines_needed([cell.title for cell in cells], PICTURE, SMALL, TITLE_LINES)
    return [draw_cell(cell, PICTURE, SMALL, lines) for cell in cells]


def draw_words(query: Query, maps: CaptionMaps, grid: tuple[int, int]) -> list[Image.Image]:
    """A small overlay for every word, word pieces joined."""
    picture = read_picture(query.image, WORD_PICTURE)
    cleaned = clean_caption(query.text, None)
    owners = {
        character: place
        for place, spans in enumerate(query.attributes)
        for start, end in spans
        for character in range(start, end)
    }
    return [
        draw_cell(
            Cell(
                heated(picture, word_map, grid),
                cleaned[start:end],
                colour=colour_of(owners[start]) if start in owners else None,
            ),
            WORD_PICTURE,
            SMALL,
            title_lines=1,
        )
        for (start, end), word_map in join_pieces(cleaned, maps.offsets, maps.words)
    ]


def join_pieces(cleaned: str, offsets: Sequence[tuple[int, int]], maps: Tensor) -> list[tuple[tuple[int, int], Tensor]]:
    """The characters of each word of a cleaned caption that was read, and the mean map [L] of its pieces [T, L]."""
    words, start = [], 0
    for word in cleaned.split(" "):
        end = start + len(word)
        pieces = [row for row, (first, last) in enumerate(offsets) if start <= first < last <= end]
        if pieces:
            words.append(((start, end), maps[pieces].mean(0)))
        start = end + 1
    return words


def read_picture(path: Path, box: tuple[int, int]) -> Image.Image:
    """An image that the model has read already, in its own shape. Raises UserError when it is gone since."""
    picture = load_picture(path, box)
    if picture is None:
        raise UserError(f"image {path} cannot be read any more; run the command again")
    return picture


def heated(picture: Image.Image, grid_map: Tensor, grid: tuple[int, int]) -> Image.Image:
    """A map [L] over the picture that it is of."""
    return overlay(picture, upsample(grid_map[None], grid, (picture.height, picture.width))[0])
