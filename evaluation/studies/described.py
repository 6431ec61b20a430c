"""What describes people, calibrated by drawn people of whom everything is known, and how true that is of others.

Letters: G images, K options of a category.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dataset.evaluation_split import EvaluationSplit
from evaluation.description.fitting import fit_table
from evaluation.description.meaning import CategoryCalibration, Evidence, probabilities_of, usable
from evaluation.description.phrases import PhraseTable, captions_of
from evaluation.description.scoring import PhraseScorer, score_images
from evaluation.description.truth import read_truth
from evaluation.open_set_metrics import calibration_error
from evaluation.statistics import Estimate, estimate, interval_of
from evaluation.studies.open_searches import CALIBRATED_ON
from evaluation.tables import Row
from evaluation.trained import TrainedModel

Calibrations = Mapping[str, CategoryCalibration]
RESAMPLED = 500  # times, for the interval of a calibration error


def add_phrases(parser: argparse.ArgumentParser) -> None:
    """--phrases."""
    about = "YAML file of categories and phrases that describe people, on top of the built-in ones (docs/describe.md)"
    parser.add_argument("--phrases", type=Path, metavar="FILE", help=about)


def score_split(trained: TrainedModel, split: EvaluationSplit, table: PhraseTable) -> Evidence:
    """Scores of the images of a split [G] for all captions of a table."""
    return score_images(PhraseScorer(trained, captions_of(table)), split, trained.setting)


def fit_attributes(trained: TrainedModel, split: EvaluationSplit, table: PhraseTable) -> dict[str, CategoryCalibration]:
    """What scores of phrases mean, by the people of the validation split.

    Raises NotKnown when it is not known what these have and wear.
    """
    truth = read_truth(table, split, trained.config, CALIBRATED_ON)  # before anything is computed
    return fit_table(table, score_split(trained, split, table), truth, split.image_identity.numpy())


def attributes_for(trained: TrainedModel, table: PhraseTable) -> tuple[Calibrations, bool]:
    """The calibrations of a model for a table, else those of its validation split; and whether it had any itself."""
    known: Calibrations = trained.calibration.attributes if trained.calibration else {}
    if any(usable(known, category) for category in table.values()):
        return known, True
    return fit_attributes(trained, trained.open_split(CALIBRATED_ON), table), False


# ---- how true it is --------------------------------------------------------------------


def rows_of(
    label: str,
    table: PhraseTable,
    evidence: Evidence,
    calibrations: Calibrations,
    truth: Mapping[str, np.ndarray],
    people: np.ndarray,
    seed: int,
) -> list[Row]:
    """A row for each category of which something is known: how often its likeliest option is right, and ECE.

    common: how often the option is right that is true of most people here; people [G].
    """
    rows: list[Row] = []
    for name, options in probabilities_of(table, evidence, calibrations).items():
        known = truth[name] >= 0
        if known.any():
            right, sure = options[known].argmax(1) == truth[name][known], options[known].max(1)
            rows.append(
                {
                    "model": label,
                    "category": name,
                    "images": int(known.sum()),
                    "calibrated": usable(calibrations, table[name]) is not None,
                    "common": 100 * np.bincount(truth[name][known]).max() / known.sum(),
                    **estimate(100 * right, people[known], seed).as_row("accuracy"),
                    **error_of(sure, right, people[known], seed).as_row("ece"),
                }
            )
    return rows


def error_of(sure: np.ndarray, right: np.ndarray, people: np.ndarray, seed: int) -> Estimate:
    """The expected calibration error (ECE) in points, with the interval over people; sure, right, people [G]."""
    of = calibration_error(sure[:, None], right[:, None], np.ones((len(sure), 1), dtype=bool))
    _, number = np.unique(people, return_inverse=True)
    count = int(number.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLED)
    low, high = interval_of(np.array([of(weights[number].astype(float)) for weights in drawn]))
    return Estimate(of(np.ones(len(sure))), low, high, len(sure))
