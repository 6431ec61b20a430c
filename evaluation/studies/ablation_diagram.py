"""The pictures of an ablation."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from evaluation.drawing.figures import COLORS, draw_estimates, legend_of_models, new_figure, reach, save_figure, tidy
from evaluation.metrics import METRIC_NAMES, STAGE_NAMES
from evaluation.statistics import Estimate
from evaluation.studies.ablation_plan import Plan
from evaluation.tables import Row

SHOWN_METRICS = ("r1", "mAP")


def draw_variants(rows: Sequence[Row], stages: Mapping[str, str], path: Path, title: str) -> None:
    """A panel for each shown metric: means with intervals, and each seed as a dot."""
    names = list(stages)
    figure = new_figure(11, 1.8 + 0.5 * len(names), title)
    for number, metric in enumerate(SHOWN_METRICS):
        axes = figure.add_subplot(1, len(SHOWN_METRICS), number + 1)
        of_metric = {(row["variant"], row["stage"]): row for row in rows if row["metric"] == metric}
        shown = [of_metric[name, stages[name]] for name in names]
        for y, row in enumerate(shown):
            color = COLORS[0] if y == 0 else COLORS[1]
            across = reach([Estimate(row["mean"], row["low"], row["high"], row["seeds"])])
            axes.errorbar([row["mean"]], [y], xerr=across, color=color, marker="o", capsize=3, linewidth=1.6)
            axes.plot(row["by_seed"], [y + 0.22] * row["seeds"], ".", color=color, alpha=0.6, markersize=5)
        axes.axvline(shown[0]["mean"], color=COLORS[0], linestyle=":", linewidth=1)
        tidy(axes, f"{METRIC_NAMES[metric]}, {STAGE_NAMES[stages[names[0]]]}", "per cent", "")
        axes.set_yticks(range(len(names)), names if number == 0 else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
    save_figure(figure, path)


def draw_conditions(rows: Sequence[Row], stages: Mapping[str, str], plan: Plan, path: Path, title: str) -> None:
    """A panel for each shown metric, a line for each variant: means with intervals against its lengths or values."""
    names = {name: [name + condition for condition in plan.conditions()] for name in plan.variants}
    figure = new_figure(11, 5, title)
    panels = [figure.add_subplot(1, len(SHOWN_METRICS), number + 1) for number in range(len(SHOWN_METRICS))]
    for axes, metric in zip(panels, SHOWN_METRICS, strict=True):
        found = {(row["variant"], row["stage"]): row for row in rows if row["metric"] == metric}
        shown = {name: [found[one, stages[one]] for one in trained] for name, trained in names.items()}
        positions, label = (lengths_of if plan.lengths else values_of)(axes, plan, shown)
        order = np.argsort(positions)
        lines = {
            name: [Estimate(row["mean"], row["low"], row["high"], row["seeds"]) for row in (line[at] for at in order)]
            for name, line in shown.items()
        }
        draw_estimates(axes, [positions[at] for at in order], lines)
        tidy(axes, METRIC_NAMES[metric], label, "per cent")
    legend_of_models(figure, panels[0])
    save_figure(figure, path)


def lengths_of(axes: Axes, plan: Plan, shown: Mapping[str, Sequence[Row]]) -> tuple[list[float], str]:
    """Where the lengths of training lie on an axis, and what is written below it."""
    axes.set_xscale("log")
    axes.set_xticks(plan.lengths, [f"{length:g}" for length in plan.lengths])
    axes.minorticks_off()
    minutes = sum(row["minutes"] for line in shown.values() for row in line) / (len(shown) * sum(plan.lengths))
    return plan.lengths, f"length of training (1: {minutes:.1f} minutes, the mean of all)"


def values_of(axes: Axes, plan: Plan, shown: Mapping[str, Sequence[Row]]) -> tuple[list[float], str]:
    """The same of values of a setting: numbers lie where they are, others side by side."""
    ((key, values),) = plan.along.items()
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    all_numbers = len(numbers) == len(values)
    positions = [float(value) for value in (numbers if all_numbers else range(len(values)))]
    axes.set_xticks(positions, [json.dumps(value) for value in values])
    return positions, key
