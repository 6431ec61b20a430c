"""Metrics when a growing part of the gallery's images is hidden.

Does a model that learned to fill in removed patches (the MAE loss) find people who are partly hidden better than one
that did not? The gallery is ranked once per model, kind and fraction; the first model is compared to each other one on
the same captions and the same removed pixels (of models with one image and patch size). Kinds of removal:
`evaluation.studies.occluders`.

Letters: C captions, P right images of the caption that has most, H and W image height and width.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from PIL import Image
from torch import Tensor

from dataset.decoding import decode, read_content
from dataset.evaluation_split import EvaluationSplit
from dataset.images import load_image
from evaluation.drawing.figures import draw_estimates, legend_of_models, new_figure, save_figure, tidy
from evaluation.drawing.pictures import PAPER
from evaluation.metrics import METRIC_NAMES, STAGE_NAMES
from evaluation.stages.encoding import progress
from evaluation.studies.comparison import (
    INTERVAL,
    as_columns,
    estimates_of,
    final_stage,
    lines_of,
    p_values,
    people_of,
    rank_by,
)
from evaluation.studies.occluders import KINDS, Occluder
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table
from evaluation.trained import TrainedModel
from utils.errors import CommandParser, UserError

FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)
DRAWN = ("r1", "mAP")
TITLES = {"patches": "random patches", "lower": "from the bottom up", "bar": "a vertical bar"}
EXAMPLE = (120, 8)  # width of an example image and of the gap behind it, in pixels

Results = dict[tuple[str, float], dict[str, dict[str, Tensor]]]  # (kind, fraction) -> model -> stage -> ranks [C, P]


def add_options(parser: CommandParser) -> None:
    about = "removed parts of an image, 0 to 1 (default: 0 0.1 0.2 0.3 0.5 0.7)"
    parser.add_argument("--fractions", nargs="+", type=float, default=FRACTIONS, metavar="F", help=about)
    kinds = tuple(KINDS)
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="what is removed (default: all)")


def check(options: argparse.Namespace) -> None:
    """Order the options. Raises UserError for those that do not fit."""
    if not all(0 <= fraction <= 1 for fraction in options.fractions):  # not-a-number is outside too
        given = " ".join(map(str, options.fractions))
        raise UserError(f"--fractions must be from 0 (whole images) to 1 (nothing left), not {given}")
    options.fractions = sorted(set(options.fractions))
    options.kinds = list(dict.fromkeys(options.kinds))


@model_study(add_options)
def main(study: ModelStudy) -> None:
    """Rank the gallery by every model with each part of its images removed."""
    check(study.options)
    model, split, fractions = study.model, study.split, study.options.fractions
    index = int(np.random.default_rng(study.seed).integers(len(split.images)))
    strips = {kind: example_strip(model, split, kind, fractions, index, study.seed) for kind in study.options.kinds}
    results = measure(study)
    rows = rows_of(results, people_of(split), study.seed)
    stage = final_stage(stages for of_models in results.values() for stages in of_models.values())
    last = [row for row in rows if row["stage"] == stage]
    title = f"{STAGE_NAMES[stage]}, {len(split.texts):,} captions, {len(split.images):,} images, {INTERVAL}"
    draw(study.picture, last, strips, fractions, title)
    study.finish(
        rows,
        printed(last),
        **study.origin(),
        images=len(split.images),
        example=split.images[index],
        models={label: facts_of(model) for label, model in study.models.items()},
    )


# ---- measuring -------------------------------------------------------------------------


def occluder_for(model: TrainedModel, kind: str, fraction: float, seed: int) -> Occluder:
    mean = model.model.statistics.mean
    return Occluder(kind, fraction, model.model.patch_size, mean, seed)


def measure(study: ModelStudy) -> Results:
    """Rank the gallery for each kind and fraction; whole images, the same for all kinds, once."""
    cases = [(kind, fraction) for kind in study.options.kinds for fraction in study.options.fractions]
    results: Results = {case: {} for case in cases}
    known: dict[tuple[str, Occluder | None], dict[str, Tensor]] = {}
    for label, case in progress([(label, case) for label in study.models for case in cases], "occlusion"):
        model, (kind, fraction) = study.models[label], case
        view = occluder_for(model, kind, fraction, study.seed) if fraction else None
        if (label, view) not in known:
            known[label, view] = rank_by(model, replace(study.splits[label], view=view))
        results[case][label] = known[label, view]
    return results


# ---- tables ----------------------------------------------------------------------------


def rows_of(results: Results, people: np.ndarray, seed: int) -> list[Row]:
    """A row for each model, kind, fraction and stage; p-values: of no difference to the first model."""
    rows: list[Row] = []
    for (kind, fraction), of_models in results.items():
        first, *_ = of_models
        for label, stages in of_models.items():
            for stage, ranks in stages.items():
                known = {"model": label, "kind": kind, "fraction": fraction, "stage": stage, "captions": len(ranks)}
                row = {**known, **as_columns(estimates_of(ranks, people, seed))}
                if label != first and stage in of_models[first]:
                    row |= p_values(of_models[first][stage], ranks, people, seed)
                rows.append(row)
    return rows


def facts_of(model: TrainedModel) -> Row:
    """What the results of a model depend on, for the JSON file."""
    config = model.config
    return {
        "image_size": config.image_size,
        "patch_size": model.model.patch_size,
        "mae_weight": config.weights.get("mae", 0),
    }


def printed(rows: Sequence[Row]) -> str:
    """Every metric of one stage, with what tells each model from the first where there are several."""
    several = any("p_r1" in row for row in rows)
    table = []
    for row in rows:
        line = {"model": row["model"], "kind": row["kind"], "removed": f"{row['fraction']:.0%}"}
        line |= {name: row[metric] for metric, name in METRIC_NAMES.items()}
        for metric in DRAWN if several else ():
            line[f"p of {METRIC_NAMES[metric]}"] = f"{row[f'p_{metric}']:.4f}" if f"p_{metric}" in row else ""
        table.append(line)
    return markdown_table(table)


# ---- the diagram -----------------------------------------------------------------------


def example_strip(
    model: TrainedModel, split: EvaluationSplit, kind: str, fractions: Sequence[float], index: int, seed: int
) -> Image.Image:
    """One image of the gallery under each fraction, side by side, in the proportions that a viewer shows it in."""
    path = split.image_root / split.images[index]
    image = load_image(path, model.config.image_size, resampling=model.config.resampling)
    upright = decode(read_content(path))
    width, height = EXAMPLE[0], max(1, round(EXAMPLE[0] * upright.height / upright.width))
    strip = Image.new("RGB", (len(fractions) * sum(EXAMPLE) - EXAMPLE[1], height), PAPER)
    for number, fraction in enumerate(fractions):
        shown = occluder_for(model, kind, fraction, seed)(image, index)
        picture = Image.fromarray(shown.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.NEAREST)
        strip.paste(picture, (number * sum(EXAMPLE), 0))
    return strip


def draw_strip(axes: Axes, strip: Image.Image, fractions: Sequence[float], title: str) -> None:
    """Example images with the fractions below them."""
    axes.imshow(np.asarray(strip))
    axes.set_title(title)
    axes.set_yticks([])
    middles = [number * sum(EXAMPLE) + EXAMPLE[0] / 2 for number in range(len(fractions))]
    axes.set_xticks(middles, [f"{100 * fraction:g}%" for fraction in fractions])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def draw(
    path: Path, rows: Sequence[Row], strips: Mapping[str, Image.Image], fractions: Sequence[float], title: str
) -> None:
    """A column for each kind: example images, then the metrics of one stage against the fraction."""
    figure = new_figure(max(6, 3.6 * len(strips)), 8.2, title)
    grid = figure.add_gridspec(1 + len(DRAWN), len(strips), height_ratios=[1.0, *[1.5] * len(DRAWN)])
    left: dict[str, Axes] = {}
    for column, (kind, strip) in enumerate(strips.items()):
        draw_strip(figure.add_subplot(grid[0, column]), strip, fractions, TITLES[kind])
        of_kind = [row for row in rows if row["kind"] == kind]
        for number, metric in enumerate(DRAWN, 1):
            axes = figure.add_subplot(grid[number, column], sharey=left.get(metric))
            left.setdefault(metric, axes)
            draw_estimates(axes, fractions, lines_of(of_kind, metric))
            below = "removed part" if number == len(DRAWN) else ""
            tidy(axes, "", below, "" if column else f"{METRIC_NAMES[metric]} (%)")
            axes.xaxis.set_major_formatter(PercentFormatter(1))
            axes.set_ylim(bottom=0)
    legend_of_models(figure, axes)
    save_figure(figure, path)
