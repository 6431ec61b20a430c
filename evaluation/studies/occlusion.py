"""Measures retrieval from images of which a growing part is removed.

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
from tqdm import tqdm

from dataset.evaluation_split import EvaluationSplit
from dataset.images import load_image
from evaluation.drawing.figures import draw_estimates, new_figure, save_figure, tidy
from evaluation.drawing.pictures import PAPER
from evaluation.metrics import METRIC_NAMES, STAGE_NAMES
from evaluation.statistics import Estimate
from evaluation.studies.comparison import (
    INTERVAL,
    as_columns,
    estimates_of,
    final_stage,
    open_same_split,
    p_values,
    people_of,
    rank_by,
)
from evaluation.studies.occluders import KINDS, Occluder
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
from evaluation.trained import TrainedModel
from utils.errors import UserError

NAME = "occlusion"
FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)
DRAWN = ("r1", "mAP")
TITLES = {"patches": "random patches", "lower": "from the bottom up", "bar": "a vertical bar"}
EXAMPLE = (120, 8)  # width of an example image and of the gap behind it, in pixels

Results = dict[tuple[str, float], dict[str, dict[str, Tensor]]]  # (kind, fraction) -> model -> stage -> ranks [C, P]


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Raises UserError for options that do not fit."""
    parser = study_parser(NAME, __doc__, most=None)
    parser.add_argument(
        "--fractions",
        nargs="+",
        type=float,
        default=FRACTIONS,
        metavar="F",
        help="removed parts of an image, 0 to 1 (default: 0 0.1 0.2 0.3 0.5 0.7)",
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=tuple(KINDS), default=tuple(KINDS), help="what is removed (default: all)"
    )
    options = parser.parse_args(arguments)
    labels_of(options)
    if not all(0 <= fraction <= 1 for fraction in options.fractions):  # not-a-number is outside too
        given = " ".join(map(str, options.fractions))
        raise UserError(f"--fractions must be from 0 (whole images) to 1 (nothing left), not {given}")
    options.fractions = sorted(set(options.fractions))
    options.kinds = list(dict.fromkeys(options.kinds))
    return options


# ---- measuring ----


def occluder_for(model: TrainedModel, kind: str, fraction: float, seed: int) -> Occluder:
    mean = model.model.visual_encoder.statistics.mean
    return Occluder(kind, fraction, model.config.patch_size, seed, mean)


def measure(
    models: Mapping[str, TrainedModel], splits: Mapping[str, EvaluationSplit], options: argparse.Namespace
) -> Results:
    """Rank the gallery for each kind and fraction; whole images, the same for all kinds, once."""
    results: Results = {(kind, fraction): {} for kind in options.kinds for fraction in options.fractions}
    with tqdm(total=len(models) * len(results), desc="occlusion", unit="ranking", leave=False) as progress:
        for label, model in models.items():
            known: dict[Occluder | None, dict[str, Tensor]] = {}
            for (kind, fraction), of_models in results.items():
                view = occluder_for(model, kind, fraction, options.seed) if fraction else None
                if view not in known:
                    known[view] = rank_by(model, replace(splits[label], view=view))
                of_models[label] = known[view]
                progress.update()
    return results


def rows_of(results: Results, people: np.ndarray, seed: int) -> list[Row]:
    """A row for each model, kind, fraction and stage; p-values: of no difference to the first model."""
    rows = []
    for (kind, fraction), of_models in results.items():
        first, *_ = of_models
        for label, stages in of_models.items():
            for stage, ranks in stages.items():
                known = {"model": label, "kind": kind, "fraction": fraction, "stage": stage, "captions": len(ranks)}
                row = known | as_columns(estimates_of(ranks, people, seed))
                if label != first and stage in of_models[first]:
                    row |= p_values(of_models[first][stage], ranks, people, seed)
                rows.append(row)
    return rows


def printed(rows: Sequence[Row]) -> str:
    """Every metric of one stage, with what tells each model from the first where there are several."""
    several = any("p_r1" in row for row in rows)
    return markdown_table(
        [
            {
                "model": row["model"],
                "kind": row["kind"],
                "removed": f"{row['fraction']:.0%}",
                **{name: row[metric] for metric, name in METRIC_NAMES.items()},
                **(
                    {f"p of {METRIC_NAMES[m]}": f"{row[f'p_{m}']:.4f}" if f"p_{m}" in row else "" for m in DRAWN}
                    if several
                    else {}
                ),
            }
            for row in rows
        ]
    )


# ---- drawing ----


def example_strip(
    model: TrainedModel, split: EvaluationSplit, kind: str, fractions: Sequence[float], place: int, seed: int
) -> Image.Image:
    """One image under each fraction, side by side, as high as the file is in proportion."""
    path = split.image_root / split.images[place]
    image = load_image(path, model.config.image_size)
    with Image.open(path) as file:
        width, height = EXAMPLE[0], round(EXAMPLE[0] * file.height / file.width)
    strip = Image.new("RGB", (len(fractions) * sum(EXAMPLE) - EXAMPLE[1], height), PAPER)
    for number, fraction in enumerate(fractions):
        shown = occluder_for(model, kind, fraction, seed)(image, place)
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


def lines_of(rows: Sequence[Row], kind: str, metric: str) -> dict[str, list[Estimate]]:
    """model -> the estimates of a metric over the fractions; rows are those of one stage."""
    lines: dict[str, list[Estimate]] = {}
    for row in rows:
        if row["kind"] == kind:
            found = Estimate(row[metric], row[f"{metric}_low"], row[f"{metric}_high"], row["captions"])
            lines.setdefault(row["model"], []).append(found)
    return lines


def draw(
    path: Path, rows: Sequence[Row], strips: Mapping[str, Image.Image], fractions: Sequence[float], title: str
) -> None:
    """A column for each kind: example images, then the metrics of one stage against the fraction."""
    figure = new_figure(max(6, 3.6 * len(strips)), 8.2, title)
    grid = figure.add_gridspec(1 + len(DRAWN), len(strips), height_ratios=[1.0, *[1.5] * len(DRAWN)])
    left: dict[str, Axes] = {}
    for column, (kind, strip) in enumerate(strips.items()):
        draw_strip(figure.add_subplot(grid[0, column]), strip, fractions, TITLES[kind])
        for place, metric in enumerate(DRAWN, 1):
            axes = figure.add_subplot(grid[place, column], sharey=left.get(metric))
            left.setdefault(metric, axes)
            draw_estimates(axes, fractions, lines_of(rows, kind, metric))
            x = "removed part" if metric == DRAWN[-1] else ""
            tidy(axes, "", x, "" if column else f"{METRIC_NAMES[metric]} (%)")
            axes.xaxis.set_major_formatter(PercentFormatter(1))
            axes.set_ylim(bottom=0)
    names = axes.get_legend_handles_labels()
    if len(names[1]) > 1:
        figure.legend(*names, loc="outside lower center", ncols=min(4, len(names[1])), frameon=False)
    save_figure(figure, path)


# ---- the command ----


def main(arguments: list[str] | None = None) -> None:
    """The command. Raises UserError when options, a checkpoint or the data are wrong."""
    options = parse_options(arguments)
    folder = open_output(options, options.checkpoint[0].parent)
    models = open_models(options)
    splits = open_same_split(models, options.split)
    model, split = next(iter(models.values())), next(iter(splits.values()))
    place = int(np.random.default_rng(options.seed).integers(len(split.images)))
    strips = {kind: example_strip(model, split, kind, options.fractions, place, options.seed) for kind in options.kinds}
    results = measure(models, splits, options)
    rows = rows_of(results, people_of(split), options.seed)
    stage = final_stage(stages for of_models in results.values() for stages in of_models.values())
    last = [row for row in rows if row["stage"] == stage]
    title = f"{STAGE_NAMES[stage]}, {len(split.texts):,} captions, {len(split.images):,} images, {INTERVAL}"
    draw(folder / f"{NAME}.png", last, strips, options.fractions, title)
    write_table(
        folder,
        NAME,
        rows,
        split=options.split,
        checkpoints=options.checkpoint,
        seed=options.seed,
        images=len(split.images),
        example=split.images[place],
        models={
            label: {
                "image_size": model.config.image_size,
                "patch_size": model.config.patch_size,
                "mae_weight": model.config.weights["mae"],
            }
            for label, model in models.items()
        },
    )
    tell(folder, NAME, printed(last))
