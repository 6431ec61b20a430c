"""Metrics and seconds per query against the number of re-ranked candidates.

Re-ranking reads every candidate with the caption, so its time grows with k, and what it brings ends somewhere. Two
times are measured: of an evaluation, where all captions with an image among their candidates attend to it together,
per caption; and of a single query that nothing is shared with, its images encoded before.

Letters: C captions, G gallery images, E embedding, N image tokens, D width.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from dataset.evaluation_split import EvaluationSplit
from evaluation.drawing.figures import COLORS, draw_estimates, legend_below, new_figure, save_figure, tidy
from evaluation.metrics import METRIC_NAMES
from evaluation.stages.encoding import KeptTokens, embed_captions, embed_images, progress
from evaluation.stages.ranking import best, rerank, right_images, search
from evaluation.stages.reranking import Reranker, match_one, room_for_images
from evaluation.statistics import Estimate
from evaluation.studies.comparison import as_columns, estimates_of, people_of
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table
from evaluation.trained import TrainedModel
from utils.errors import CommandParser, UserError

DEFAULT_K = (0, 8, 16, 32, 64, 128)
SINGLE_QUERIES = 20
SHOWN = ("r1", "mAP")
PRINTED = ("model", "k", *METRIC_NAMES, "ms_per_query_together", "ms_per_query_alone")
T = TypeVar("T")


def add_options(parser: CommandParser) -> None:
    parser.add_argument("--k", type=int, nargs="+", default=list(DEFAULT_K), help="candidates (0 8 16 32 64 128)")


@model_study(add_options)
def main(study: ModelStudy) -> None:
    """Measure every number of candidates with every model."""
    costs: dict[str, list[Cost]] = {}
    for name, trained in study.models.items():
        split = trained.open_split(study.options.split)
        costs[name] = measure(trained, split, candidates_within(study.options.k, len(split.images)), study.seed)
    device = describe_device(trained.setting.device)
    where = f"{len(split.texts)} captions, {len(split.images)} images, on {device}"
    rows = [row_of(name, cost) for name, of_one in costs.items() for cost in of_one]
    draw(study.picture, costs, where)
    table = markdown_table([{key: row[key] for key in PRINTED} for row in rows])
    study.finish(rows, table, captions=len(split.texts), images=len(split.images), where=where)


@dataclass(frozen=True)
class Cost:
    """Of k candidates: metrics in per cent, seconds per caption of an evaluation, and of a query alone (median)."""

    k: int
    metrics: dict[str, Estimate]
    together: float
    alone: float


def seconds_of(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """How long it takes, and what it returns."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    result = work()
    wait()
    return time.perf_counter() - start, result


@torch.inference_mode()
def measure(trained: TrainedModel, split: EvaluationSplit, wanted: Sequence[int], seed: int) -> list[Cost]:
    """One cost for each of the numbers of candidates."""
    model, setting, device = trained.model, trained.setting, trained.setting.device
    images, blocks = embed_gallery(trained, split)
    right, people = right_images(split).to(device), people_of(split)
    embed_captions(model, split.of_captions(range(min(8, len(split.texts)))).captions, setting)  # warm
    reading, captions = seconds_of(partial(embed_captions, model, split.captions, setting), device)
    queries = torch.randperm(len(split.texts), generator=torch.Generator().manual_seed(seed))[:SINGLE_QUERIES].tolist()
    costs = []
    for k in progress(wanted, "candidates"):
        searching, found = seconds_of(partial(search, captions, images, right, max(k, 1)), device)
        ranking = 0.0
        if k:
            work = partial(rerank, Reranker(trained.matcher, split, setting), found, right, again(blocks))
            ranking, found = seconds_of(work, device)
        alone = sorted(alone_seconds(trained, split, images, blocks, query, k) for query in queries)
        together = (reading + searching + ranking) / len(captions)
        costs.append(Cost(k, estimates_of(found.ranks.cpu(), people, seed), together, alone[len(alone) // 2]))
    return costs


def embed_gallery(trained: TrainedModel, split: EvaluationSplit) -> tuple[Tensor, dict[range, Tensor]]:
    """Embeddings [G, E], and the image tokens of the blocks that there is room for."""
    setting = replace(trained.setting, candidates=max(1, trained.setting.candidates))
    tokens = KeptTokens(room_for_images(trained.matcher, split.captions, setting))
    return embed_images(trained.model, split, setting, tokens), tokens.blocks


def again(blocks: dict[range, Tensor]) -> KeptTokens:
    """The same kept tokens for one more re-ranking, which uses them up."""
    kept = KeptTokens(0)
    kept.blocks = dict(blocks)
    return kept


def alone_seconds(
    trained: TrainedModel, split: EvaluationSplit, images: Tensor, blocks: dict[range, Tensor], query: int, k: int
) -> float:
    """Seconds from a caption to its ranked images; NaN where no image tokens could be kept."""
    model, setting = trained.model, trained.setting
    if k and not blocks:
        return float("nan")
    tokens = next(iter(blocks.values())) if k else None

    def answer() -> Tensor:
        text = split.captions.tokens([query]).to(setting.device)
        with setting.precision():
            embedding = model.embed_text(text)
        _, indices = best(embedding.float() @ images.T, max(k, 1))
        if tokens is None:
            return indices
        # those of other images: which ones does not change the time
        chosen = tokens[torch.arange(k, device=tokens.device) % len(tokens)]
        return match_one(trained.matcher, text, chosen, setting).argsort(descending=True)

    answer()
    return seconds_of(answer, setting.device)[0]


def row_of(name: str, cost: Cost) -> Row:
    """For the table: metrics with intervals, milliseconds."""
    metrics = as_columns(cost.metrics)
    return {
        "model": name,
        "k": cost.k,
        **metrics,
        "ms_per_query_together": 1000 * cost.together,
        "ms_per_query_alone": 1000 * cost.alone,
    }


def draw(path: Path, costs: Mapping[str, Sequence[Cost]], title: str) -> None:
    """Quality against k, and time against k."""
    figure = new_figure(11, 4.4, title)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    every_k = sorted({cost.k for of_one in costs.values() for cost in of_one})
    lines = {
        f"{METRIC_NAMES[metric]}{f', {name}' if len(costs) > 1 else ''}": [cost.metrics[metric] for cost in of_one]
        for name, of_one in costs.items()
        for metric in SHOWN
    }
    x = [every_k.index(cost.k) for cost in next(iter(costs.values()))]
    draw_estimates(left, x, lines)
    tidy(left, "quality", "re-ranked candidates k", "per cent")
    for number, (name, of_one) in enumerate(costs.items()):
        color, of_model = COLORS[number % len(COLORS)], f", {name}" if len(costs) > 1 else ""
        for style, key, label in (("-", "alone", "a query alone"), ("--", "together", "within an evaluation")):
            values = [1000 * getattr(cost, key) for cost in of_one]
            right.plot(x, values, style, color=color, marker="o", markersize=4, label=label + of_model)
    tidy(right, "time per query", "re-ranked candidates k", "milliseconds")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xticks(range(len(every_k)), list(map(str, every_k)))
        legend_below(axes, 2)
    save_figure(figure, path)


def describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


def candidates_within(wanted: Sequence[int], images: int) -> list[int]:
    """Numbers of candidates in ascending order, none beyond the gallery. Raises UserError for negative ones."""
    if any(k < 0 for k in wanted):
        raise UserError(f"--k: numbers of candidates must be 0 or more, not {min(wanted)}")
    return sorted({min(k, images) for k in wanted})
