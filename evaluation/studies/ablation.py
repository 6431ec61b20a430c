"""Trains variants of a configuration with several seeds: which differences are more than chance?

    python -m evaluation ablation --config configs/ablations/demo.yaml --output_dir output/ablation --processes 2

The YAML file names a configuration, what runs start from, seeds, and variants: settings as of --set. Every variant is
trained with every seed, several side by side; finished runs are not repeated, and an interrupted run is resumed.
Results are read from the rankings of each run. Letters: C captions, S seeds.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from configs.schema import REPOSITORY
from evaluation.metrics import METRIC_NAMES, STAGE_NAMES, of_captions
from evaluation.results import RankingFile, read_log, read_rankings
from evaluation.statistics import detectable_difference, estimate, paired_p_value
from evaluation.studies.ablation_diagram import SHOWN_METRICS, draw_conditions, draw_variants
from evaluation.studies.ablation_plan import MADE_WITH, Plan, Training, all_runs, check, read_plan, trainings
from evaluation.studies.jobs import Job, run_jobs
from evaluation.studies.study import Study, add_settings, study
from evaluation.tables import Row, markdown_table
from utils.checkpoints.run_folder import RunFolder
from utils.errors import CommandParser, UserError
from utils.files import atomic_write, write_json
from utils.interruption import Interruption
from utils.processes.parallel import available_cores


def add_options(parser: CommandParser) -> None:
    start = "what all runs start from, in place of what the study says"
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the study")
    parser.add_argument("--checkpoint", type=Path, help=start)
    add_settings(parser, "settings of all runs, below those of their variants")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="runs side by side (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--report", action="store_true", help="train nothing: report the runs that are finished")


@study(add_options, results="output/ablations/NAME of the repository, by the name of the study's YAML file")
def main(study: Study) -> None:
    """Train what is not finished, and compare the variants."""
    options = study.options
    if options.processes < 1:
        raise UserError(f"--processes must be 1 or more, not {options.processes}")
    plan = read_plan(options.config, options.overrides, options.checkpoint)
    study.choose_folder(REPOSITORY / "output/ablations" / options.config.stem)
    by_variant = trainings(plan, study.folder.absolute())
    if not options.report:
        Interruption().listen()
        with RunFolder(study.folder).claimed():
            run_all(all_runs(by_variant), options.processes, options.device)
    finished = {name: [run for run in runs if run.finished()] for name, runs in by_variant.items()}
    missing = [name for name, runs in finished.items() if not runs]
    if missing:
        raise UserError(f"{study.folder}: no run of variant {missing[0]} is finished; leave out --report to train it")
    report(study, plan, {name: read_outcome(runs) for name, runs in finished.items()})


def report(study: Study, plan: Plan, outcomes: Mapping[str, "Outcome"]) -> None:
    """Leave ablation.csv, .json, .md and .png."""
    rows, stages = compare(outcomes, plan, study.seed), {name: one.stage for name, one in outcomes.items()}
    lines = summary(rows, stages)
    table = markdown_table(lines)
    captions = f"{len(next(iter(outcomes.values())).people)} captions; bars: 95 % interval over people"
    if plan.lengths or plan.along:
        draw_conditions(rows, stages, plan, study.picture, captions)
    else:
        draw_variants(rows, stages, study.picture, f"{captions}, small dots: each seed")
    with atomic_write(study.picture.with_suffix(".md")) as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    study.finish(rows, table, base=plan.base, seeds=plan.seeds, summary=lines)


@dataclass(frozen=True)
class Outcome:
    """A variant's results: for each stage and metric, per cent by seed and caption [S, C]; minutes [S] of training."""

    values: dict[str, dict[str, np.ndarray]]
    people: np.ndarray
    minutes: list[float] = field(default_factory=list)

    @property
    def stage(self) -> str:
        """The final stage."""
        return list(self.values)[-1]

    def of(self, stage: str, metric: str) -> np.ndarray | None:
        """Per cent by seed and caption [S, C]; None where there is no such stage."""
        return self.values.get(stage, {}).get(metric)


# ---- running ---------------------------------------------------------------------------


def run_all(runs: Sequence[Training], processes: int, device: str) -> None:
    """Train what is not finished, `processes` at a time. Raises UserError when a run fails."""
    for run in runs:
        check(run)
    left = [run for run in runs if not run.finished()]
    for run in left:
        write_json(run.folder / MADE_WITH, run.made_with(), indent=2)
    jobs = [Job(run.name, run.command(device), run.folder / "messages.txt", run.after) for run in left]
    with tqdm(total=len(runs), initial=len(runs) - len(jobs), desc="runs", unit="run") as bar:

        def show(running: list[str]) -> None:
            bar.set_postfix_str("; ".join(running), refresh=False)
            bar.refresh()

        def count(job: Job) -> None:
            bar.update()

        run_jobs(jobs, processes, lambda slot: environment(slot, processes), count, show)


def environment(slot: int, processes: int) -> dict[str, str]:
    """Each run has its share of the cores, and one GPU where there are several."""
    shared = {"OMP_NUM_THREADS": str(max(1, available_cores() // processes))} if processes > 1 else {}
    gpus = torch.cuda.device_count()
    if gpus > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
        shared["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
    return shared


# ---- results ---------------------------------------------------------------------------


def read_outcome(runs: Sequence[Training]) -> Outcome:
    """Raises UserError when rankings cannot be read, or are not of the same captions."""
    read = [read_rankings(run.folder / "rankings.npz") for run in runs]
    for run, rankings in zip(runs, read, strict=True):
        if not rankings.ranks:
            raise UserError(f"{run.folder / 'rankings.npz'} lacks the ranks of right images: evaluate the run again")
        if not np.array_equal(rankings.captions, read[0].captions):
            raise UserError(f"{run.folder} was evaluated on other captions than {runs[0].folder}; evaluate it again")
    stages = [stage for stage in STAGE_NAMES if all(stage in rankings.ranks for rankings in read)]
    values = {
        stage: {metric: np.stack([of_run(rankings, stage)[metric] for rankings in read]) for metric in METRIC_NAMES}
        for stage in stages
    }
    minutes = [sum(epoch.get("seconds") or 0 for epoch in read_log(run.folder / "log.txt")) / 60 for run in runs]
    return Outcome(values, read[0].caption_identities, minutes)


def of_run(rankings: RankingFile, stage: str) -> dict[str, np.ndarray]:
    """Per cent by metric: [C]."""
    found = of_captions(torch.from_numpy(rankings.ranks[stage]))
    return {metric: 100 * values.numpy() for metric, values in found.items()}


def compare(outcomes: Mapping[str, Outcome], plan: Plan, seed: int) -> list[Row]:
    """A row for each variant, stage and metric: how it differs from the base, and what it keeps `along` values.

    The final stage is compared to that of the base, even if one of them re-ranks alone; another one to its namesake.
    """
    people = next(iter(outcomes.values())).people
    for name, outcome in outcomes.items():
        if not np.array_equal(outcome.people, people):
            raise UserError(f"variant {name} was evaluated on other captions than the base; give both one test_file")
    compared, before = plan.compared(), plan.before()
    rows: list[Row] = []
    for name, outcome in outcomes.items():
        base = compared[name]
        for stage, metrics in outcome.values.items():
            base_stage = outcomes[base].stage if stage == outcome.stage else stage
            for metric, values in metrics.items():
                of_base = None if name == base else outcomes[base].of(base_stage, metric)
                row: dict[str, Any] = {"variant": name, "stage": stage, "metric": metric}
                row |= compare_values(values, of_base, people, seed) | {"minutes": float(np.mean(outcome.minutes))}
                if name in before:
                    own = kept(values, outcomes[before[name]].of(stage, metric))
                    base_kept = kept(of_base, outcomes[before[base]].of(base_stage, metric))
                    row |= compare_kept(own, base_kept, people, seed)
                rows.append(row)
    return rows


def compare_values(values: np.ndarray, base: np.ndarray | None, people: np.ndarray, seed: int) -> dict[str, Any]:
    """values, base [S, C]. The standard deviation is over seeds; interval, p-value and the smallest difference that is
    told from chance are over people, of the mean over seeds: the former says how far chance in training moves a result,
    the latter how far other people would."""
    by_seed, mean = values.mean(1), values.mean(0)
    found = estimate(mean, people, seed)
    row = {
        "mean": found.mean,
        "std": spread(by_seed),
        "low": found.low,
        "high": found.high,
        "seeds": len(by_seed),
        "by_seed": by_seed.tolist(),
    }
    if base is not None:
        row["difference"] = found.mean - float(base.mean())
        row["p"] = paired_p_value(mean, base.mean(0), people, seed)
        row["detectable_difference"] = detectable_difference(mean, base.mean(0), people)
    return row


def kept(values: np.ndarray | None, before: np.ndarray | None) -> np.ndarray | None:
    """values, before [S, C] -> [C], whose mean is the mean of `values` in per cent of that of `before`.

    A caption's share of a quotient of means, to first order, so that means, intervals and tests are those of the
    quotient. None where one of them is absent, or nothing was there before.
    """
    if values is None or before is None or not before.mean():
        return None
    share = values.mean() / before.mean()
    return 100 * (share + (values.mean(0) - share * before.mean(0)) / before.mean())


def compare_kept(own: np.ndarray | None, base: np.ndarray | None, people: np.ndarray, seed: int) -> dict[str, Any]:
    """What is kept, in per cent, and the p-value that the base keeps as much."""
    if own is None:
        return {}
    row: dict[str, Any] = estimate(own, people, seed).as_row("kept")
    if base is not None:
        row |= {"kept_difference": row["kept"] - float(base.mean()), "kept_p": paired_p_value(own, base, people, seed)}
    return row


def spread(values: np.ndarray) -> float:
    """Standard deviation of a sample; NaN of a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def summary(rows: Sequence[Row], stages: Mapping[str, str]) -> list[Row]:
    """The table to read: a line for each variant, its final stage (`stages` by variant)."""
    lines: list[Row] = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        of_variant = {row["metric"]: row for row in rows if row["variant"] == name and row["stage"] == stages[name]}
        line: dict[str, Any] = {"variant": name}
        for metric, title in METRIC_NAMES.items():
            row = of_variant[metric]
            line[title] = f"{row['mean']:.2f}" + (f" ± {row['std']:.2f}" if row["seeds"] > 1 else "")
        for metric in SHOWN_METRICS:
            row, title = of_variant[metric], METRIC_NAMES[metric]
            line[f"{title} interval"] = f"{row['low']:.1f} to {row['high']:.1f}"
            line[f"{title} difference"] = f"{row['difference']:+.2f} (p {row['p']:.4f})" if "p" in row else ""
            line[f"{title} detectable"] = f"{row['detectable_difference']:.2f}" if "p" in row else ""
            if any("kept" in other for other in rows):
                line[f"{title} kept"] = told_kept(row)
        line["seeds"] = of_variant["r1"]["seeds"]
        line["minutes"] = f"{of_variant['r1']['minutes']:.1f}"
        lines.append(line)
    return lines


def told_kept(row: Row) -> str:
    """What a variant keeps, where that is known."""
    if "kept" not in row:
        return ""
    return f"{row['kept']:.1f} %" + (f" (p {row['kept_p']:.4f})" if "kept_p" in row else "")
