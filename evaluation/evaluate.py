"""Evaluates a model on a split, and writes its metrics and rankings."""

import logging
from pathlib import Path

import numpy as np

from dataset.evaluation_split import EvaluationSplit
from evaluation.metrics import CEILING, STAGE_NAMES
from evaluation.stages.encoding import Setting
from evaluation.stages.ranking import StageResult, rank_split, summarise_stages
from evaluation.stages.reranking import Reranker
from evaluation.tables import metrics_table
from models.search_model import SearchModel
from utils.files import atomic_write, write_json
from utils.processes.distributed import is_main

logger = logging.getLogger(__name__)

Metrics = dict[str, dict[str, float | int]]


def evaluate(
    model: SearchModel,
    split: EvaluationSplit,
    setting: Setting,
    output: Path | None = None,
    with_mean_precision: bool = True,
    reranker: Reranker | None = None,
) -> Metrics:
    """Metrics by stage, on all processes; with `output`, metrics.json and rankings.npz are written there.

    Where the split has a ceiling, it stands behind the stages. with_mean_precision: report mAP and mINP beside R@k.
    reranker: as of `rank_split`.
    """
    results = rank_split(model, split, setting, reranker)
    metrics = summarise_stages(results, split)
    if split.ceiling:
        metrics[CEILING] = dict(split.ceiling)
    if not with_mean_precision:
        metrics = {s: {k: v for k, v in m.items() if k not in ("mAP", "mINP")} for s, m in metrics.items()}
    if is_main():
        logger.info("%s", metrics_table(metrics))
        if output is not None:
            write_json(output / "metrics.json", metrics, indent=2)
            write_rankings(output / "rankings.npz", results, split)
    return metrics


def final_stage(metrics: Metrics) -> dict[str, float | int]:
    """The metrics of the last stage that was evaluated."""
    return metrics[[stage for stage in STAGE_NAMES if stage in metrics][-1]]


def write_rankings(path: Path, results: dict[str, StageResult], split: EvaluationSplit) -> None:
    """Best K images of each caption by stage, with what is needed to show them.

    Arrays: captions, caption_identities [C], image_paths, image_identities [G], image_root,
    STAGE_indices and STAGE_scores [C, K], best first; STAGE_ranks [C, P] of all right images, 0 = padding.
    """
    names = np.array([str(identity) for identity in split.identities])
    arrays = {
        "captions": np.array(split.texts),
        "caption_identities": names[split.caption_identity.numpy()],
        "image_paths": np.array(split.images),
        "image_identities": names[split.image_identity.numpy()],
        "image_root": np.array(str(split.image_root.resolve())),
    }
    for stage, result in results.items():
        arrays[f"{stage}_indices"] = result.indices.cpu().numpy()
        arrays[f"{stage}_scores"] = result.scores.cpu().numpy()
        arrays[f"{stage}_ranks"] = result.ranks.cpu().numpy()
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
