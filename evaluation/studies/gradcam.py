"""Where each attribute of a caption looks in its image (Grad-CAM), by one model or by two.

A map is attention to the patches times the gradient of a score by that attention, negative products left out: of a
fusion encoder its match logit (`models.gradcam`), of CLIP, IRRA and RDE what words add to the cosine that ranks
(`models.clip.similarity_maps`), or, of an IRRA with its cross-modal encoder, the logits of words that are masked
(`models.clip.masked_word_maps`). Captions are shown with the image that they were written for, every map up to its own
maximum: heat says where, not how much.

Letters: C attributes of a caption, L patches.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from dataset.captions import clean_caption
from dataset.evaluation_split import EvaluationSplit
from dataset.images import load_image
from evaluation.drawing.pictures import save_picture
from evaluation.studies.caption_maps import (
    CaptionMaps,
    MapChoice,
    add_map_options,
    choose_maps,
    facts_of,
    maps_on_images,
    own_image_maps,
    peak_of,
)
from evaluation.studies.gradcam_sheet import Grid, draw_sheet
from evaluation.studies.shown_captions import MIN_ATTRIBUTES, ShownCaption, choose_captions, own_pair
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table
from evaluation.trained import TrainedModel
from utils.errors import CommandParser, UserError

MAX_QUERIES = 50


def add_options(parser: CommandParser) -> None:
    add_map_options(parser)
    drawn = f"captions drawn by seed among those with {MIN_ATTRIBUTES} attributes or more (%(default)s)"
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
    if not 1 <= options.queries <= MAX_QUERIES or len(options.captions or []) > MAX_QUERIES:
        raise UserError(f"--queries, --captions: from 1 to {MAX_QUERIES} captions can be shown together")


@model_study(add_options, most=2)
def main(study: ModelStudy) -> None:
    """Take the maps of some captions, and show them over their images."""
    options = study.options
    check(options)
    choices = {name: choose_maps(trained, options) for name, trained in study.models.items()}
    grids = {name: trained.model.grid for name, trained in study.models.items()}
    split = None if options.text is not None else study.model.open_split(options.split)
    if split is None:
        captions = [own_pair(options.text, options.image, study.model)]
    else:
        captions = choose_captions(options, study.model, split, study.folder)
    maps = {
        name: maps_of(trained, split, captions, choices[name], options.words) for name, trained in study.models.items()
    }
    rows, values = tabulate(captions, maps, grids, choices)
    abouts = {name: choice.about for name, choice in choices.items()}
    sheet = draw_sheet(captions, maps, grids, abouts, headings(choices), options.words)
    save_picture(sheet, study.picture)
    study.finish(
        rows,
        markdown_table(printed(rows, choices)),
        **facts_of(choices),
        split=options.split,
        seed=study.seed,
        checkpoints={name: trained.checkpoint for name, trained in study.models.items()},
        maps=values,
    )


def maps_of(
    trained: TrainedModel,
    split: EvaluationSplit | None,
    captions: Sequence[ShownCaption],
    choice: MapChoice,
    with_words: bool,
) -> list[CaptionMaps]:
    """Maps of each caption on its image; split None = a pair of one's own."""
    attributes = [caption.attributes for caption in captions]
    if split is not None:
        numbers = [caption.number for caption in captions if caption.number is not None]
        return list(own_image_maps(trained, split, numbers, attributes, choice, with_words))
    config = trained.config
    image = load_image(captions[0].image, config.image_size, resampling=config.resampling)[None]
    texts = [captions[0].text]
    return maps_on_images(trained, image.to(trained.setting.device), texts, attributes, choice, with_words)


def headings(choices: Mapping[str, MapChoice]) -> list[str]:
    """What all maps of the sheet have in common, or a line for each that models differ in."""
    layers: dict[tuple[str, str], set[int]] = {}
    for one in choices.values():
        layers.setdefault((one.about.attention, one.about.gradient_of), set()).add(one.layer)
    return [
        f"Grad-CAM of {attention}, layer{'s' if len(own) > 1 else ''} {' and '.join(map(str, sorted(own)))}, {score}"
        for (attention, score), own in layers.items()
    ]


# ---- tables ----------------------------------------------------------------------------


def tabulate(
    captions: Sequence[ShownCaption],
    maps: Mapping[str, Sequence[CaptionMaps]],
    grids: Mapping[str, Grid],
    choices: Mapping[str, MapChoice],
) -> tuple[list[Row], list[Row]]:
    """A row for each caption, attribute and model, the whole caption first; and the maps themselves."""
    rows: list[Row] = []
    values: list[Row] = []
    for name, found in maps.items():
        grid, about = grids[name], choices[name].about
        for caption, one in zip(captions, found, strict=True):
            for attribute, grid_map, score in shown_maps(caption, one):
                key = {"model": name, "caption": caption.number, "attribute": attribute}
                scores = {about.column: one.score, about.attribute_column: score}
                rows.append({**key, **scores, **peak_columns(grid_map, grid)})
                values.append({**key, "map": grid_map.reshape(grid).tolist()})
    return rows, values


def peak_columns(grid_map: Tensor, grid: Grid) -> dict[str, int | None]:
    """Where a map [L] has its peak (None: nowhere), and the size of its grid."""
    row, column = peak_of(grid_map, grid) or (None, None)
    return {"peak_row": row, "peak_column": column, "grid_rows": grid[0], "grid_columns": grid[1]}


def shown_maps(caption: ShownCaption, maps: CaptionMaps) -> list[tuple[str, Tensor, float | None]]:
    """Attribute (the whole caption: empty), map [L] and score of the attribute alone, where it was read."""
    own: list[tuple[str, Tensor, float | None]] = [
        (caption.words_of(number), maps.attributes[number], maps.attribute_score[number])
        for number, is_present in enumerate(maps.present)
        if is_present
    ]
    return [("", maps.whole, None), *own]


def printed(rows: Sequence[Row], choices: Mapping[str, MapChoice]) -> list[Row]:
    """Rows for the terminal, with columns for the scores of all models."""
    abouts = {name: choice.about for name, choice in choices.items()}
    columns = {about.column: about.score for about in abouts.values()}
    columns |= {about.attribute_column: about.attribute_score for about in abouts.values()}
    return [
        {
            "model": row["model"],
            "caption": "own" if row["caption"] is None else str(row["caption"]),
            "attribute": row["attribute"] or "(whole caption)",
            **{name: row.get(column) for column, name in columns.items()},
            "peak (row, column)": "nowhere" if row["peak_row"] is None else f"{row['peak_row']}, {row['peak_column']}",
        }
        for row in rows
    ]
