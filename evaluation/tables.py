"""Tables as text: Markdown for results that people keep, aligned columns for the log.

A table is a list of rows; a row maps the name of a column to its value.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.metrics import COUNT_NAMES, METRIC_NAMES

Row = Mapping[str, Any]
StageMetrics = Mapping[str, Mapping[str, Any]]  # stage -> metric or count -> value


def markdown_table(rows: Sequence[Row]) -> str:
    """Rows with the same columns as a Markdown table, aligned; numbers with two decimals."""
    if not rows:
        return ""
    numeric = [isinstance(value, int | float) for value in rows[0].values()]
    head, *lines = align([list(rows[0]), *([as_cell(value) for value in row.values()] for row in rows)], numeric)
    rule = ["-" * (len(cell) - 1) + (":" if right else "-") for cell, right in zip(head, numeric, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def metrics_table(metrics: StageMetrics) -> str:
    """Metrics by stage as aligned text, one line for each stage; columns as in `metric_cells`."""
    head, *lines = metric_cells(metrics)
    cells = [["", *head], *([stage, *line] for stage, line in zip(metrics, lines, strict=True))]
    return "\n".join("  ".join(line) for line in align(cells, [False, *(True for _ in head)]))


def metric_cells(metrics: StageMetrics) -> list[list[str]]:
    """The names of the columns, then the cells of each stage: metrics in per cent with two decimals, then counts.

    `-` stands for a value that is missing. A count that no stage has gets no column, so that `without match` only
    appears when some caption has none.
    """
    counts = [name for name in COUNT_NAMES if any(stage.get(name) for stage in metrics.values())]
    lines = [[*METRIC_NAMES.values(), *(COUNT_NAMES[name] for name in counts)]]
    for stage in metrics.values():
        cells = ["-" if stage.get(name) is None else f"{stage[name]:.2f}" for name in METRIC_NAMES]
        lines.append([*cells, *(str(stage.get(name, "-")) for name in counts)])
    return lines


def align(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> list[list[str]]:
    """Cells padded to the widths of their columns; right: for each column, True = numbers end in one line."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    columns = list(zip(widths, right, strict=True))
    return [
        [
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, (width, at_right) in zip(line, columns, strict=True)
        ]
        for line in lines
    ]


def as_cell(value: Any) -> str:
    """A value of a table as text that cannot break it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")
