"""One model or several on several data sets, those they were not trained on among them.

    python -m evaluation cross_domain --checkpoint output/cuhk-pedes/checkpoint_best.pth \\
        --data configs/PS_cuhk_pedes.yaml configs/PS_icfg_pedes.yaml configs/PS_rstp_reid.yaml

Of the configurations after --data only the files of the split count: images and captions are read as the model was
trained to read them.
"""

from collections.abc import Sequence
from pathlib import Path

from configs.loading import load_config
from dataset.evaluation_split import EvaluationSplit
from evaluation.drawing.figures import COLORS, Style, legend_below, new_figure, reach, save_figure, tidy
from evaluation.metrics import METRIC_NAMES, STAGE_NAMES
from evaluation.statistics import Estimate
from evaluation.studies.comparison import as_columns, estimates_of, people_of, rank_by
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table
from evaluation.trained import TrainedModel, open_split
from utils.errors import CommandParser, UserError

SHOWN = ("r1", "mAP")
PRINTED = ("model", "data", "stage", *METRIC_NAMES, "captions", "images")


def add_options(parser: CommandParser) -> None:
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="CONFIG", help="YAML files of data sets")


@model_study(add_options)
def main(study: ModelStudy) -> None:
    """Rank the split of each data set by every model."""
    configs = dict(zip(names_of(study.options.data), study.options.data, strict=True))
    splits = {
        (label, data): open_data(model, config, study.options.split)
        for label, model in study.models.items()
        for data, config in configs.items()
    }
    rows: list[Row] = []
    for (label, data), split in splits.items():
        rows += rows_of(label, data, study.models[label], split, study.seed)
    draw(study.picture, rows)
    study.finish(rows, markdown_table([{key: row[key] for key in PRINTED} for row in rows]))


def open_data(trained: TrainedModel, config: Path, split: str) -> EvaluationSplit:
    """A split of another configuration, read by this model. Raises UserError when its files are missing."""
    keys = (f"{split}_file", f"{split}_image_root")
    of_data = load_config(config)
    settings = trained.config.model_copy(update={key: getattr(of_data, key) for key in keys})
    try:
        return open_split(settings, split, trained.tokenizer)
    except UserError as error:
        raise UserError(f"--data {config}: {error}") from None


def rows_of(name: str, data: str, trained: TrainedModel, split: EvaluationSplit, seed: int) -> list[Row]:
    """A row for each stage."""
    people, counts = people_of(split), {"captions": len(split.texts), "images": len(split.images)}
    return [
        {"model": name, "data": data, "stage": stage, **as_columns(estimates_of(ranks, people, seed)), **counts}
        for stage, ranks in rank_by(trained, split).items()
    ]


def names_of(configs: Sequence[Path]) -> list[str]:
    """A name for each data set: the configuration's. Raises UserError when two are the same."""
    names = [config.stem for config in configs]
    if len(set(names)) < len(names):
        raise UserError("--data: two configurations have the same name; give each data set once")
    return names


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Bars by data set, one for each model, of the final stage."""
    data, models = (list(dict.fromkeys(row[key] for row in rows)) for key in ("data", "model"))
    final = {(row["model"], row["data"]): row for row in rows}  # the last stage of each
    figure, width = new_figure(11, 4.4), 0.8 / len(models)
    for panel, metric in enumerate(SHOWN, 1):
        axes = figure.add_subplot(1, len(SHOWN), panel)
        for number, model in enumerate(models):
            found = [Estimate.from_row(final[model, name], metric, "captions") for name in data]
            x = [middle + (number - (len(models) - 1) / 2) * width for middle in range(len(data))]
            style: Style = {"capsize": 3, "color": COLORS[number % len(COLORS)]}
            axes.bar(x, [one.mean for one in found], width * 0.9, yerr=reach(found), label=model, **style)
        tidy(axes, f"{METRIC_NAMES[metric]}, {STAGE_NAMES[rows[-1]['stage']]}", "", "per cent")
        axes.set_xticks(range(len(data)), data)
        axes.grid(axis="x", visible=False)
        if len(models) > 1:
            legend_below(axes, min(3, len(models)), -0.12)
    save_figure(figure, path)
