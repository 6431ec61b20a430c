"""Training curves: every loss, the learning rate, the gradient norm and the validation metrics over the epochs."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from evaluation.figures import COLORS, legend_below, new_figure, save_figure, tidy
from evaluation.metrics import METRIC_NAMES, STAGE_NAMES

PANELS_IN_A_ROW = 4
MOST_DOTS = 20
STAGE_STYLES = {"stage1": {"linestyle": "--", "marker": "s"}, "reranked": {"linestyle": "-", "marker": "o"}}

Epochs = Sequence[Mapping[str, Any]]
Lines = list[tuple[str, list[float], list[float], dict]]  # label, epochs, values, line style


def as_points(epoch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is drawn of an epoch's losses: a record per portion of its curve, or one without a curve.

    `epoch` of a point is how many epochs were trained by then; the log numbers epochs from 0.
    """
    curve = epoch.get("curve")
    if curve:
        return [dict(zip(curve, values, strict=True)) for values in zip(*curve.values(), strict=True)]
    alone = {name: epoch.get(name) for name in ("lr", "grad_norm")}
    return [{**epoch.get("train", {}), **alone, "epoch": epoch["epoch"] + 1}]


def has_curves(epoch: Mapping[str, Any]) -> bool:
    """True where the record of an epoch holds anything that is drawn."""
    return any(epoch.get(name) for name in ("train", "curve", "val", "test")) or epoch.get("lr") is not None


def draw_curves(epochs: Epochs, path: str | os.PathLike, title: str = "") -> None:
    """Draw the epochs of a log, in ascending order, into a PNG file of one panel per quantity.

    An epoch has `epoch`, and any of `train` (losses by name), `lr`, `grad_norm`, `curve` (lists of
    these by name, one value per portion of the epoch), and `val` or `test` (metrics in per cent
    by stage). Raises UserError when the file cannot be written.
    """
    points = [point for epoch in epochs for point in as_points(epoch)]
    panels = [(f"loss: {name}", "loss", _single_line(points, name)) for name in _losses(epochs)]
    panels.append(("learning rate", "learning rate", _single_line(points, "lr")))
    panels.append(("gradient norm", "norm", _single_line(points, "grad_norm")))
    for split, name in (("val", "validation"), ("test", "selection on the test split")):
        panels += [(f"{name}: {stage}", "per cent", lines) for stage, lines in _metric_lines(epochs, split).items()]
    panels = [panel for panel in panels if panel[2]]
    rows = math.ceil(len(panels) / PANELS_IN_A_ROW)
    figure = new_figure(4 * PANELS_IN_A_ROW, 3 * max(rows, 1), title)
    for number, (name, unit, lines) in enumerate(panels):
        _draw_panel(figure.add_subplot(rows, PANELS_IN_A_ROW, number + 1), name, unit, lines)
    save_figure(figure, path)


def _draw_panel(axes: Axes, title: str, unit: str, lines: Lines) -> None:
    """One quantity over the epochs; few points are dots too, so that a single one is seen."""
    for label, epochs, values, style in lines:
        style = {"marker": "o", **style} if len(epochs) <= MOST_DOTS else {**style, "marker": None}
        axes.plot(epochs, values, markersize=4, linewidth=1.6, label=label, **style)
    tidy(axes, title, "epochs trained", unit)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if unit == "learning rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    if len(lines) > 1:
        legend_below(axes, 3 if len(lines) > 4 else 2)


def _losses(epochs: Epochs) -> list[str]:
    """Names of the losses: the total first, then in the order of the log."""
    names = dict.fromkeys(name for epoch in epochs for name in epoch.get("train", {}))
    return sorted(names, key=lambda name: name != "total")


def _metric_lines(epochs: Epochs, split: str) -> dict[str, Lines]:
    """The lines of each panel of a split: the metrics of stage 1 and of the re-ranked result.

    R@1 and mAP of both stages share the first panel: they say what re-ranking brings.
    """
    validated = [{**epoch[split], "epoch": epoch["epoch"] + 1} for epoch in epochs if epoch.get(split)]
    lines: dict[str, Lines] = {"R@1 and mAP": []}
    for stage, stage_name in STAGE_NAMES.items():
        records = [{**record.get(stage, {}), "epoch": record["epoch"]} for record in validated]
        for color, metric in zip(COLORS, ("r1", "mAP"), strict=False):
            style = {"color": color, **STAGE_STYLES[stage]}
            label = f"{METRIC_NAMES[metric]} {stage_name}"
            lines["R@1 and mAP"] += _single_line(records, metric, label, style)
        lines[stage_name] = [
            line
            for color, (metric, name) in zip(COLORS, METRIC_NAMES.items(), strict=False)
            for line in _single_line(records, metric, name, {"color": color})
        ]
    return lines


def _single_line(records: Epochs, name: str, label: str = "", style: dict | None = None) -> Lines:
    """The line of one value over the records that have it; no line when none has."""
    points = [(record["epoch"], record[name]) for record in records if record.get(name) is not None]
    if not points:
        return []
    x, y = map(list, zip(*points, strict=True))
    return [(label, x, y, style or {"color": COLORS[0]})]
