"""Diagrams without any global state: matplotlib figures of their own, not pyplot, whatever backend is set."""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from evaluation.drawing.fonts import families_for
from evaluation.statistics import Estimate
from utils.files import atomic_write

# told apart by colour-blind readers too (Okabe and Ito)
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

LACKS = "Glyph .* missing from font"  # what matplotlib warns of

Style = dict[str, Any]  # keywords of what matplotlib draws


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """A figure of so many inches whose panels leave room for their labels."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1))
    if title:
        figure.suptitle(title, parse_math=False)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a PNG file. Raises UserError when it cannot be written."""
    canvas = FigureCanvasAgg(figure)
    with atomic_write(path) as temporary:
        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", message=LACKS)
            canvas.print_png(temporary)
        lacking = [warning for warning in caught if re.match(LACKS, str(warning.message))]
        for other in (warning for warning in caught if warning not in lacking):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        if lacking:
            use_other_fonts(figure)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=LACKS)  # was said, in other words
                canvas.print_png(temporary)


def use_other_fonts(figure: Figure) -> None:
    """Let texts have fonts for characters that the usual one lacks; the labels of axes exist once a figure is drawn."""
    texts = figure.findobj(Text)
    families = families_for(text.get_text() for text in texts)
    for text in texts:
        text.set_fontfamily(families)


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
    axes.legend(frameon=False, fontsize="small", ncols=columns, loc="upper center", bbox_to_anchor=(0.5, drop))


def legend_of_models(figure: FigureBase, axes: Axes) -> None:
    """One legend below all panels, of the labels in one of them; none for a single label."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)


def reach(estimates: Sequence[Estimate]) -> list[list[float]]:
    """How far the intervals of estimates reach below and above their means, as error bars want it.

    Never below 0, where rounding puts an end of an interval without width on the other side of its mean.
    """
    return [[max(0.0, one.mean - one.low) for one in estimates], [max(0.0, one.high - one.mean) for one in estimates]]


def style_of(number: int) -> Style:
    """Colour and marker of the model or run of this number."""
    return {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}


def draw_estimates(axes: Axes, x: Sequence[float], lines: Mapping[str, Sequence[Estimate]]) -> None:
    """A line for each name through its estimates at the positions `x`, with intervals as bars."""
    size: Style = {"markersize": 4, "linewidth": 1.6, "elinewidth": 1, "capsize": 3}
    for number, (name, estimates) in enumerate(lines.items()):
        means = [one.mean for one in estimates]
        axes.errorbar(x, means, yerr=reach(estimates), label=name, **style_of(number), **size)
