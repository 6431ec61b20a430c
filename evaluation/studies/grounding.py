"""Do the maps of attributes lie on their pixels? Pointing game and energy on the synthetic benchmark.

There every caption says which of its characters speak of which attribute, and a mask says which pixels these are. The
map of each mentioned attribute, on the image that the caption was written for, is scaled to the mask's size and scored
(`evaluation.studies.pointing`).

Beside the models stand maps that read no word: `random` (the same everywhere: both measures are the share of the image
that the mask takes), `centre` (a Gaussian in the middle), and, for each model, `other attribute`: the map of another
attribute of the same caption on this one's mask, so that what is gained by reading the right words can be seen.
`mask on the grid` is the mask itself seen through patches: about what a perfect map of so few patches would reach.

Layers differ much in where their words look (`--every_layer`): choose one on the validation split.

Letters: M mentions, L patches.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dataset.evaluation_split import EvaluationSplit
from evaluation.statistics import estimate, paired_p_value
from evaluation.studies.caption_maps import (
    CaptionMaps,
    MapChoice,
    add_map_options,
    choose_maps,
    facts_of,
    own_image_maps,
)
from evaluation.studies.grounding_diagram import draw
from evaluation.studies.mentions import Mentions, read_mentions, spans_of
from evaluation.studies.pointing import MEASURES, Measured, measure, with_other
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table
from evaluation.trained import TrainedModel
from utils.errors import CommandParser, UserError

ALL = "all"

Source = tuple[TrainedModel, MapChoice]


def add_options(parser: CommandParser) -> None:
    add_map_options(parser)
    parser.add_argument("--every_layer", action="store_true", help="measure the maps of every layer, one by one")
    parser.add_argument("--captions", type=int, metavar="N", help="measure on N captions drawn by seed (default: all)")


@model_study(add_options)
def main(study: ModelStudy) -> None:
    """Take the maps of all mentions, and score them on the masks of their attributes."""
    options = study.options
    if options.captions is not None and options.captions < 1:
        raise UserError(f"--captions must be 1 or more, not {options.captions}")
    sources = choose_layers(study.models, options)
    split = study.model.open_split(options.split)
    mentioned = read_mentions(split, draw_captions(len(split.texts), options.captions, study.seed))
    grids = {name: trained.model.grid for name, (trained, _) in sources.items()}
    measured = measure(mentioned, find_maps(sources, split, mentioned), grids)
    if not len(measured.attribute):
        raise UserError(
            f"no attribute that the {options.split} captions mention can be seen and was read: use more"
            " captions (--captions), or a larger max_words"
        )
    people = split.caption_identity[torch.tensor(mentioned.captions)].numpy()[measured.caption]
    rows = tabulate(measured, people, mentioned.names, list(sources), study.seed)
    choices = {name: choice for name, (_, choice) in sources.items()}
    gradient_of = " and ".join(dict.fromkeys(one.about.gradient_of for one in choices.values()))
    draw(rows, list(sources), study.picture, gradient_of)
    study.finish(
        rows,
        f"{markdown_table(printed(rows))}\n\n{explained(measured, rows)}\n",
        **facts_of(choices),
        split=options.split,
        seed=study.seed,
        captions=len(mentioned.captions),
        left_out=measured.left_out,
        zero_maps=measured.nowhere,
        checkpoints={name: one.checkpoint for name, one in study.models.items()},
    )


def choose_layers(models: Mapping[str, TrainedModel], options: argparse.Namespace) -> dict[str, Source]:
    """Whose maps are measured, by name. Raises UserError when a model has none."""
    if options.every_layer and options.layer is not None:
        raise UserError("--every_layer measures all layers, --layer one: give one of them")
    sources = {}
    for name, trained in models.items():
        choice = choose_maps(trained, options)
        if not options.every_layer:
            sources[name] = trained, choice
            continue
        for layer in trained.explainer.map_layers(choice.target):
            label = f"layer {layer}" if len(models) == 1 else f"{name}, layer {layer}"
            sources[label] = trained, replace(choice, layer=layer)
    return sources


def find_maps(
    sources: Mapping[str, Source], split: EvaluationSplit, mentioned: Mentions
) -> dict[str, list[CaptionMaps]]:
    """Maps of all mentions by name, caption by caption."""
    captions = mentioned.captions
    spans = [spans_of(split.texts[index], own) for index, own in zip(captions, mentioned.mentions, strict=True)]
    return {
        name: list(own_image_maps(trained, split, captions, spans, choice, with_words=False))
        for name, (trained, choice) in sources.items()
    }


def draw_captions(count: int, wanted: int | None, seed: int) -> list[int]:
    """The indices of `wanted` of `count` captions, ascending; None = all."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return sorted(np.random.default_rng(seed).permutation(count)[:wanted].tolist())


# ---- tables ----------------------------------------------------------------------------


def tabulate(
    measured: Measured, people: np.ndarray, names: Mapping[int, str], models: Sequence[str], seed: int
) -> list[Row]:
    """A row for each attribute (all of them first) and each kind of map: per cent, intervals, p-values.

    people [M]: the person of each mention. p_first: against the first model; p_other: of a model against the maps of
    other attributes, on mentions that have any.
    """
    present = [value for value in names if (measured.attribute == value).any()]
    chosen = {ALL: np.ones(len(measured.attribute), dtype=bool)}
    chosen |= {names[value]: measured.attribute == value for value in present}
    rows: list[Row] = []
    for attribute, here in chosen.items():
        for name in measured.scores:
            row: dict[str, Any] = {"attribute": attribute, "map": name, "mentions": int(here.sum())}
            for kind in MEASURES:
                values = {other: 100 * one[kind][here] for other, one in measured.scores.items()}
                row |= estimate_row(kind, values[name], people[here], seed)
                if name in models[1:]:
                    row[f"{kind}_p_first"] = paired_p_value(values[name], values[models[0]], people[here], seed)
                if name in models:
                    other = values[with_other(name)]
                    row[f"{kind}_p_other"] = p_value_where_both(values[name], other, people[here], seed)
            rows.append(row)
    return rows


def estimate_row(kind: str, values: np.ndarray, groups: np.ndarray, seed: int) -> dict[str, float]:
    """Mean and interval of the values that are numbers."""
    there = ~np.isnan(values)
    return estimate(values[there], groups[there], seed).as_row(kind)


def p_value_where_both(first: np.ndarray, second: np.ndarray, groups: np.ndarray, seed: int) -> float:
    """`paired_p_value` of the pairs that are numbers; NaN without any."""
    there = ~np.isnan(first) & ~np.isnan(second)
    return paired_p_value(first[there], second[there], groups[there], seed) if there.any() else float("nan")


def printed(rows: Sequence[Row]) -> list[Row]:
    """For the terminal: a line for each kind of map and measure, a column for each attribute."""
    maps = list(dict.fromkeys(row["map"] for row in rows))
    return [
        {"map": name, "measure": kind, **{row["attribute"]: row[kind] for row in rows if row["map"] == name}}
        for kind in MEASURES
        for name in maps
    ]


def explained(measured: Measured, rows: Sequence[Row]) -> str:
    """What the table does not say: counts, and p-values over all attributes."""
    lines = [
        f"{len(measured.attribute)} mentions, per cent; left out: {measured.left_out['not visible']} not visible,"
        f" {measured.left_out['cut off']} cut off"
    ]
    for row in rows:
        if row["attribute"] == ALL and row["map"] in measured.nowhere:
            against = {"p_other": "maps of other attributes", "p_first": "the first one"}
            tests = [
                f"against {what} p = " + " / ".join(f"{row[f'{kind}_{key}']:.4f}" for kind in MEASURES)
                for key, what in against.items()
                if f"{MEASURES[0]}_{key}" in row
            ]
            zero = measured.nowhere[row["map"]]
            lines.append(f"{row['map']}: {'; '.join(tests)} (pointing / energy); {zero} maps are zero everywhere")
    return "\n".join(lines)
