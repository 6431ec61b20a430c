"""Where each attribute of a caption looks in its image (Grad-CAM), by one model or by two.

The map of a word is its attention to the patches times the gradient of the match logit by that attention, negative
products left out (`models.gradcam`); that of an attribute is the mean of its words. Captions are shown with the image
that they were written for, every map up to its own maximum: heat says where, not how much.

Letters: C attributes of a caption, L patches.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dataset.captions import clean_caption
from dataset.evaluation_split import EvaluationSplit
from dataset.images import load_image
from evaluation.drawing.pictures import save_picture
from evaluation.studies.caption_maps import (
    CaptionMaps,
    add_map_options,
    chosen_layer,
    maps_on_images,
    own_image_maps,
    peak_of,
)
from evaluation.studies.gradcam_sheet import Grid, draw_sheet
from evaluation.studies.shown_captions import FEWEST_ATTRIBUTES, ShownCaption, choose_captions, own_pair
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table
from evaluation.trained import TrainedModel
from utils.errors import CommandParser, UserError

MOST_QUERIES = 50


def add_options(parser: CommandParser) -> None:
    add_map_options(parser)
    drawn = f"captions drawn by seed among those with {FEWEST_ATTRIBUTES} attributes or more (%(default)s)"
    chosen = "these captions instead: their indices in the split, counted from 0"
    parser.add_argument("--queries", type=int, default=4, metavar="N", help=drawn)
    parser.add_argument("--captions", type=int, nargs="+", metavar="NUMBER", help=chosen)
    parser.add_argument("--image", type=Path, metavar="FILE", help="an image of one's own, with --text")
    parser.add_argument("--text", help="a caption of one's own, with --image")
    parser.add_argument("--words", action="store_true", help="show a map for every word too")


def check(options: argparse.Namespace) -> None:
    """Raises UserError when options contradict each other."""
    if (options.image is None) != (options.text is None):
        raise UserError("--image and --text belong together: give both, or neither for captions of the split")
    if options.text is not None and options.captions:
        raise UserError("--captions names captions of the split, --text one of your own: give one of them")
    if options.text is not None and not clean_caption(options.text, None):
        raise UserError("--text holds no word; write what the image shows")
    if not 1 <= options.queries <= MOST_QUERIES or len(options.captions or []) > MOST_QUERIES:
        raise UserError(f"--queries, --captions: from 1 to {MOST_QUERIES} captions can be shown together")


@model_study(add_options, most=2)
def main(study: ModelStudy) -> None:
    """Take the maps of some captions, and show them over their images."""
    options = study.options
    check(options)
    layers = {name: chosen_layer(trained, options) for name, trained in study.models.items()}
    grids = {name: trained.model.grid for name, trained in study.models.items()}
    split = None if options.text is not None else study.model.open_split(options.split)
    if split is None:
        captions = [own_pair(options.text, options.image, study.model)]
    else:
        captions = choose_captions(options, study.model, split, study.folder)
    maps = {
        name: maps_of(trained, split, captions, layers[name], options.target) for name, trained in study.models.items()
    }
    rows, values = tabulate(captions, maps, grids)
    sheet = draw_sheet(captions, maps, grids, heading(options.target, layers), options.words)
    save_picture(sheet, study.picture)
    study.finish(
        rows,
        markdown_table([printed(row) for row in rows]),
        target=options.target,
        layers=layers,
        split=options.split,
        seed=study.seed,
        checkpoints={name: trained.checkpoint for name, trained in study.models.items()},
        maps=values,
    )


def maps_of(
    trained: TrainedModel, split: EvaluationSplit | None, captions: Sequence[ShownCaption], layer: int, target: str
) -> list[CaptionMaps]:
    """Maps of each caption on its image; split None = a pair of one's own."""
    attributes = [caption.attributes for caption in captions]
    if split is not None:
        numbers = [caption.number for caption in captions if caption.number is not None]
        return list(own_image_maps(trained, split, numbers, attributes, layer, target))
    image = load_image(captions[0].image, trained.setting.image_size)[None].to(trained.setting.device)
    return maps_on_images(trained, image, [captions[0].text], attributes, layer, target)


def heading(target: str, layers: Mapping[str, int]) -> str:
    """What all maps of the sheet have in common."""
    numbers = sorted(set(layers.values()))
    layer = f"layer{'s' if len(numbers) > 1 else ''} {' and '.join(map(str, numbers))}"
    logit = "match logit" if target == "match" else "match logit of the attribute"
    return f"Grad-CAM of cross-attention, {layer}, {logit}"


# ---- tables ----------------------------------------------------------------------------


def tabulate(
    captions: Sequence[ShownCaption], maps: Mapping[str, Sequence[CaptionMaps]], grids: Mapping[str, Grid]
) -> tuple[list[Row], list[Row]]:
    """A row for each caption, attribute and model, the whole caption first; and the maps themselves."""
    rows: list[Row] = []
    values: list[Row] = []
    for name, found in maps.items():
        grid = grids[name]
        for caption, one in zip(captions, found, strict=True):
            for attribute, grid_map, logit in shown_maps(caption, one):
                key = {"model": name, "caption": caption.number, "attribute": attribute}
                logits = {"match_logit": one.match, "attribute_logit": logit}
                rows.append({**key, **logits, **peak_columns(grid_map, grid)})
                values.append({**key, "map": grid_map.reshape(grid).tolist()})
    return rows, values


def peak_columns(grid_map: Tensor, grid: Grid) -> dict[str, int | None]:
    """Where a map [L] has its peak (None: nowhere), and the size of its grid."""
    row, column = peak_of(grid_map, grid) or (None, None)
    return {"peak_row": row, "peak_column": column, "grid_rows": grid[0], "grid_columns": grid[1]}


def shown_maps(caption: ShownCaption, maps: CaptionMaps) -> list[tuple[str, Tensor, float | None]]:
    """Attribute (the whole caption: empty), map [L] and match logit of the attribute alone, where it was read."""
    own: list[tuple[str, Tensor, float | None]] = [
        (caption.words_of(number), maps.attributes[number], maps.attribute_match[number])
        for number, is_present in enumerate(maps.present)
        if is_present
    ]
    return [("", maps.of_caption(), None), *own]


def printed(row: Row) -> dict[str, Any]:
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
