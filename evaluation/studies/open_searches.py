"""Searches of open galleries by trained models: what scores are calibrated on, and what calibrations are measured on.

Letters: C captions, N hits of each.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dataset.evaluation_split import EvaluationSplit
from evaluation.calibration import Calibration, StageCalibration, fit_stage
from evaluation.open_set_metrics import RATES, OpenSearches, measure
from evaluation.stages.open_gallery import Scored, hits_of, score_split
from evaluation.studies.comparison import as_columns, people_of
from evaluation.tables import Row
from evaluation.trained import TrainedModel
from models.person_search import PersonSearchModel

CALIBRATED_ON = "val"


def fit_calibration(trained: TrainedModel, split: EvaluationSplit) -> Calibration:
    """What the scores of a model mean, by the people of a split: each caption searches with and without its person."""
    scored = score_split(trained.model, split, trained.setting)
    people = people_of(split)
    return Calibration(model=trained.digest, stages={stage: fit_one(one, people) for stage, one in scored.items()})


def fit_one(scored: Scored, people: np.ndarray) -> StageCalibration:
    """The calibration of one stage; people [C]."""
    nobody = torch.zeros(len(people), dtype=torch.bool)
    with_person, without = hits_of(scored, nobody), hits_of(scored, ~nobody)
    scores = torch.cat([with_person.scores, without.scores]).double().numpy()
    right = torch.cat([with_person.right, without.right]).numpy()
    present = np.repeat([True, False], len(people))
    return fit_stage(scores, right, present, np.tile(people, 2), scored.images)


def calibration_for(trained: TrainedModel) -> tuple[Calibration, bool]:
    """The calibration of a model, else one of its validation split; and whether it had one, of all its stages."""
    known, stages = trained.calibration, {"stage1", *(("reranked",) if trained.setting.candidates else ())}
    if known is not None and stages <= known.stages.keys():
        return known, True
    return fit_calibration(trained, trained.open_split(CALIBRATED_ON)), False


def half_of(captions: int, seed: int) -> Tensor:
    """Captions whose person is taken out of the gallery [C]: True for half of them, drawn by the seed."""
    order = torch.randperm(captions, generator=torch.Generator().manual_seed(seed))
    return order < captions // 2


def search_open(
    trained: TrainedModel, split: EvaluationSplit, calibration: Calibration, absent: Tensor
) -> dict[str, OpenSearches]:
    """stage -> searches of a split, in which the person is absent [C] for some captions, with calibrated scores."""
    found = {}
    for stage, scored in score_split(trained.model, split, trained.setting).items():
        hits, known = hits_of(scored, absent), calibration.stages[stage]
        scores = hits.scores.double().numpy()
        matches = stage == "reranked" and isinstance(trained.model, PersonSearchModel)
        found[stage] = OpenSearches(
            scores=scores,
            right=hits.right.numpy(),
            probabilities=known.probabilities(scores, scored.images),
            present=~absent.numpy(),
            people=people_of(split),
            thresholds={rate: known.threshold(rate, scored.images) for rate in RATES},
            raw=hits.scores[:, 0].double().sigmoid().numpy() if matches else None,
        )
    return found


def rows_of(found: Mapping[str, Mapping[str, OpenSearches]], seed: int) -> list[Row]:
    """A row for each model and stage, with intervals."""
    return [
        {"model": label, "stage": stage, "captions": len(searches.present), **as_columns(measure(searches, seed))}
        for label, stages in found.items()
        for stage, searches in stages.items()
    ]
