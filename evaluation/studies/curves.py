"""Losses, learning rate, throughput and metrics of one or several runs, against epochs or minutes.

    python -m evaluation curves --checkpoint output/cuhk-pedes output/no-mae

A run is named by its folder or a checkpoint in it; what is drawn is its log.txt. Every loss that stands in the log has
a panel, in the order of the log, whatever its name. Evaluation does not count as training.
"""

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.drawing.figures import COLORS, legend_below, new_figure, save_figure, tidy
from evaluation.metrics import CEILING, METRIC_NAMES, STAGE_NAMES
from evaluation.results import read_log
from evaluation.studies.study import Study, labels_of, study
from evaluation.tables import Row
from utils.errors import CommandParser, UserError
from utils.logs import flatten
from utils.text import counted

PANELS_IN_A_ROW = 4
MAX_DOTS = 20
SPLITS = {"val": "validation", "test": "selection on the test split"}
COMPARED = ("r1", "mAP")  # metrics that several runs are compared by
CEILING_STYLE: dict[str, Any] = {"linestyle": (0, (6, 3)), "marker": None, "linewidth": 1.0}
CEILING_COLOR = "#555555"
STAGE_STYLES = {
    "bge": {"linestyle": ":", "marker": "^"},
    "tse": {"linestyle": "-.", "marker": "v"},
    "stage1": {"linestyle": "--", "marker": "s"},
    "reranked": {"linestyle": "-", "marker": "o"},
}

AXES = {"epochs": "epochs trained", "minutes": "minutes of training"}
NO_RUN = "-"

Epochs = Sequence[Mapping[str, Any]]
Lines = list[tuple[str, list[float], list[float], dict]]  # label, where on the axis, values, line style


def over_minutes(epochs: Epochs, before: float = 0.0) -> list[dict[str, Any]]:
    """The epochs of a log that say beside `epoch`, for themselves and each portion, after how many minutes they end.

    That is `minutes`, which then is what they are drawn against. before: minutes of training before the first.
    """
    placed, minutes = [], before
    for epoch in epochs:
        span = (epoch.get("seconds") or 0.0) / 60
        record = {**epoch, "minutes": minutes + span}
        if curve := epoch.get("curve"):
            begin, ends = epoch["epoch"], curve["epoch"]  # no ends: no step of the epoch was taken
            length = (max(ends, default=begin) - begin) or 1
            shares = [(trained - begin) / length for trained in ends]
            record["curve"] = {**curve, "minutes": [minutes + span * share for share in shares]}
        placed.append(record)
        minutes += span
    return placed


def position_of(record: Mapping[str, Any]) -> float:
    """Where on the axis something stands whose `epoch` is how many were trained by then."""
    return record.get("minutes", record["epoch"])


def as_points(epoch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is drawn of an epoch's losses: a record per portion of its curve, or one without a curve.

    `epoch` of a point is how many epochs were trained by then; the log numbers epochs from 0.
    """
    curve = epoch.get("curve")
    if curve:
        return [dict(zip(curve, values, strict=True)) for values in zip(*curve.values(), strict=True)]
    alone = {name: epoch.get(name) for name in ("lr", "grad_norm")}
    return [{**(epoch.get("train") or {}), **alone, **_end_of(epoch)}]


def has_curves(epoch: Mapping[str, Any]) -> bool:
    """True where the record of an epoch holds anything that is drawn."""
    return any(epoch.get(name) for name in ("train", "curve", "val", "test")) or epoch.get("lr") is not None


def draw_curves(epochs: Epochs, path: str | os.PathLike, title: str = "") -> None:
    """Draw the epochs of a log, in ascending order, into a PNG file of one panel per quantity.

    An epoch has `epoch`, and any of `train` (losses by name), `lr`, `grad_norm`, `curve` (lists of
    these by name, one value per portion of the epoch), and `val` or `test` (metrics in per cent
    by stage). Against minutes where they are as `over_minutes` gives them. Raises UserError when the file cannot be
    written.
    """
    points = [point for epoch in epochs for point in as_points(epoch)]
    panels = [(name, unit, _single_line(points, key)) for key, (name, unit) in _quantities(epochs).items()]
    panels.append(("throughput", "samples per second", _single_line(_by_epoch(epochs), "samples_per_second")))
    for split, name in SPLITS.items():
        panels += [(f"{name}: {stage}", "per cent", lines) for stage, lines in _metric_lines(epochs, split).items()]
    save_figure(_figure_of(panels, _axis_of(epochs), title), path)


def compare_curves(runs: Mapping[str, Epochs], path: str | os.PathLike) -> None:
    """Draw the logs of several runs, by name, into one PNG file: a panel for each quantity, a line for each run.

    Against minutes, where all are as `over_minutes` gives them.
    """
    quantities = {key: value for epochs in runs.values() for key, value in _quantities(epochs).items()}
    points = {run: [point for epoch in epochs for point in as_points(epoch)] for run, epochs in runs.items()}
    panels = [(name, unit, _lines_of_runs(points, key)) for key, (name, unit) in quantities.items()]
    by_epoch = {run: _by_epoch(epochs) for run, epochs in runs.items()}
    panels.append(("throughput", "samples per second", _lines_of_runs(by_epoch, "samples_per_second")))
    for split, split_name in SPLITS.items():
        for stage, stage_name in STAGE_NAMES.items():
            for metric in COMPARED:
                name = f"{split_name}: {METRIC_NAMES[metric]}, {stage_name}"
                lines = _lines_of_runs(by_epoch, f"{split}/{stage}/{metric}")
                panels.append((name, "per cent", lines + _ceilings_of_runs(runs, split, metric) if lines else []))
    axis = _axis_of([epoch for epochs in runs.values() for epoch in epochs])
    save_figure(_figure_of(panels, axis, shared_legend=True), path)


def _axis_of(epochs: Epochs) -> str:
    """The name in `AXES` of what these epochs are drawn against."""
    return "minutes" if epochs and all("minutes" in epoch for epoch in epochs) else "epochs"


def _figure_of(
    panels: Sequence[tuple[str, str, Lines]], axis: str, title: str = "", shared_legend: bool = False
) -> Figure:
    """A figure of those panels (title, unit, lines) that have lines."""
    panels = [panel for panel in panels if panel[2]]
    rows = math.ceil(len(panels) / PANELS_IN_A_ROW)
    figure = new_figure(4 * PANELS_IN_A_ROW, 3 * max(rows, 1), title)
    for number, (name, unit, lines) in enumerate(panels):
        axes = figure.add_subplot(rows, PANELS_IN_A_ROW, number + 1)
        _draw_panel(axes, name, unit, lines, axis)
        if len(lines) > 1 and not shared_legend:
            legend_below(axes, 3 if len(lines) > 4 else 2)
    if shared_legend and panels:
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            artists, labels = axes.get_legend_handles_labels()
            handles |= dict(zip(labels, artists, strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _quantities(epochs: Epochs) -> dict[str, tuple[str, str]]:
    """What has a value at every step: key -> (title of its panel, unit)."""
    found = {name: (f"loss: {name}", "loss") for name in _losses(epochs)}
    return {**found, "lr": ("learning rate", "learning rate"), "grad_norm": ("gradient norm", "norm")}


def _by_epoch(epochs: Epochs) -> Epochs:
    """What has a value at the end of an epoch, by path: {"val": {"stage1": {"r1": 3}}} -> "val/stage1/r1"."""
    return [{**flatten({**epoch, "curve": None}), **_end_of(epoch)} for epoch in epochs]


def _lines_of_runs(runs: Mapping[str, Epochs], key: str) -> Lines:
    """One quantity of several runs, each in its colour."""
    return [
        line
        for number, (run, records) in enumerate(runs.items())
        for line in _single_line(records, key, run, {"color": COLORS[number % len(COLORS)]})
    ]


def _draw_panel(axes: Axes, title: str, unit: str, lines: Lines, axis: str) -> None:
    """One quantity over the epochs or minutes; few points are dots too, so that a single one is seen."""
    for label, positions, values, style in lines:
        style = {"marker": "o", **style} if len(positions) <= MAX_DOTS else {**style, "marker": None}
        axes.plot(positions, values, **{"markersize": 4, "linewidth": 1.6, "label": label, **style})
    tidy(axes, title, AXES[axis], unit)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=axis == "epochs", min_n_ticks=1))
    if unit == "learning rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    if unit == "samples per second":
        axes.set_ylim(bottom=0)


def _losses(epochs: Epochs) -> list[str]:
    """Names of the losses: the total first, then in the order of the log."""
    names = dict.fromkeys(name for epoch in epochs for name in epoch.get("train") or {})
    return sorted(names, key=lambda name: name != "total")


def _metric_lines(epochs: Epochs, split: str) -> dict[str, Lines]:
    """The lines of each panel of a split: the metrics of stage 1 and of the re-ranked result.

    R@1 and mAP of both stages share the first panel: they say what re-ranking brings.
    """
    validated = [(epoch[split], _end_of(epoch)) for epoch in epochs if epoch.get(split)]
    lines: dict[str, Lines] = {"R@1 and mAP": []}
    for stage, stage_name in STAGE_NAMES.items():
        records = [{**(record.get(stage) or {}), **end} for record, end in validated]
        for color, metric in zip(COLORS, COMPARED, strict=False):
            style = {"color": color, **STAGE_STYLES[stage]}
            label = f"{METRIC_NAMES[metric]} {stage_name}"
            lines["R@1 and mAP"] += _single_line(records, metric, label, style)
        lines[stage_name] = [
            line
            for color, (metric, name) in zip(COLORS, METRIC_NAMES.items(), strict=False)
            for line in _single_line(records, metric, name, {"color": color})
        ]
    return {panel: found + _ceiling_lines(epochs, split, found) for panel, found in lines.items()}


def _end_of(epoch: Mapping[str, Any]) -> dict[str, float]:
    """Where a record of the log ends: how many epochs were trained by then, and minutes where it says so."""
    end = {"epoch": epoch["epoch"] + 1}
    return {**end, "minutes": epoch["minutes"]} if "minutes" in epoch else end


def _ceiling_lines(epochs: Epochs, split: str, lines: Lines) -> Lines:
    """The ceilings of the metrics in a panel, each in the colour of its metric."""
    colors = {label.partition(" ")[0]: style["color"] for label, _, _, style in lines}
    return [
        (f"{name} ceiling", span, [value, value], {**CEILING_STYLE, "color": colors[name]})
        for metric, name in METRIC_NAMES.items()
        if metric in COMPARED and name in colors
        for span, value in _ceiling_of(epochs, split, metric)
    ]


def _ceiling_of(epochs: Epochs, split: str, metric: str) -> list[tuple[list[float], float]]:
    """From 0 to the end of the last epoch with a ceiling of this metric, and its value there; nothing without one."""
    records = [(position_of(_end_of(epoch)), (epoch[split].get(CEILING) or {})) for epoch in epochs if epoch.get(split)]
    known = [([0, last], ceiling[metric]) for last, ceiling in records if ceiling.get(metric) is not None]
    return known[-1:]


def _ceilings_of_runs(runs: Mapping[str, Epochs], split: str, metric: str) -> Lines:
    """A line for each different ceiling of several runs; runs on one benchmark share theirs."""
    spans: dict[float, list[float]] = {}
    for epochs in runs.values():
        for span, value in _ceiling_of(epochs, split, metric):
            spans[value] = max(span, spans.get(value, span))
    style = {**CEILING_STYLE, "color": CEILING_COLOR}
    return [(CEILING, span, [value, value], style) for value, span in spans.items()]


def _single_line(records: Epochs, name: str, label: str = "", style: dict | None = None) -> Lines:
    """The line of one value over the records that have it; no line when none has."""
    points = [(position_of(record), record[name]) for record in records if record.get(name) is not None]
    if not points:
        return []
    x, y = map(list, zip(*points, strict=True))
    return [(label, x, y, style or {"color": COLORS[0]})]


# ---- the command -----------------------------------------------------------------------


def log_of(run: Path, option: str = "--checkpoint") -> Path:
    """log.txt of a run, named by its folder or a file in it. Raises UserError when there is none."""
    if not run.exists():
        raise UserError(f"{option} {run} does not exist; name the folder of a run, or a checkpoint in it")
    path = (run if run.is_dir() else run.parent) / "log.txt"
    if not path.is_file():
        raise UserError(f"{option} {run}: there is no {path}; name the folder of a run, or a checkpoint in it")
    return path


def add_options(parser: CommandParser) -> None:
    about = "folder of a run, or a checkpoint in it; several are compared"
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, metavar="RUN", help=about)
    parser.add_argument("--label", nargs="+", default=[], help="names of the runs in the picture and the table")
    parser.add_argument("--against", choices=AXES, default="epochs", help="what is drawn against (%(default)s)")
    about = f"a run before each of them, such as a first stage, whose minutes come first; {NO_RUN}: none"
    parser.add_argument("--after", nargs="+", default=[], metavar="RUN", help=about)


@study(add_options, results="studies/ in the folder of the first run")
def main(study: Study) -> None:
    """Draw the logs."""
    logs = [log_of(run) for run in study.options.checkpoint]
    study.choose_folder(logs[0].parent / "studies")
    names = labels_of(logs, study.options.label, most=None)
    before = minutes_before(study.options, len(logs))
    runs: dict[str, Epochs] = {name: read_log(log) for name, log in zip(names, logs, strict=True)}
    empty = [name for name, epochs in runs.items() if not any(map(has_curves, epochs))]
    if empty:
        raise UserError(f"the log of {empty[0]} holds no epoch yet")
    if study.options.against == "minutes":
        runs = {name: over_minutes(runs[name], earlier) for name, earlier in zip(runs, before, strict=True)}
    if len(runs) == 1:
        [(name, epochs)] = runs.items()
        draw_curves(epochs, study.picture, name)
    else:
        compare_curves(runs, study.picture)
    study.finish([row for name, epochs in runs.items() for row in rows_of(name, epochs)])


def minutes_before(options: argparse.Namespace, runs: int) -> list[float]:
    """Minutes of training before each run. Raises UserError when --after does not fit."""
    if not options.after:
        return [0.0] * runs
    if options.against != "minutes":
        raise UserError("--after adds minutes of earlier runs: it needs --against minutes")
    if len(options.after) != runs:
        raise UserError(f"--after names {counted(len(options.after), 'run')} for {runs}; write {NO_RUN} for none")
    return [0.0 if run == NO_RUN else minutes_of(read_log(log_of(Path(run), "--after"))) for run in options.after]


def minutes_of(epochs: Epochs) -> float:
    """Minutes of training of a run."""
    return sum(epoch.get("seconds") or 0.0 for epoch in epochs) / 60


def rows_of(run: str, epochs: Epochs) -> list[Row]:
    """A row for each epoch, numbered as in the log."""
    return [{"run": run, **record, "epoch": record["epoch"] - 1} for record in _by_epoch(epochs)]
