"""Metrics by length of captions and by number of attributes: which of the two finds people?

Longer captions name more attributes, so beside metrics by length and by number of attributes there are metrics by both
at once, and rank correlations of each with average precision with the other one held fast. Every model ranks the split
once. Lengths are words of the cleaned caption, whole; attributes are those within the words that a model reads
(`max_words`).

Letters: C captions, P right images of the caption that has most.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from dataset.captions import clean_caption
from evaluation.drawing.figures import draw_estimates, legend_of_models, new_figure, save_figure, tidy
from evaluation.metrics import METRIC_NAMES, STAGE_NAMES, average_precision
from evaluation.statistics import partial_spearman
from evaluation.studies.comparison import INTERVAL, as_columns, estimates_of, final_stage, lines_of, people_of, rank_by
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table
from utils.errors import CommandParser, UserError

QUANTILES = 5  # bins of length when none are given
DRAWN = ("r1", "mAP")
PROPERTIES = {"length": "words of the caption", "attributes": "attributes of the caption"}

Bins = dict[str, np.ndarray]  # name of a bin -> its captions [C], True = in it
Correlations = Mapping[str, Mapping[str, Mapping[str, float]]]  # model -> name -> mean, low, high


def add_options(parser: CommandParser) -> None:
    about_lengths = f"first length of each bin (default: {QUANTILES} bins of as many captions)"
    about_attributes = "captions with N attributes or more are one bin (%(default)s)"
    parser.add_argument("--length_bins", nargs="+", type=int, metavar="WORDS", help=about_lengths)
    parser.add_argument("--most_attributes", type=int, default=5, metavar="N", help=about_attributes)


def check(options: argparse.Namespace) -> None:
    """Raises UserError for options that do not fit."""
    edges = options.length_bins or [0]
    if edges[0] < 0 or any(low >= high for low, high in pairwise(edges)):
        given = " ".join(map(str, edges))
        raise UserError(f"--length_bins must ascend from 0 or more, such as 0 10 20 30, not {given}")
    if options.most_attributes < 1:
        raise UserError(f"--most_attributes must be 1 or more, not {options.most_attributes}")


@model_study(add_options)
def main(study: ModelStudy) -> None:
    """Rank the split by every model, and compare captions of different lengths and numbers of attributes."""
    check(study.options)
    split, people, max_words = study.split, people_of(study.split), study.model.config.max_words
    lengths = np.array([len(clean_caption(text, None).split()) for text in split.texts])
    attributes = np.array([len(study.attributes[text]) for text in split.texts])
    groups = groups_of(lengths, attributes, study.options)
    ranks = {label: rank_by(model, study.splits[label]) for label, model in study.models.items()}
    rows = [row for label, stages in ranks.items() for row in rows_of(label, stages, groups, people, study.seed)]
    values = {"length": lengths, "attributes": attributes}
    correlations = {
        label: {stage: correlate(values, of_stage, people, study.seed) for stage, of_stage in stages.items()}
        for label, stages in ranks.items()
    }
    grids = {
        label: {stage: grid_of(of_stage, groups, people, study.seed) for stage, of_stage in stages.items()}
        for label, stages in ranks.items()
    }
    stage = final_stage(ranks.values())
    last = [row for row in rows if row["stage"] == stage]
    draw(study.picture, last, groups, f"{STAGE_NAMES[stage]}, {len(split.texts):,} captions, {INTERVAL}")
    of_last = {label: of_stages[stage] for label, of_stages in correlations.items()}
    study.finish(
        rows,
        f"{printed(last)}\n\n{markdown_table(correlation_rows(of_last))}",
        **study.origin(),
        captions=len(lengths),
        max_words=max_words,
        longer_than_max_words=int((lengths > max_words).sum()),
        mean_length=float(lengths.mean()),
        mean_attributes=float(attributes.mean()),
        length_by_attributes=grids,
        spearman_with_average_precision=correlations,
    )


# ---- bins ------------------------------------------------------------------------------


def quantile_edges(values: np.ndarray, bins: int) -> list[int]:
    """First value of each of at most `bins` bins that hold about as many of the whole numbers [C] each."""
    inner = np.quantile(values, np.arange(1, bins) / bins, method="higher")
    return sorted({int(values.min()), *(int(edge) for edge in inner)})


def bins_of(values: np.ndarray, edges: Sequence[int]) -> Bins:
    """values [C] by bins that begin at `edges`, ascending; the last is open. Bins without captions are left out.

    Values below the first edge are a bin of their own.
    """
    lows = [edge for edge in dict.fromkeys([min(int(values.min()), edges[0]), *edges]) if edge <= values.max()]
    bins: Bins = {}
    for low, high in pairwise(lows):
        bins[str(low) if high == low + 1 else f"{low}-{high - 1}"] = (values >= low) & (values < high)
    bins[f"{lows[-1]}+"] = values >= lows[-1]
    return {name: inside for name, inside in bins.items() if inside.any()}


def groups_of(lengths: np.ndarray, attributes: np.ndarray, options: argparse.Namespace) -> dict[str, Bins]:
    """The bins of both properties [C], as the options want them."""
    return {
        "length": bins_of(lengths, options.length_bins or quantile_edges(lengths, QUANTILES)),
        "attributes": bins_of(attributes, range(options.most_attributes + 1)),
    }


# ---- tables ----------------------------------------------------------------------------


def correlate(
    values: Mapping[str, np.ndarray], ranks: Tensor, people: np.ndarray, seed: int
) -> dict[str, dict[str, float]]:
    """Rank correlations of both properties [C] with average precision; ranks [C, P]."""
    return partial_spearman(values, average_precision(ranks).numpy(), people, seed)


def rows_of(
    label: str, stages: Mapping[str, Tensor], groups: Mapping[str, Bins], people: np.ndarray, seed: int
) -> list[Row]:
    """A row for each bin of each property and each stage; ranks [C, P] by stage."""
    return [
        {
            "model": label,
            "by": by,
            "bin": name,
            "captions": int(inside.sum()),
            "stage": stage,
            **as_columns(estimates_of(ranks[inside], people[inside], seed)),
        }
        for by, bins in groups.items()
        for name, inside in bins.items()
        for stage, ranks in stages.items()
    ]


def grid_of(ranks: Tensor, groups: Mapping[str, Bins], people: np.ndarray, seed: int) -> list[Row]:
    """R@1 of the captions [C] in each pair of bins of length and attributes that has any."""
    return [
        {
            "length": length,
            "attributes": attributes,
            "captions": int(inside.sum()),
            **as_columns({"r1": estimates_of(ranks[inside], people[inside], seed)["r1"]}),
        }
        for length, of_length in groups["length"].items()
        for attributes, of_attributes in groups["attributes"].items()
        if (inside := of_length & of_attributes).any()
    ]


def correlation_rows(correlations: Correlations) -> list[Row]:
    """A row for each correlation of each model."""
    return [
        {"model": label, "rank correlation with average precision": name, **found}
        for label, of_model in correlations.items()
        for name, found in of_model.items()
    ]


def printed(rows: Sequence[Row]) -> str:
    """Every bin of one stage."""
    names = {"model": "model", "by": "by", "bin": "bin", "captions": "captions", **METRIC_NAMES}
    return markdown_table([{name: row[key] for key, name in names.items()} for row in rows])


# ---- the diagram -----------------------------------------------------------------------


def draw_counts(axes: Axes, bins: Bins) -> None:
    """How many captions each bin has."""
    counts = [int(inside.sum()) for inside in bins.values()]
    axes.bar_label(axes.bar(range(len(bins)), counts, color="#b8bcc4", width=0.6), padding=2)
    axes.set_ylim(top=max(axes.get_ylim()[1], 1.3 * max(counts)))  # properties share the axis
    axes.set_axisbelow(True)


def draw(path: Path, rows: Sequence[Row], groups: Mapping[str, Bins], title: str) -> None:
    """A column for each property: metrics of the final stage above, counts of captions below."""
    figure, heights = new_figure(10, 8.5, title), [2.0] * len(DRAWN) + [1.0]
    panels = figure.subplots(
        len(heights), len(groups), squeeze=False, sharex="col", sharey="row", height_ratios=heights
    )
    for column, (by, bins) in enumerate(groups.items()):
        of_property = [row for row in rows if row["by"] == by]
        for axes, metric in zip(panels[:-1, column], DRAWN, strict=True):
            draw_estimates(axes, range(len(bins)), lines_of(of_property, metric))
            tidy(axes, "", "", "" if column else f"{METRIC_NAMES[metric]} (%)")
        draw_counts(panels[-1, column], bins)
        tidy(panels[-1, column], "", PROPERTIES[by], "" if column else "captions")
        panels[-1, column].set_xticks(range(len(bins)), list(bins))
    legend_of_models(figure, panels[0, 0])
    save_figure(figure, path)
