"""The picture of the contradiction study: what each edit of captions costs, and one caption before and after them."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from evaluation.drawing.figures import Style, legend_of_models, new_figure, reach, save_figure, style_of, tidy
from evaluation.statistics import Estimate
from evaluation.tables import Row

TITLES = {
    "wrong": "one wrong colour",
    "contradicted": "one contradicted",
    "repeated": "one said twice",
    "vague-1": "one vague",
    "vague-2": "two vague",
    "vague-all": "all vague",
    "dropped-1": "one dropped",
    "dropped-half": "half dropped",
    "dropped-rest": "all but one dropped",
}
LINE = 112  # characters in a line of the example below the picture


def draw(path: Path, rows: Sequence[Row], example: tuple[str, Mapping[str, str]], title: str) -> None:
    """R@1 before and after each edit, how often the right person falls behind, and an example below.

    rows: of one stage; example: a caption, and its texts after the edits by their names.
    """
    edits, models = (len({row[key] for row in rows}) for key in ("edit", "model"))
    high = max(2.5, 1.2 + edits * (0.28 + 0.14 * models))
    low = 0.4 + 0.3 * (1 + len(example[1]))
    figure = new_figure(10, high + low, title)
    grid = figure.add_gridspec(2, 1, height_ratios=(high, low))
    plots, texts = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    left, right = plots.subplots(1, 2, sharey=True)
    draw_points(left, rows, "r1_before", "r1_after")
    draw_points(right, rows, "loses_first", "falls_behind")
    tidy(left, "R@1\nhollow: before, filled: after", "per cent", "")
    tidy(right, "right person\nhollow: loses rank 1, filled: falls behind", "per cent of captions", "")
    legend_of_models(plots, left)
    draw_example(texts.subplots(), *example)
    save_figure(figure, path)


def draw_points(axes: Axes, rows: Sequence[Row], hollow: str, filled: str) -> None:
    """Two values of each edit and model, by their columns, with a line between them; rows are those of one stage."""
    edits, models = (list(dict.fromkeys(row[key] for row in rows)) for key in ("edit", "model"))
    for row in rows:
        number = models.index(row["model"])
        y = edits.index(row["edit"]) + (number - (len(models) - 1) / 2) * 0.7 / len(models)
        style: Style = {**style_of(number), "linestyle": "none", "linewidth": 1, "markersize": 6, "capsize": 2}
        axes.plot([row[hollow], row[filled]], [y, y], color=style["color"], linewidth=1, alpha=0.5)
        for column, face in ((hollow, "white"), (filled, style["color"])):
            label = row["model"] if row["edit"] == edits[0] and column == filled else None
            across = reach([Estimate.from_row(row, column, "captions")])
            axes.errorbar(row[column], y, xerr=across, markerfacecolor=face, label=label, **style)
    axes.set_yticks(range(len(edits)), [TITLES[edit] for edit in edits])
    axes.set_ylim(len(edits) - 0.5, -0.5)


def draw_example(axes: Axes, caption: str, texts: Mapping[str, str]) -> None:
    """One caption before and after each edit, as text."""
    axes.axis("off")
    lines = {"as it is": caption, **{TITLES[name]: text for name, text in texts.items()}}
    wrapped = {name: textwrap.wrap(text, LINE, max_lines=2, placeholder=" ...") for name, text in lines.items()}
    total = sum(len(parts) + 0.4 for parts in wrapped.values())
    y = 1.0
    for name, parts in wrapped.items():
        weight = "bold" if name == "as it is" else "normal"
        axes.text(0, y, name, va="top", weight="bold", fontsize="small")
        axes.text(0.19, y, "\n".join(parts), va="top", weight=weight, fontsize="small", parse_math=False)
        y -= (len(parts) + 0.4) / total
