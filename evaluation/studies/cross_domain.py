"""Cross-domain: evaluates checkpoints on several data sets, those they were not trained on among them.

    python -m evaluation cross_domain --checkpoint output/cuhk-pedes/checkpoint_best.pth \\
        --data configs/PS_cuhk_pedes.yaml configs/PS_icfg_pedes.yaml configs/PS_rstp_reid.yaml

Of the configurations after --data only the files of the split count: images and captions are read as the model was
trained to read them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.schema import load_config
from dataset.evaluation_split import EvaluationSplit
from evaluation.drawing.figures import COLORS, legend_below, new_figure, save_figure, tidy
from evaluation.metrics import METRIC_NAMES, STAGE_NAMES
from evaluation.studies.comparison import as_columns, estimates_of, people_of, rank_by
from evaluation.studies.study import (
    markdown_table,
    open_models,
    open_output,
    study_parser,
    tell,
    write_table,
)
from evaluation.trained import TrainedModel, open_split
from utils.errors import UserError

SHOWN = ("r1", "mAP")


def open_data(trained: TrainedModel, config: Path, split: str) -> EvaluationSplit:
    """A split of another configuration, read by this model. Raises UserError when its files are missing."""
    keys = (f"{split}_file", f"{split}_image_root")
    of_data = load_config(config)
    settings = trained.config.model_copy(update={key: getattr(of_data, key) for key in keys})
    try:
        return open_split(settings, split, trained.tokenizer)
    except UserError as error:
        raise UserError(f"--data {config}: {error}") from None


def rows_of(name: str, data: str, trained: TrainedModel, split: EvaluationSplit, seed: int) -> list[dict[str, Any]]:
    """A row for each stage."""
    people, counts = people_of(split), {"captions": len(split.texts), "images": len(split.images)}
    return [
        {"model": name, "data": data, "stage": stage, **as_columns(estimates_of(ranks, people, seed)), **counts}
        for stage, ranks in rank_by(trained, split).items()
    ]


def names_of(configs: list[Path]) -> list[str]:
    """A name for each data set: the configuration's. Raises UserError when two are the same."""
    names = [config.stem for config in configs]
    if len(set(names)) < len(names):
        raise UserError("--data: two configurations have the same name; give each data set once")
    return names


def draw(rows: list[Mapping[str, Any]], path: Path) -> None:
    """Bars by data set, one for each model, of the final stage."""
    data, models = (list(dict.fromkeys(row[key] for row in rows)) for key in ("data", "model"))
    final = {(row["model"], row["data"]): row for row in rows}  # the last stage of each
    figure = new_figure(11, 4.4)
    for number, metric in enumerate(SHOWN):
        axes = figure.add_subplot(1, len(SHOWN), number + 1)
        width = 0.8 / len(models)
        for place, model in enumerate(models):
            found = [final[model, name] for name in data]
            x = [at + (place - (len(models) - 1) / 2) * width for at in range(len(data))]
            reach = [
                [row[metric] - row[f"{metric}_low"] for row in found],
                [row[f"{metric}_high"] - row[metric] for row in found],
            ]
            axes.bar(
                x,
                [row[metric] for row in found],
                width * 0.9,
                yerr=reach,
                capsize=3,
                label=model,
                color=COLORS[place % len(COLORS)],
            )
        tidy(axes, f"{METRIC_NAMES[metric]}, {STAGE_NAMES[rows[-1]['stage']]}", "", "per cent")
        axes.set_xticks(range(len(data)), data)
        axes.grid(axis="x", visible=False)
        if len(models) > 1:
            legend_below(axes, min(3, len(models)), -0.12)
    save_figure(figure, path)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = study_parser("cross_domain", __doc__, most=None)
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="CONFIG", help="YAML files of data sets")
    options = parser.parse_args(arguments)
    folder, names = open_output(options, options.checkpoint[0].parent), names_of(options.data)
    models = open_models(options)
    splits = {
        (model, name): open_data(trained, config, options.split)
        for model, trained in models.items()
        for name, config in zip(names, options.data, strict=True)
    }
    rows = []
    for (model, name), split in splits.items():
        rows += rows_of(model, name, models[model], split, options.seed)
    write_table(folder, "cross_domain", rows)
    draw(rows, folder / "cross_domain.png")
    shown = ("model", "data", "stage", *METRIC_NAMES, "captions", "images")
    tell(folder, "cross_domain", markdown_table([{key: row[key] for key in shown} for row in rows]))
