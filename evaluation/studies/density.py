"""Measures retrieval against the length of captions and the number of their attributes.

Do captions find people because they are long, or because they name more attributes? Longer captions do both, so beside
metrics by length and by number of attributes there are metrics by both at once, and rank correlations of each with
average precision with the other one held fast. Every model ranks the split once. Lengths are words of the cleaned
caption, whole; attributes are those within the words that a model reads (`max_words`).

Letters: C captions, P right images of the caption that has most, G people, R resamples, V values correlated.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from dataset.captions import clean_caption
from evaluation.drawing.figures import draw_estimates, new_figure, save_figure, tidy
from evaluation.metrics import METRIC_NAMES, STAGE_NAMES, average_precision
from evaluation.statistics import LEVEL, RESAMPLES, Estimate
from evaluation.studies.comparison import (
    INTERVAL,
    as_columns,
    estimates_of,
    final_stage,
    open_attributes,
    open_same_split,
    people_of,
    rank_by,
)
from evaluation.studies.study import (
    Row,
    labels_of,
    markdown_table,
    open_models,
    open_output,
    study_parser,
    tell,
    write_table,
)
from utils.errors import UserError

NAME = "density"
QUANTILES = 5  # bins of length when none are given
DRAWN = ("r1", "mAP")
PROPERTIES = {"length": "words of the caption", "attributes": "attributes of the caption"}

Bins = dict[str, np.ndarray]  # name of a bin -> its captions [C], True = in it


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Raises UserError for options that do not fit."""
    parser = study_parser(NAME, __doc__, most=None)
    parser.add_argument(
        "--length_bins",
        nargs="+",
        type=int,
        metavar="WORDS",
        help=f"first length of each bin (default: {QUANTILES} bins of as many captions)",
    )
    parser.add_argument(
        "--most_attributes",
        type=int,
        default=5,
        metavar="N",
        help="captions with N attributes or more are one bin (%(default)s)",
    )
    options = parser.parse_args(arguments)
    labels_of(options)
    edges = options.length_bins or [0]
    if edges[0] < 0 or any(low >= high for low, high in pairwise(edges)):
        given = " ".join(map(str, edges))
        raise UserError(f"--length_bins must ascend from 0 or more, such as 0 10 20 30, not {given}")
    if options.most_attributes < 1:
        raise UserError(f"--most_attributes must be 1 or more, not {options.most_attributes}")
    return options


# ---- bins ----


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
    for low, high in pairwise([*lows, None]):
        inside = (values >= low) & (values < high) if high is not None else values >= low
        name = f"{low}+" if high is None else str(low) if high == low + 1 else f"{low}-{high - 1}"
        if inside.any():
            bins[name] = inside
    return bins


def groups_of(lengths: np.ndarray, attributes: np.ndarray, options: argparse.Namespace) -> dict[str, Bins]:
    """The bins of both properties [C], as the options want them."""
    return {
        "length": bins_of(lengths, options.length_bins or quantile_edges(lengths, QUANTILES)),
        "attributes": bins_of(attributes, range(options.most_attributes + 1)),
    }


# ---- correlation ----


def rank_of(values: np.ndarray) -> np.ndarray:
    """values [C] -> their ranks from 1 on; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[place]


def correlations_of(moments: np.ndarray) -> np.ndarray:
    """Sums of products [..., V, V], the last value being 1 for every caption -> correlations [..., V - 1, V - 1].

    NaN where a value does not vary.
    """
    means = moments[..., :-1, -1:] / moments[..., -1:, -1:]
    covariance = moments[..., :-1, :-1] / moments[..., -1:, -1:] - means @ np.swapaxes(means, -1, -2)
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)
    spread = np.sqrt(np.where(variance > 1e-9, variance, np.nan))
    return covariance / (spread[..., :, None] * spread[..., None, :])


def held_fast(result: np.ndarray, other: np.ndarray, between: np.ndarray) -> np.ndarray:
    """Correlation of a value with a result while another value is held fast (partial correlation), [...] each.

    result: of the value with the result; other: of the other one with it; between: of both values. NaN where the
    other value leaves nothing to explain.
    """
    left = (1 - other**2) * (1 - between**2)
    return (result - other * between) / np.sqrt(np.where(left > 1e-9, left, np.nan))


def all_correlations(moments: np.ndarray) -> dict[str, np.ndarray]:
    """Sums of products [..., 4, 4] of length, attributes, result and 1 -> correlations by name [...]."""
    found = correlations_of(moments)
    between, length, attributes = found[..., 0, 1], found[..., 0, 2], found[..., 1, 2]
    return {
        "length": length,
        "attributes": attributes,
        "length, attributes held fast": held_fast(length, attributes, between),
        "attributes, length held fast": held_fast(attributes, length, between),
        "between length and attributes": between,
    }


def spearman(
    lengths: np.ndarray, attributes: np.ndarray, result: np.ndarray, people: np.ndarray, seed: int
) -> dict[str, dict[str, float]]:
    """Rank correlations of both properties [C] with a result [C], alone and with the other one held fast.

    Intervals are percentiles over resampled people; ranks stay those among all captions.
    """
    # from the middle rank on: sums of squares of small numbers keep more digits
    ranks = np.stack([rank_of(values) - (len(values) + 1) / 2 for values in (lengths, attributes, result)], axis=1)
    values = np.concatenate([ranks, np.ones((len(ranks), 1))], axis=1)  # [C, 4]
    _, group = np.unique(people, return_inverse=True)
    moments = np.zeros((group.max() + 1, 4, 4))
    np.add.at(moments, group, values[:, :, None] * values[:, None, :])
    drawn = np.random.default_rng(seed).multinomial(len(moments), np.full(len(moments), 1 / len(moments)), RESAMPLES)
    resampled = all_correlations(np.tensordot(drawn, moments, axes=1))  # by name [R]
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return {
        name: dict(zip(("mean", "low", "high"), map(float, (value, *np.quantile(resampled[name], ends))), strict=True))
        for name, value in all_correlations(moments.sum(0)).items()
    }


def all_spearman(
    ranks: Mapping[str, Mapping[str, Tensor]],
    lengths: np.ndarray,
    attributes: np.ndarray,
    people: np.ndarray,
    seed: int,
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """`spearman` with average precision by model and stage; ranks [C, P] by both."""
    return {
        label: {
            stage: spearman(lengths, attributes, average_precision(of_stage).numpy(), people, seed)
            for stage, of_stage in stages.items()
        }
        for label, stages in ranks.items()
    }


# ---- tables ----


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


def correlation_rows(correlations: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Row]:
    """A row for each correlation of each model."""
    return [
        {"model": label, "rank correlation with average precision": name, **found}
        for label, of_model in correlations.items()
        for name, found in of_model.items()
    ]


def printed(rows: Sequence[Row]) -> str:
    """Every bin of one stage."""
    named = [("model", "model"), ("by", "by"), ("bin", "bin"), ("captions", "captions"), *METRIC_NAMES.items()]
    return markdown_table([{name: row[key] for key, name in named} for row in rows])


# ---- drawing ----


def lines_of(rows: Sequence[Row], by: str, metric: str) -> dict[str, list[Estimate]]:
    """model -> the estimates of a metric in the bins of a property; rows are those of one stage."""
    lines: dict[str, list[Estimate]] = {}
    for row in rows:
        if row["by"] == by:
            found = Estimate(row[metric], row[f"{metric}_low"], row[f"{metric}_high"], row["captions"])
            lines.setdefault(row["model"], []).append(found)
    return lines


def draw_counts(axes: Axes, bins: Bins) -> None:
    """How many captions each bin has."""
    counts = [int(inside.sum()) for inside in bins.values()]
    axes.bar_label(axes.bar(range(len(bins)), counts, color="#b8bcc4", width=0.6), padding=2)
    axes.set_ylim(top=max(axes.get_ylim()[1], 1.3 * max(counts)))  # properties share the axis
    axes.set_axisbelow(True)


def draw(path: Path, rows: Sequence[Row], groups: Mapping[str, Bins], title: str) -> None:
    """A column for each property: metrics of the final stage above, counts of captions below."""
    figure = new_figure(10, 8.5, title)
    panels = figure.subplots(
        len(DRAWN) + 1,
        len(groups),
        sharex="col",
        sharey="row",
        squeeze=False,
        height_ratios=[2.0] * len(DRAWN) + [1.0],
    )
    for column, (by, bins) in enumerate(groups.items()):
        for axes, metric in zip(panels[:, column], DRAWN, strict=False):
            draw_estimates(axes, range(len(bins)), lines_of(rows, by, metric))
            tidy(axes, "", "", "" if column else f"{METRIC_NAMES[metric]} (%)")
        draw_counts(panels[-1, column], bins)
        tidy(panels[-1, column], "", PROPERTIES[by], "" if column else "captions")
        panels[-1, column].set_xticks(range(len(bins)), list(bins))
    models = panels[0, 0].get_legend_handles_labels()
    if len(models[1]) > 1:
        figure.legend(*models, loc="outside lower center", ncols=min(4, len(models[1])), frameon=False)
    save_figure(figure, path)


# ---- the command ----


def main(arguments: list[str] | None = None) -> None:
    """The command. Raises UserError when options, a checkpoint or the data are wrong."""
    options = parse_options(arguments)
    folder = open_output(options, options.checkpoint[0].parent)
    models = open_models(options)
    splits = open_same_split(models, options.split)
    reader, split = next(iter(models.values())), next(iter(splits.values()))
    people, found = people_of(split), open_attributes(reader, split, options.split, folder)
    lengths = np.array([len(clean_caption(text, None).split()) for text in split.texts])
    attributes = np.array([len(found[text]) for text in split.texts])
    groups = groups_of(lengths, attributes, options)
    ranks = {label: rank_by(model, splits[label]) for label, model in models.items()}
    rows = [row for label, stages in ranks.items() for row in rows_of(label, stages, groups, people, options.seed)]
    correlations = all_spearman(ranks, lengths, attributes, people, options.seed)
    stage = final_stage(ranks.values())
    last = [row for row in rows if row["stage"] == stage]
    title = f"{STAGE_NAMES[stage]}, {len(split.texts):,} captions, {INTERVAL}"
    draw(folder / f"{NAME}.png", last, groups, title)
    write_table(
        folder,
        NAME,
        rows,
        split=options.split,
        checkpoints=options.checkpoint,
        seed=options.seed,
        captions=len(lengths),
        max_words=reader.config.max_words,
        longer_than_max_words=int((lengths > reader.config.max_words).sum()),
        mean_length=float(lengths.mean()),
        mean_attributes=float(attributes.mean()),
        length_by_attributes={
            label: {stage: grid_of(of_stage, groups, people, options.seed) for stage, of_stage in stages.items()}
            for label, stages in ranks.items()
        },
        spearman_with_average_precision=correlations,
    )
    of_stage = {label: of_stages[stage] for label, of_stages in correlations.items()}
    tell(folder, NAME, f"{printed(last)}\n\n{markdown_table(correlation_rows(of_stage))}")
