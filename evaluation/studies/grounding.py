"""How well attributes find their pixels: pointing game and energy of Grad-CAM maps on the synthetic benchmark.

There every caption says which of its characters speak of which attribute, and a mask says which pixels these are. The
map of each mentioned attribute, on the image that the caption was written for, is scaled to the mask's size. Pointing:
is its peak inside the mask (of equal peaks, the share that is)? Energy: the share of the map inside the mask. A map
that is zero everywhere points nowhere: it misses, with energy 0.

Beside the models stand maps that read no word: `random` (the same everywhere: both measures are the share of the image
that the mask takes), `centre` (a Gaussian in the middle), and, for each model, `other attribute`: the map of another
attribute of the same caption on this one's mask, so that what is gained by reading the right words can be seen.
`mask on the grid` is the mask itself seen through patches: about what a perfect map of so few patches would reach.

Layers differ much in where their words look (`--every_layer`): choose one on the validation split.

Letters: M mentions, C mentions of one caption, L patches, H and W pixels of a mask.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dataset.evaluation_split import EvaluationSplit
from evaluation.drawing.figures import COLORS, MARKERS, new_figure, save_figure, tidy
from evaluation.ranking import progress
from evaluation.statistics import Estimate, estimate, paired_p_value
from evaluation.studies.heatmaps import (
    CaptionMaps,
    add_map_options,
    chosen_layer,
    look_at_own_images,
    upsample,
)
from evaluation.studies.mentions import Mentions, read_mask, read_mentions, spans_of
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

NAME = "grounding"
MEASURES = ("pointing", "energy")
WITHOUT_WORDS = ("random", "centre", "mask on the grid")
OTHER = "other attribute"
CENTRE_WIDTH = 0.25  # standard deviation of the centre prior, in heights and widths of the image
ASIDE = (-0.3, -0.18, 0.3)  # how far the marks of these stand beside the middle of the bars
ALL = "all"

Scores = dict[str, np.ndarray]  # measure -> [M], 0 to 1, NaN where there is none
Looker = tuple[TrainedModel, int]  # a model, and the layer that its maps are of


def build_parser() -> argparse.ArgumentParser:
    parser = study_parser(NAME, __doc__, most=None)
    add_map_options(parser)
    parser.add_argument("--every_layer", action="store_true", help="measure the maps of every layer, one by one")
    parser.add_argument("--captions", type=int, metavar="N", help="measure on N captions drawn by seed (default: all)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Raises UserError for bad input."""
    options = build_parser().parse_args(arguments)
    if options.captions is not None and options.captions < 1:
        raise UserError(f"--captions must be 1 or more, not {options.captions}")
    models = open_models(options)
    first = next(iter(models.values()))
    folder = open_output(options, first.checkpoint.parent)
    lookers = choose_layers(models, options)
    split = first.open_split(options.split)
    told = read_mentions(split, draw_captions(len(split.texts), options.captions, options.seed))
    measured = measure(
        told,
        find_maps(lookers, split, told, options.target),
        {name: trained.model.grid for name, (trained, _) in lookers.items()},
    )
    if not len(measured.attribute):
        raise UserError(
            f"no attribute that the {options.split} captions mention can be seen and was read: use more"
            " captions (--captions), or a larger max_words"
        )
    groups = split.caption_identity[torch.tensor(told.places)].numpy()[measured.caption]
    rows = tabulate(measured, groups, told.names, list(lookers), options.seed)
    draw(rows, list(lookers), folder / f"{NAME}.png", options.target)
    write_table(
        folder,
        NAME,
        rows,
        target=options.target,
        layers={name: layer for name, (_, layer) in lookers.items()},
        split=options.split,
        seed=options.seed,
        captions=len(told.places),
        left_out=measured.left_out,
        zero_maps=measured.nowhere,
        checkpoints={name: one.checkpoint for name, one in models.items()},
    )
    tell(folder, NAME, markdown_table(printed(rows)) + f"\n\n{explained(measured, rows)}\n")


def choose_layers(models: Mapping[str, TrainedModel], options: argparse.Namespace) -> dict[str, Looker]:
    """Whose maps are measured, by name. Raises UserError when a model has none."""
    if options.every_layer and options.layer is not None:
        raise UserError("--every_layer measures all layers, --layer one: give one of them")
    lookers = {}
    for name, trained in models.items():
        usual = chosen_layer(trained, options)
        if not options.every_layer:
            lookers[name] = trained, usual
            continue
        size = trained.model.text_encoder.size
        for layer in range(size.first_cross_layer, size.num_hidden_layers - (options.target == "match")):
            label = f"layer {layer}" if len(models) == 1 else f"{name}, layer {layer}"
            lookers[label] = trained, layer
    return lookers


def find_maps(
    lookers: Mapping[str, Looker], split: EvaluationSplit, told: Mentions, target: str
) -> dict[str, list[CaptionMaps]]:
    """Maps of all mentions by name, caption by caption."""
    spans = [spans_of(split.texts[place], own) for place, own in zip(told.places, told.mentions, strict=True)]
    return {
        name: [without_words(one) for one in look_at_own_images(trained, split, told.places, spans, layer, target)]
        for name, (trained, layer) in lookers.items()
    }


def without_words(maps: CaptionMaps) -> CaptionMaps:
    """The maps of attributes alone: those of all words of thousands of captions take gigabytes."""
    return replace(maps, words=torch.empty(0, maps.words.shape[1]))


def draw_captions(count: int, wanted: int | None, seed: int) -> list[int]:
    """The places of `wanted` of `count` captions, ascending; None = all."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return sorted(np.random.default_rng(seed).permutation(count)[:wanted].tolist())


# ---- measuring -------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """M mentions that can be seen and were read. attribute, caption [M]: mask value, and place among the captions.

    scores: by name of what made the maps; left_out: how many mentions, and why; nowhere: empty maps of each model.
    """

    attribute: np.ndarray
    caption: np.ndarray
    scores: dict[str, Scores]
    left_out: dict[str, int]
    nowhere: dict[str, int]


def centre_prior(height: int, width: int) -> Tensor:
    """A Gaussian [H, W] around the middle."""
    rows, columns = (((torch.arange(n) + 0.5) / n - 0.5) / CENTRE_WIDTH for n in (height, width))
    return torch.exp(-(rows[:, None].square() + columns.square()) / 2)


def score(heat: Tensor, inside: Tensor) -> Tensor:
    """Pointing and energy [K, C, 2] of maps [K, H, W] on masks [C, H, W] (True = inside); 0 where a map is all 0."""
    peaks = (heat == heat.amax((1, 2), keepdim=True)) & (heat > 0)
    masks = inside.flatten(1).double().T  # [H * W, C]
    parts = [part.flatten(1).double() for part in (peaks, heat)]
    return torch.stack([part @ masks / part.sum(1, keepdim=True).clamp(min=1e-300) for part in parts], -1)


def score_wordless(inside: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Scores [C, 2] on masks [C, H, W] of maps that read no word."""
    size = tuple(inside.shape[1:])
    seen = upsample(adaptive_avg_pool2d(inside.float(), grid).flatten(1), grid, size)
    found = [*score(torch.stack([torch.ones(size), centre_prior(*size)]), inside), diagonal(score(seen, inside))]
    return dict(zip(WITHOUT_WORDS, found, strict=True))


def diagonal(scores: Tensor) -> Tensor:
    """Of scores [C, C, 2] those of each map on its own mask [C, 2]."""
    return scores.diagonal().T


def mean_of_others(scores: Tensor, attributes: Tensor) -> Tensor:
    """Mean scores [C, 2] of the maps of other attributes: scores [C maps, C masks, 2]; NaN where there is no other."""
    other = (attributes[:, None] != attributes).to(scores.dtype)
    return (scores * other[..., None]).sum(0) / other.sum(0)[:, None]


def measure(
    told: Mentions, found: Mapping[str, Sequence[CaptionMaps]], grids: Mapping[str, tuple[int, int]]
) -> Measured:
    """Pointing and energy of every mention that can be seen and that all models read.

    found: maps of the captions by model, in the order of `told`; grids: of each model. `mask on the grid` takes the
    first one's.
    """
    left_out, nowhere = Counter({"not visible": 0, "cut off": 0}), Counter(dict.fromkeys(found, 0))
    scores: dict[str, list[Tensor]] = {}
    attributes, captions = [], []
    for number in progress(range(len(told.places)), "measuring"):
        mask = read_mask(told.masks[number])
        maps = {name: of_captions[number] for name, of_captions in found.items()}
        used = usable(mask, [mention.attribute for mention in told.mentions[number]], maps.values(), left_out)
        if not used:
            continue
        of_used = torch.tensor([told.mentions[number][place].attribute for place in used])
        heat = {name: upsample(one.attributes[used], grids[name], tuple(mask.shape)) for name, one in maps.items()}
        nowhere.update({name: int((one == 0).all((1, 2)).sum()) for name, one in heat.items()})
        for name, values in score_caption(mask, of_used, heat, next(iter(grids.values()))).items():
            scores.setdefault(name, []).append(values)
        attributes += of_used.tolist()
        captions += [number] * len(used)
    places = np.array([attributes, captions], dtype=int)
    return Measured(*places, by_measure(scores), dict(left_out), dict(nowhere))


def usable(mask: Tensor, values: Sequence[int], maps: Iterable[CaptionMaps], left_out: Counter) -> list[int]:
    """Which mentions can be seen in a mask [H, W] and were read for all maps; counts in `left_out` those that are not.

    values: of the mentions' attributes in masks.
    """
    visible = [bool((mask == value).any()) for value in values]
    read = [all(present) for present in zip(*(one.present for one in maps), strict=True)]
    used = [place for place in range(len(values)) if visible[place] and read[place]]
    left_out.update({"not visible": visible.count(False), "cut off": visible.count(True) - len(used)})
    return used


def score_caption(
    mask: Tensor, attributes: Tensor, heat: Mapping[str, Tensor], grid: tuple[int, int]
) -> dict[str, Tensor]:
    """Scores [C, 2] of all kinds of maps on the mentions of one caption.

    mask [H, W]; attributes [C]: their values in it; heat: maps of the mentions [C, H, W] by model.
    """
    inside = mask == attributes[:, None, None]
    scores = score_wordless(inside, grid)
    for name, maps in heat.items():
        table = score(maps, inside)
        scores |= {name: diagonal(table), with_other(name): mean_of_others(table, attributes)}
    return scores


def with_other(name: str) -> str:
    """Name of the control of a model."""
    return f"{name}, {OTHER}"


def by_measure(scores: Mapping[str, Sequence[Tensor]]) -> dict[str, Scores]:
    """Scores [C, 2] of each caption by name -> name -> measure -> [M]."""
    return {name: dict(zip(MEASURES, torch.cat(list(parts)).numpy().T, strict=True)) for name, parts in scores.items()}


# ---- tables ----------------------------------------------------------------------------


def tabulate(
    measured: Measured, groups: np.ndarray, names: Mapping[int, str], models: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """A row for each attribute (all of them first) and each kind of map: per cent, intervals, p-values.

    groups [M]: the person of each mention. p_first: against the first model; p_other: of a model against the maps of
    other attributes, on mentions that have any.
    """
    present = [value for value in names if (measured.attribute == value).any()]
    chosen = {ALL: np.ones(len(measured.attribute), dtype=bool)}
    chosen |= {names[value]: measured.attribute == value for value in present}
    rows = []
    for attribute, here in chosen.items():
        for name in measured.scores:
            row = {"attribute": attribute, "map": name, "mentions": int(here.sum())}
            for kind in MEASURES:
                values = {other: 100 * one[kind][here] for other, one in measured.scores.items()}
                row |= estimate_row(kind, values[name], groups[here], seed)
                if name in models[1:]:
                    row[f"{kind}_p_first"] = paired_p_value(values[name], values[models[0]], groups[here], seed)
                if name in models:
                    row[f"{kind}_p_other"] = p_value_where_both(
                        values[name], values[with_other(name)], groups[here], seed
                    )
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


def printed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For the terminal: a line for each kind of map and measure, a column for each attribute."""
    maps = list(dict.fromkeys(row["map"] for row in rows))
    return [
        {"map": name, "measure": kind, **{row["attribute"]: row[kind] for row in rows if row["map"] == name}}
        for kind in MEASURES
        for name in maps
    ]


def explained(measured: Measured, rows: Sequence[Mapping[str, Any]]) -> str:
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


# ---- the diagram -----------------------------------------------------------------------


def draw(rows: Sequence[Mapping[str, Any]], models: Sequence[str], path: Path, target: str) -> None:
    """Two panels, pointing and energy, by attribute: bars for models, lines and marks for their controls."""
    attributes = list(dict.fromkeys(row["attribute"] for row in rows))
    figure = new_figure(9.5, 8.2, f"Grad-CAM maps ({target} logit) against the pixels of their attributes")
    panels = figure.subplots(2, 1, sharex=True)
    titles = {"pointing": "Pointing game: the peak lies inside", "energy": "Share of the map inside"}
    for axes, kind in zip(panels, MEASURES, strict=True):
        draw_panel(axes, rows, models, attributes, kind)
        tidy(axes, titles[kind], "", "per cent")
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
    mentions = {row["attribute"]: row["mentions"] for row in rows}
    ticks = [f"{name}\n{mentions[name]}" for name in attributes]
    panels[1].set_xticks(range(len(attributes)), ticks, parse_math=False)
    panels[1].set_xlabel("attribute and number of its mentions")
    handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    names = [*models, *(name for name in handles if name not in models)]
    figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, path)


def draw_panel(
    axes: Axes, rows: Sequence[Mapping[str, Any]], models: Sequence[str], attributes: Sequence[str], kind: str
) -> None:
    """Bars of the models side by side at each attribute, with intervals, and marks of the controls over them."""
    wide = 0.8 / len(models)
    for number, name in enumerate(models):
        places = np.arange(len(attributes)) + (number - (len(models) - 1) / 2) * wide
        colour = COLORS[number % len(COLORS)]
        own = [found_row(rows, name, attribute, kind) for attribute in attributes]
        reach = [[one.mean - one.low for one in own], [one.high - one.mean for one in own]]
        axes.bar(
            places,
            [one.mean for one in own],
            0.92 * wide,
            yerr=reach,
            color=colour,
            alpha=0.75,
            label=name,
            error_kw={"elinewidth": 1.2, "capsize": 2},
        )
        others = [found_row(rows, with_other(name), attribute, kind).mean for attribute in attributes]
        axes.hlines(
            others,
            places - 0.46 * wide,
            places + 0.46 * wide,
            color="black",
            linewidth=2.2,
            label="map of another attribute" if number == 0 else None,
        )
    for number, (name, aside) in enumerate(zip(WITHOUT_WORDS, ASIDE, strict=True)):
        means = [found_row(rows, name, attribute, kind).mean for attribute in attributes]
        axes.plot(
            np.arange(len(attributes)) + aside,
            means,
            MARKERS[number + 1],
            color="white",
            markeredgecolor="black",
            markersize=6,
            label=name,
        )
    axes.margins(x=0.02)


def found_row(rows: Sequence[Mapping[str, Any]], name: str, attribute: str, kind: str) -> Estimate:
    """The estimate in the row of a kind of map and an attribute."""
    row = next(row for row in rows if row["map"] == name and row["attribute"] == attribute)
    return Estimate(row[kind], row[f"{kind}_low"], row[f"{kind}_high"], row["mentions"])
