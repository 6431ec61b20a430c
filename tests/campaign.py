"""What the tests of reliability promise, counted: trials planned, survived and failed.

A test that keeps a promise is marked with its name, `pytest.mark.promise("Killed anywhere")`. One that tries something
many times counts how often by the `trials` fixture; any other is one trial. `--campaign FILE` (see shell/torture.sh)
shows how trials go on, and writes a table of all of them.
"""

import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tqdm import tqdm

COLUMNS = ("promise", "trials", "planned", "survived", "failed", "measured")


class Trials:
    """One thing that a test tries `planned` times."""

    def __init__(self, what: str, planned: int, bar: tqdm | None):
        self.what, self.planned, self.survived, self.bar = what, planned, 0, bar
        self.figures: dict[str, tuple[float, str]] = {}

    def survive(self, times: int = 1) -> None:
        """So many more went well."""
        self.survived += times
        if self.bar is not None:
            self.bar.update(times)

    @contextmanager
    def one(self) -> Iterator[None]:
        """One of them, which goes well unless the block raises."""
        yield
        self.survive()

    def measure(self, name: str, value: float, unit: str = "s") -> None:
        """A figure of this trial, from 0 on; of several, the greatest is shown."""
        self.figures[name] = (max(float(value), self.figures.get(name, (0.0,))[0]), unit)


@pytest.fixture
def trials(request) -> Iterator[Callable[[str, int], Trials]]:
    """`trials(what, planned)`: counts them. All that were planned must have gone well when the test ends well."""
    started: list[Trials] = []

    def start(what: str, planned: int) -> Trials:
        shown = request.config.getoption("campaign") and planned > 1
        screen = request.config.get_terminal_writer()
        bar = tqdm(total=planned, desc=what, file=screen, ascii=True, leave=False) if shown else None
        started.append(Trials(what, planned, bar))
        return started[-1]

    request.node.trials = started
    yield start
    for one in started:
        if one.bar is not None:
            one.bar.close()
    ended_well = getattr(request.node, "ended_well", False)
    assert not ended_well or all(one.survived == one.planned for one in started), "not all trials were counted"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Tells the fixture how the test ended; the report has its promise and trials, also in another process."""
    report = yield
    marker = item.get_closest_marker("promise")
    report.promise = marker.args[0] if marker else None
    if report.when == "call":
        item.ended_well = report.passed
    report.trials = [(one.what, one.planned, one.survived, one.figures) for one in getattr(item, "trials", [])]
    return report


def pytest_addoption(parser) -> None:
    parser.addoption("--campaign", type=Path, metavar="FILE", help="write a table of all trials of reliability")


def pytest_configure(config) -> None:
    config.addinivalue_line("markers", "promise(name): what users may rely on, of which this test is a trial")
    config.campaign_began = time.time()


Row = tuple[int, int, dict[str, tuple[float, str]]]  # planned, survived, figures


def rows_of(reports: list) -> dict[tuple[str, str], Row]:
    """(promise, what was tried) -> its counts, from the last report of every test."""
    rows: dict[tuple[str, str], Row] = {}
    for report in reports:
        counted = getattr(report, "trials", []) or [("other cases", 1, int(report.passed), {})]
        for what, planned, survived, figures in counted:
            before = rows.get((report.promise, what), (0, 0, {}))
            merged = {name: max(figure, before[2].get(name, figure)) for name, figure in figures.items()}
            rows[report.promise, what] = (before[0] + planned, before[1] + survived, {**before[2], **merged})
    return rows


def table_of(rows: dict[tuple[str, str], Row]) -> str:
    """All rows in Markdown, and their sum."""
    lines = [list(COLUMNS), ["---", "---", "---:", "---:", "---:", "---"]]
    for (promise, what), (planned, survived, figures) in sorted(rows.items()):
        measured = ", ".join(f"{name} {value:.3g} {unit}".strip() for name, (value, unit) in figures.items())
        lines.append([promise, what, f"{planned:,}", f"{survived:,}", f"{planned - survived:,}", measured])
    planned, survived = (sum(row[place] for row in rows.values()) for place in (0, 1))
    lines.append(["**all**", "", f"{planned:,}", f"{survived:,}", f"{planned - survived:,}", ""])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def pytest_terminal_summary(terminalreporter, config) -> None:
    """Show the table and write it, when asked for one."""
    if not config.getoption("campaign"):
        return
    stats = terminalreporter.stats
    ended = [report for kind in ("passed", "failed", "error") for report in stats.get(kind, [])]
    last = {report.nodeid: report for report in ended if getattr(report, "promise", None)}
    if not last:
        return
    from benchmarks.measure import describe_machine  # slow to import, and seldom asked for

    table, minutes = table_of(rows_of(list(last.values()))), (time.time() - config.campaign_began) / 60
    skipped = len(stats.get("skipped", []))
    today = datetime.date.today()
    note = f"{today}, {minutes:.0f} minutes, on {describe_machine()}."
    note += f" {skipped} tests were skipped." if skipped else ""
    terminalreporter.section("trials")
    terminalreporter.write_line(table)
    path = config.getoption("campaign")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{note}\n\n{table}\n", encoding="utf-8")
    terminalreporter.write_line(f"written to {path}")
