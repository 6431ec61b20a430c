"""Fits what scores mean on the validation split, and keeps it beside the checkpoint.

Every caption searches the split twice: with the described person in the gallery, and without. CHECKPOINT.pth gets a
small file CHECKPOINT.calibration.json beside it, which search, exports and `open_set` find; the checkpoint itself is
not touched. The picture and the rows are of the people it was fitted on, which flatters; `open_set` measures it on
others.
"""

from collections.abc import Sequence

from evaluation.calibration import Calibration, calibration_beside, write_calibration
from evaluation.drawing.reliability import draw_reliability
from evaluation.metrics import STAGE_NAMES
from evaluation.studies.comparison import INTERVAL
from evaluation.studies.open_searches import CALIBRATED_ON, fit_calibration, half_of, rows_of, search_open
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table
from utils.files import require_file

PRINTED_RATES = (0.01, 0.05, 0.1)  # of false alarms


@model_study(most=1, any_split=False)
def main(study: ModelStudy) -> None:
    """Fit every stage of one model, write the calibration, and show it on the same people."""
    trained = study.model
    require_file(calibration_beside(trained.checkpoint), "calibration")
    split = trained.open_split(CALIBRATED_ON)
    calibration = fit_calibration(trained, split)
    found = {study.labels[0]: search_open(trained, split, calibration, half_of(len(split.texts), study.seed))}
    rows = rows_of(found, study.seed)
    draw_reliability(
        study.picture, found, f"the {len(split.texts):,} captions it was fitted on, {INTERVAL}", study.seed
    )
    written = write_calibration(trained.checkpoint, calibration)
    study.finish(
        rows,
        markdown_table(lines_of(calibration)),
        checkpoints=study.checkpoints,
        seed=study.seed,
        split=CALIBRATED_ON,
        calibration=calibration.model_dump(mode="json"),
    )
    print(f"calibration: {written}")


def lines_of(calibration: Calibration) -> Sequence[Row]:
    """For each stage, what its scores mean and which score the best hit must go beyond, in a gallery as large."""
    return [
        {
            "stage": STAGE_NAMES[stage],
            "captions": one.captions,
            "images": one.images,
            **{name: f"{getattr(one, name):.3f}" for name in ("slope", "lift", "offset")},
            **{f"score at {rate:.0%} FPIR": f"{one.threshold(rate, one.images):.3f}" for rate in PRINTED_RATES},
        }
        for stage, one in calibration.stages.items()
    ]
