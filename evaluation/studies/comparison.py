"""Several models on the same captions: their splits, their metrics with intervals, and whether they differ.

Letters: C captions, P right images of the caption that has most.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.attributes import CaptionAttributes, cached_attributes
from dataset.evaluation_split import EvaluationSplit
from evaluation.metrics import METRIC_NAMES, of_captions
from evaluation.stages.ranking import rank_split
from evaluation.statistics import Estimate, estimate, paired_p_value
from evaluation.tables import Row
from evaluation.trained import TrainedModel
from utils.errors import UserError

INTERVAL = "95% intervals by people"  # what a picture says of its bars


def open_same_split(models: Mapping[str, TrainedModel], name: str) -> dict[str, EvaluationSplit]:
    """The `val` or `test` split as each model reads it. Raises UserError unless captions and images are the same."""
    splits = {label: model.open_split(name) for label, model in models.items()}
    (first, reference), *others = splits.items()
    for label, split in others:
        for part in ("texts", "images", "identities"):
            if getattr(split, part) != getattr(reference, part):
                raise UserError(
                    f"--checkpoint: {label} and {first} have different {name} splits and cannot be compared;"
                    f" give one for all by --set {name}_file=FILE {name}_image_root=FOLDER"
                )
    return splits


def open_attributes(model: TrainedModel, split: EvaluationSplit, name: str, folder: Path) -> CaptionAttributes:
    """The attributes of a split's captions, as far as the model reads them; `folder` as in `cached_attributes`.

    Raises UserError when captions must be parsed and spaCy or its model is not installed.
    """
    config = model.config
    file = Path(getattr(config, f"{name}_file"))
    return cached_attributes(split.texts, file, folder, config.max_words, config.attributes)


def image_indices(split: EvaluationSplit) -> list[int]:
    """Gallery index of the image that each caption was written for."""
    if split.caption_image is None:
        raise ValueError("these captions were not written for images of the gallery")
    return split.caption_image.tolist()


def rank_by(model: TrainedModel, split: EvaluationSplit) -> dict[str, Tensor]:
    """stage -> ranks of the right images [C, P], on the CPU."""
    return {stage: result.ranks.cpu() for stage, result in rank_split(model.model, split, model.setting).items()}


def people_of(split: EvaluationSplit) -> np.ndarray:
    """Number of the person of each caption [C]: captions of one person err together."""
    return split.caption_identity.numpy()


def values_of(ranks: Tensor) -> dict[str, np.ndarray]:
    """ranks [C, P] -> each metric in per cent of each caption [C]."""
    return {name: 100 * values.numpy() for name, values in of_captions(ranks).items()}


def estimates_of(ranks: Tensor, people: np.ndarray, seed: int) -> dict[str, Estimate]:
    """ranks [C, P], people [C] -> the mean of each metric in per cent, with its interval."""
    return {name: estimate(values, people, seed) for name, values in values_of(ranks).items()}


def as_columns(estimates: Mapping[str, Estimate], end: str = "") -> dict[str, float]:
    """Estimates by name as columns of a table, NAME, NAME_low and NAME_high; `end` is put behind each name."""
    columns: dict[str, float] = {}
    for name, found in estimates.items():
        columns |= found.as_row(f"{name}{end}")
    return columns


def p_values(first: Tensor, second: Tensor, people: np.ndarray, seed: int) -> dict[str, float]:
    """p_METRIC of no difference between two rankings [C, P] of the same captions."""
    one, other = values_of(first), values_of(second)
    return {f"p_{name}": paired_p_value(one[name], other[name], people, seed) for name in METRIC_NAMES}


def first_right(ranks: Tensor) -> Tensor:
    """ranks [C, P] -> rank of the first right image [C]; beyond every rank where there is none."""
    nothing = torch.iinfo(torch.int64).max
    return ranks.long().masked_fill(ranks < 1, nothing).amin(dim=1)


def final_stage(models: Iterable[Mapping[str, Tensor]]) -> str:
    """The last stage that every model has; the results of a model are by stage."""
    return "reranked" if all("reranked" in stages for stages in models) else "stage1"


def lines_of(rows: Sequence[Row], metric: str) -> dict[str, list[Estimate]]:
    """model -> its estimates of a metric, in the order of the rows."""
    lines: dict[str, list[Estimate]] = {}
    for row in rows:
        lines.setdefault(row["model"], []).append(Estimate.from_row(row, metric, "captions"))
    return lines
