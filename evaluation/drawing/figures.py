"""Diagrams without any global state: matplotlib figures of their own, not pyplot, whatever backend is set."""

import os
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation.statistics import Estimate
from utils.files import atomic_write

# told apart by colour-blind readers too (Okabe and Ito)
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """A figure of so many inches whose panels leave room for their labels."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1, w_pad=0.1)
    if title:
        figure.suptitle(title, parse_math=False)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a PNG file. Raises UserError when it cannot be written."""
    with atomic_write(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def tidy(axes: Axes, title: str, x: str, y: str) -> None:
    """Title and labels as they are written, and no more lines than needed."""
    axes.set_title(title, parse_math=False)
    axes.set_xlabel(x, parse_math=False)
    axes.set_ylabel(y, parse_math=False)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(axes: Axes, columns: int, drop: float = -0.2) -> None:
    """A legend that never lies on top of a line; drop: how far below the panel, in its heights."""
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, drop)}
    axes.legend(frameon=False, fontsize="small", ncols=columns, **below)


def draw_estimates(axes: Axes, x: Sequence[float], lines: Mapping[str, Sequence[Estimate]]) -> None:
    """A line for each name through its estimates at the places `x`, with intervals as bars."""
    for number, (name, estimates) in enumerate(lines.items()):
        means = [estimate.mean for estimate in estimates]
        reach = [
            [estimate.mean - estimate.low for estimate in estimates],
            [estimate.high - estimate.mean for estimate in estimates],
        ]
        axes.errorbar(
            x,
            means,
            yerr=reach,
            label=name,
            color=COLORS[number % len(COLORS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linewidth=1.6,
            elinewidth=1,
            capsize=3,
        )
