"""Draws how true probabilities are, and how many people are found at each rate of false alarms.

Letters: C searches, N hits of each.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from evaluation.drawing.figures import COLORS, Style, legend_of_models, new_figure, save_figure, style_of, tidy
from evaluation.metrics import STAGE_NAMES
from evaluation.open_set_metrics import BINS, OpenSearches, bin_of
from evaluation.statistics import estimate

FEWEST = 10  # hits of a bin that is drawn
LOWEST_RATE = 0.1  # per cent of false alarms, where that axis begins
LINES = {"stage1": "--", "reranked": "-"}

Found = Mapping[str, Mapping[str, OpenSearches]]  # model -> stage -> searches


def draw_reliability(path: Path, found: Found, title: str, seed: int) -> None:
    """A panel for each stage, of the best hits of each model, and one of false alarms and people found."""
    stages = [stage for stage in STAGE_NAMES if any(stage in of_model for of_model in found.values())]
    figure = new_figure(4.2 * (len(stages) + 1), 5.2, title)
    for number, stage in enumerate(stages, 1):
        axes = figure.add_subplot(1, len(stages) + 1, number)
        for model, (label, of_model) in enumerate(found.items()):
            if stage in of_model:
                draw_bins(axes, of_model[stage], label, style_of(model), seed)
        axes.plot([0, 100], [0, 100], color="#999999", linewidth=1, linestyle=":")
        axes.set_aspect("equal")
        tidy(axes, f"{STAGE_NAMES[stage]}: best hits", "probability (%)", "right (%)" if number == 1 else "")
    curves = figure.add_subplot(1, len(stages) + 1, len(stages) + 1)
    for model, (label, of_model) in enumerate(found.items()):
        for stage, searches in of_model.items():
            draw_curve(curves, searches, f"{label}, {STAGE_NAMES[stage]}", COLORS[model % len(COLORS)], LINES[stage])
    curves.set_xscale("log")
    curves.set_xlim(LOWEST_RATE, 100)
    curves.set_ylim(0, 100)
    curves.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    tidy(curves, "people found; dots: at fitted thresholds", "false alarms, FPIR (%)", "found, TPIR (%)")
    legend_of_models(figure, curves)
    save_figure(figure, path)


def draw_bins(axes: Axes, found: OpenSearches, label: str, style: Style, seed: int) -> None:
    """The share of right best hits against their mean probability, with intervals over people."""
    values, right, bins = found.probabilities[:, 0], found.right[:, 0], bin_of(found.probabilities[:, 0])
    inside = [bins == number for number in range(BINS)]
    inside = [one for one in inside if one.sum() >= FEWEST]
    shares = [estimate(100 * right[one], found.people[one], seed) for one in inside]
    means = [100 * values[one].mean() for one in inside]
    reach = [[one.mean - one.low for one in shares], [one.high - one.mean for one in shares]]
    size: Style = {"markersize": 5, "linewidth": 1.4, "elinewidth": 1, "capsize": 3}
    axes.errorbar(means, [one.mean for one in shares], yerr=reach, label=label, **style, **size)


def draw_curve(axes: Axes, found: OpenSearches, label: str, color: str, line: str) -> None:
    """People found against false alarms, both of these searches; marks: at the thresholds chosen before."""
    best, present = found.scores[:, 0], found.present
    thresholds = np.unique(best)[::-1]
    right = np.sort(best[present & found.right[:, 0]])
    wrong = np.sort(best[~present])
    beyond = [len(each) - np.searchsorted(each, thresholds, side="left") for each in (wrong, right)]
    axes.plot(
        100 * beyond[0] / max(len(wrong), 1), 100 * beyond[1] / max(present.sum(), 1), line, color=color, label=label
    )
    for threshold in found.thresholds.values():
        rate, share = 100 * (wrong > threshold).mean(), 100 * (right > threshold).sum() / max(present.sum(), 1)
        axes.plot([max(rate, LOWEST_RATE)], [share], marker="o", markersize=5, color=color)
