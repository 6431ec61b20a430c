"""The tables of a report's page: scores with their intervals, and differences in points."""

from collections.abc import Sequence
from html import escape

from evaluation.metrics import METRIC_NAMES
from evaluation.reporting.scores import WITH_INTERVAL, Difference, ScoreRow, p_text
from evaluation.tables import metric_cells


def score_table(rows: Sequence[ScoreRow]) -> str:
    """A line for each row: metrics in per cent, some with their interval below, then the counts that any has."""
    heads, *lines = metric_cells({row.name: row.metrics for row in rows})
    body = []
    for row, cells in zip(rows, lines, strict=True):
        found = [row.estimates.get(metric) for metric in METRIC_NAMES]
        below = ["" if one is None else f"<small>{one.low:.2f} to {one.high:.2f}</small>" for one in found]
        below += [""] * (len(cells) - len(below))
        columns = [f"{escape(cell)}{small}" for cell, small in zip(cells, below, strict=True)]
        body.append(_line(row.name, columns, row.role))
    return _table(["per cent", *heads], body)


def difference_table(differences: Sequence[Difference]) -> str:
    """A line for each difference: points with interval and p-value for each metric."""
    body = [
        _line(
            one.name,
            [
                f"{found.mean:+.2f}<small>{found.low:+.2f} to {found.high:+.2f}</small>"
                f"<small>{escape(p_text(one.p_values[metric]))}</small>"
                for metric, found in one.estimates.items()
            ],
        )
        for one in differences
    ]
    return _table(["difference in points", *(METRIC_NAMES[metric] for metric in WITH_INTERVAL)], body)


def _table(heads: Sequence[str], lines: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _line(name: str, columns: Sequence[str], role: str = "") -> str:
    """A line of a table; columns: HTML."""
    attribute = f' class="{role}"' if role else ""
    cells = "".join(f"<td>{column}</td>" for column in columns)
    return f'<tr{attribute}><th scope="row">{escape(name)}</th>{cells}</tr>'
