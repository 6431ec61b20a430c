"""Searches for people who are not in the gallery: are they told, and are probabilities true?

The right person is taken out of the gallery for half of the captions of the test split. AUROC: how often the best hit
of a search for somebody present scores higher than that of another. TPIR (true positive identification rate): share of
the people present whose best hit is right and beyond a threshold; FPIR (false positive identification rate): share of
searches for others whose best hit is beyond it. ECE (expected calibration error): how far probabilities are from the
share of right hits. Thresholds and probabilities are those of the checkpoint's calibration, or, where it has none, of
one fitted on its validation split for this study alone; nothing is chosen on test people.
"""

from collections.abc import Sequence

from evaluation.drawing.reliability import draw_reliability
from evaluation.metrics import STAGE_NAMES
from evaluation.open_set_metrics import NAMES
from evaluation.studies.comparison import INTERVAL, open_same_split
from evaluation.studies.open_searches import calibration_for, half_of, rows_of, search_open
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table

MEASURED_ON = "test"


@model_study(any_split=False)
def main(study: ModelStudy) -> None:
    """Search the test split by every model, the right person absent for half of the captions."""
    splits = open_same_split(study.models, MEASURED_ON)
    split = next(iter(splits.values()))
    absent = half_of(len(split.texts), study.seed)
    calibrations = {label: calibration_for(model) for label, model in study.models.items()}
    found = {
        label: search_open(model, splits[label], calibrations[label][0], absent)
        for label, model in study.models.items()
    }
    rows = rows_of(found, study.seed)
    draw_reliability(
        study.picture, found, f"{len(split.texts):,} captions, {len(split.images):,} images, {INTERVAL}", study.seed
    )
    study.finish(
        rows,
        printed(rows),
        checkpoints=study.checkpoints,
        seed=study.seed,
        split=MEASURED_ON,
        images=len(split.images),
        absent=int(absent.sum()),
        calibration_of_checkpoint={label: own for label, (_, own) in calibrations.items()},
        calibrations={label: calibration.model_dump(mode="json") for label, (calibration, _) in calibrations.items()},
    )


def printed(rows: Sequence[Row]) -> str:
    """All values of all models and stages."""
    return markdown_table(
        [
            {
                "model": row["model"],
                "stage": STAGE_NAMES[row["stage"]],
                **{name: f"{row[key]:.2f}" if key in row else "-" for key, name in NAMES.items()},
            }
            for row in rows
        ]
    )
