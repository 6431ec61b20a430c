"""The picture of the grounding study: bars for models, lines and marks for maps that read no or other words."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from evaluation.drawing.figures import COLORS, MARKERS, Style, new_figure, reach, save_figure, tidy
from evaluation.statistics import Estimate
from evaluation.studies.pointing import MEASURES, WITHOUT_WORDS, with_other
from evaluation.tables import Row

ASIDE = (-0.3, -0.18, 0.3)  # how far the marks of maps without words stand beside the middle of the bars
TITLES = {"pointing": "Pointing game: the peak lies inside", "energy": "Share of the map inside"}


def draw(rows: Sequence[Row], models: Sequence[str], path: Path, gradient_of: str) -> None:
    """Two panels, pointing and energy, by attribute."""
    attributes = list(dict.fromkeys(row["attribute"] for row in rows))
    figure = new_figure(9.5, 8.2, f"Grad-CAM maps ({gradient_of}) against the pixels of their attributes")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, measure in zip(panels, MEASURES, strict=True):
        draw_models(axes, rows, models, attributes, measure)
        draw_without_words(axes, rows, attributes, measure)
        tidy(axes, TITLES[measure], "", "per cent")
        axes.margins(x=0.02)
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


def draw_models(
    axes: Axes, rows: Sequence[Row], models: Sequence[str], attributes: Sequence[str], measure: str
) -> None:
    """Bars of the models side by side at each attribute, with intervals, and a line for maps of other attributes."""
    width = 0.8 / len(models)
    bars: Style = {"alpha": 0.75, "error_kw": {"elinewidth": 1.2, "capsize": 2}}
    for number, name in enumerate(models):
        x = np.arange(len(attributes)) + (number - (len(models) - 1) / 2) * width
        own = estimates_of(rows, name, attributes, measure)
        color = COLORS[number % len(COLORS)]
        axes.bar(x, [one.mean for one in own], 0.92 * width, yerr=reach(own), color=color, label=name, **bars)
        others = [one.mean for one in estimates_of(rows, with_other(name), attributes, measure)]
        lines = axes.hlines(others, x - 0.46 * width, x + 0.46 * width, color="black", linewidth=2.2)
        if number == 0:
            lines.set_label("map of another attribute")


def draw_without_words(axes: Axes, rows: Sequence[Row], attributes: Sequence[str], measure: str) -> None:
    """Marks of the maps that read no word."""
    hollow: Style = {"color": "white", "markeredgecolor": "black", "markersize": 6}
    for marker, name, aside in zip(MARKERS[1:4], WITHOUT_WORDS, ASIDE, strict=True):
        means = [one.mean for one in estimates_of(rows, name, attributes, measure)]
        axes.plot(np.arange(len(attributes)) + aside, means, marker, label=name, **hollow)


def estimates_of(rows: Sequence[Row], name: str, attributes: Sequence[str], measure: str) -> list[Estimate]:
    """The estimates of one kind of map, for each attribute."""
    of_map = {row["attribute"]: row for row in rows if row["map"] == name}
    return [Estimate.from_row(of_map[attribute], measure, "mentions") for attribute in attributes]
