"""What a run reaches as a picture: a dot and an interval for each line of the table, dashed lines at the ceiling."""

import os
from collections.abc import Mapping
from typing import Any

from evaluation.drawing.figures import legend_of_models, new_figure, reach, save_figure, style_of, tidy
from evaluation.metrics import METRIC_NAMES
from evaluation.statistics import Estimate

APART = 0.13  # of the distance of two lines, by which each metric stands off the middle


def draw_scores(
    rows: Mapping[str, Mapping[str, Estimate]], ceiling: Mapping[str, Any], path: str | os.PathLike
) -> None:
    """Draw the estimates of each row, by metric, from top to bottom into a PNG file.

    ceiling: metrics in per cent, where they are known. Raises UserError when the file cannot be written.
    """
    figure = new_figure(5.6, 1.3 + 0.42 * len(rows))
    axes = figure.add_subplot()
    metrics = list(dict.fromkeys(metric for estimates in rows.values() for metric in estimates))
    for number, metric in enumerate(metrics):
        known = [(line, found[metric]) for line, found in enumerate(rows.values()) if metric in found]
        heights = [line + APART * (2 * number - len(metrics) + 1) for line, _ in known]
        estimates, style = [one for _, one in known], style_of(number)
        means = [one.mean for one in estimates]
        axes.errorbar(
            means, heights, xerr=reach(estimates), label=METRIC_NAMES[metric], linestyle="", capsize=3, **style
        )
        if ceiling.get(metric) is not None:
            dashed: dict[str, Any] = {"linestyle": (0, (6, 3)), "linewidth": 1.2, "color": style["color"]}
            axes.axvline(ceiling[metric], label=f"{METRIC_NAMES[metric]} ceiling", **dashed)
    tidy(axes, "", "per cent, with 95% intervals by people", "")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    legend_of_models(figure, axes)
    save_figure(figure, path)
