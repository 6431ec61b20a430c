"""What a run reaches, with intervals, beside what it started from.

C captions, P right images of the caption that has most of them.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.metrics import CEILING, METRIC_NAMES
from evaluation.results import AGAIN, RankingFile, read_metrics, read_rankings
from evaluation.statistics import Estimate, estimate, paired_p_value
from evaluation.studies.comparison import values_of
from utils.errors import UserError

logger = logging.getLogger(__name__)

WITH_INTERVAL = ("r1", "mAP")
WAYS = {  # what a reader calls the stages
    "bge": "by the global embedding alone",
    "tse": "by selected tokens alone",
    "stage1": "by embeddings",
    "reranked": "re-ranked",
}
ROUNDING = 0.005  # per cent by which a mean over captions may differ from metrics.json

CaptionValues = dict[str, dict[str, np.ndarray]]  # stage -> metric -> per cent of each caption [C]


@dataclass
class Evaluated:
    """metrics.json and rankings.npz of an output folder, as far as they are there."""

    folder: Path
    metrics: dict[str, dict[str, Any]]
    rankings: RankingFile | None
    _values: CaptionValues | None = field(default=None, init=False, repr=False)

    @property
    def values(self) -> CaptionValues:
        """The metrics of each caption by stage, where rankings.npz holds ranks and they are those of metrics.json."""
        if self._values is None:
            found = values_of_captions(self.rankings) if self.rankings is not None else {}
            self._values = found if self._agree(found) else {}
        return self._values

    def _agree(self, values: CaptionValues) -> bool:
        pairs = [
            (self.metrics[stage][name], by_metric[name].mean())
            for stage, by_metric in values.items()
            for name in WITH_INTERVAL
            if stage in self.metrics and self.metrics[stage].get(name) is not None
        ]
        agree = all(abs(told - mean) <= ROUNDING for told, mean in pairs)
        if not agree:
            other = "metrics.json and rankings.npz are of different evaluations, and intervals are left out"
            logger.warning("%s: %s; evaluate again", self.folder, other)
        return agree

    @property
    def people(self) -> np.ndarray:
        """The identity of each caption [C]; captions of one person err together."""
        if self.rankings is None:
            raise ValueError(f"{self.folder} has no rankings")
        return self.rankings.caption_identities


@dataclass(frozen=True)
class ScoreRow:
    """A line of the table: metrics and counts as in metrics.json, and estimates of those of `WITH_INTERVAL`."""

    name: str
    metrics: Mapping[str, Any]
    estimates: Mapping[str, Estimate]
    role: str = ""  # "final" or "ceiling"


@dataclass(frozen=True)
class Difference:
    """Points by which one result is better than another on the same captions, by metric."""

    name: str
    estimates: Mapping[str, Estimate]
    p_values: Mapping[str, float]


@dataclass(frozen=True)
class Scores:
    """The table of a report, and the differences below it; people: how many the intervals are over, 0 = none."""

    rows: Sequence[ScoreRow]
    differences: Sequence[Difference]
    people: int


def values_of_captions(rankings: RankingFile) -> CaptionValues:
    """The metrics of each caption by stage; empty where the file has no ranks, or no caption."""
    if not len(rankings.captions):
        return {}
    ranks = {stage: torch.from_numpy(found.astype(np.int64)) for stage, found in rankings.ranks.items()}
    return {stage: values_of(found) for stage, found in ranks.items()}


def scores_of(run: Evaluated, start: Evaluated | None, seed: int) -> Scores:
    """The rows and differences of a run, and of what it started from."""
    rows = [*rows_of(start, "start, ", seed), *rows_of(run, "this run, ", seed)] if start else rows_of(run, "", seed)
    if run.metrics.get(CEILING):
        rows.append(ScoreRow("ceiling", run.metrics[CEILING], {}, "ceiling"))
    people = len(set(run.people)) if run.metrics and run.values else 0
    return Scores(rows, differences_of(run, start, seed) if people else [], people)


def rows_of(evaluated: Evaluated, prefix: str, seed: int) -> list[ScoreRow]:
    """A row for each stage; the last one of the run itself is final."""
    stages = [stage for stage in evaluated.metrics if stage != CEILING]
    rows = []
    for stage in stages:
        metrics, values = evaluated.metrics[stage], evaluated.values.get(stage, {})
        estimates = {
            name: estimate(values[name], evaluated.people, seed)
            for name in WITH_INTERVAL
            if name in values and metrics.get(name) is not None
        }
        final = stage == stages[-1] and not prefix.startswith("start")
        rows.append(ScoreRow(f"{prefix}{WAYS[stage]}", metrics, estimates, "final" if final else ""))
    return rows


def differences_of(run: Evaluated, start: Evaluated | None, seed: int) -> list[Difference]:
    """Re-ranking over embeddings, then the run over its start: by each stage that both have, and by their last ones."""
    pairs = []
    if "reranked" in run.values:
        pairs.append(("re-ranking over embeddings alone", run.values["reranked"], run.values["stage1"]))
    if start is not None:
        common = [stage for stage in run.values if stage in start.values]
        pairs += [(f"this run over start, {WAYS[stage]}", run.values[stage], start.values[stage]) for stage in common]
        last, first = list(run.values)[-1], list(start.values)[-1]
        if last != first:
            name = f"this run, {WAYS[last]}, over start, {WAYS[first]}"
            pairs.append((name, run.values[last], start.values[first]))
    return [difference_of(name, better, worse, run.people, seed) for name, better, worse in pairs]


def difference_of(
    name: str, one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], people: np.ndarray, seed: int
) -> Difference:
    """`one` minus `other`, metric -> [C] each, paired by caption and resampled by people [C]."""
    return Difference(
        name,
        {metric: estimate(one[metric] - other[metric], people, seed) for metric in WITH_INTERVAL},
        {metric: paired_p_value(one[metric], other[metric], people, seed) for metric in WITH_INTERVAL},
    )


def difference_lines(differences: Sequence[Difference]) -> list[str]:
    """A line of text for each difference: points with their interval, and p-values."""
    lines = []
    for one in differences:
        parts = [
            f"{METRIC_NAMES[metric]} {found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}], {p_text(p_value)}"
            for (metric, found), p_value in zip(one.estimates.items(), one.p_values.values(), strict=True)
        ]
        lines.append(f"{one.name}: {'; '.join(parts)}")
    return lines


def p_text(value: float) -> str:
    """A p-value in words."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


# ---- what a run started from -----------------------------------------------------------


def read_start(folder: Path, run: Evaluated) -> Evaluated:
    """The evaluation of the weights that a run started from.

    Raises UserError when a file is missing or damaged, or it is not of the same captions and images as the run.
    """
    how = "python Retrieval.py --config CONFIG --checkpoint START --evaluate --output_dir FOLDER leaves both"
    for name in ("metrics.json", "rankings.npz"):
        if not (run.folder / name).is_file():
            raise UserError(f"--start is compared with the run, and {run.folder} holds no {name}: evaluate the run")
        if not (folder / name).is_file():
            raise UserError(f"--start {folder} holds no {name}: name the output folder of an evaluation; {how}")
    if folder.resolve() == run.folder.resolve():
        raise UserError(f"--start {folder} is the run itself: name an evaluation of the weights that it started from")
    start = Evaluated(folder, read_metrics(folder / "metrics.json"), read_rankings(folder / "rankings.npz"))
    require_same(start, run)
    return start


def require_same(start: Evaluated, run: Evaluated) -> None:
    """Raises UserError unless both are of the same captions and images, and say how every caption did."""
    one, other = start.rankings, run.rankings
    if one is None or other is None:
        raise ValueError("both need rankings")
    parts = {"captions": ("captions", "caption_identities"), "images": ("image_paths", "image_identities")}
    for what, names in parts.items():
        if not all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names):
            counts = f"{len(getattr(one, names[0]))} and {len(getattr(other, names[0]))} {what}"
            raise UserError(
                f"--start {start.folder} was evaluated on other {what} than {run.folder} ({counts}):"
                " evaluate it with the test_file and test_image_root of the run"
            )
    for evaluated in (start, run):
        if not evaluated.values:
            raise UserError(
                f"--start: rankings.npz of {evaluated.folder} does not say how each caption did as metrics.json has it,"
                f" and cannot be compared: {AGAIN}"
            )
