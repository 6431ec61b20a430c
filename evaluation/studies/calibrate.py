"""Fits what scores mean on the validation split, and keeps it beside the checkpoint.

Also what the scores of phrases mean that describe people (`search describe`), where the split is of drawn people, of
whom it is known what they have (`python -m dataset.synthetic`); else that is left as it was.

Every caption searches the split twice: with the described person in the gallery, and without. CHECKPOINT.pth gets a
small file CHECKPOINT.calibration.json beside it, which search, exports and `open_set` find; the checkpoint itself is
not touched. The picture and the rows are of the people it was fitted on, which flatters; `open_set` measures it on
others.
"""

from collections.abc import Sequence

from dataset.evaluation_split import EvaluationSplit
from dataset.synthetic.known import NotKnown
from evaluation.calibration import Calibration, calibration_beside, write_calibration
from evaluation.description.meaning import CategoryCalibration
from evaluation.description.phrases import PhraseTable, read_phrase_table
from evaluation.drawing.reliability import draw_reliability
from evaluation.metrics import STAGE_NAMES
from evaluation.studies.comparison import INTERVAL
from evaluation.studies.described import add_phrases, fit_attributes
from evaluation.studies.open_searches import CALIBRATED_ON, fit_calibration, half_of, rows_of, search_open
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table
from evaluation.trained import TrainedModel
from utils.files import require_writable_file

PRINTED_RATES = (0.01, 0.05, 0.1)  # of false alarms


@model_study(add_phrases, most=1, any_split=False)
def main(study: ModelStudy) -> None:
    """Fit every stage and category of one model, write the calibration, and show it on the same people."""
    trained, table = study.model, read_phrase_table(study.options.phrases)
    require_writable_file(calibration_beside(trained.checkpoint), "calibration")
    split = trained.open_split(CALIBRATED_ON)
    attributes, why_not = attributes_of(trained, split, table)
    calibration = fit_calibration(trained, split).model_copy(update={"attributes": attributes})
    found = {study.labels[0]: search_open(trained, split, calibration, half_of(len(split.texts), study.seed))}
    rows = rows_of(found, study.seed)
    draw_reliability(
        study.picture, found, f"the {len(split.texts):,} captions it was fitted on, {INTERVAL}", study.seed
    )
    written = write_calibration(trained.checkpoint, calibration)
    study.finish(
        rows,
        "\n\n".join(filter(None, [markdown_table(lines_of(calibration)), printed_attributes(attributes)])),
        checkpoints=study.checkpoints,
        seed=study.seed,
        split=CALIBRATED_ON,
        calibration=calibration.model_dump(mode="json"),
    )
    if why_not:
        print(f"phrases: {'what was known is kept' if attributes else 'not calibrated'}, as {why_not}")
    print(f"calibration: {written}")


def attributes_of(
    trained: TrainedModel, split: EvaluationSplit, table: PhraseTable
) -> tuple[dict[str, CategoryCalibration], str]:
    """What scores of phrases mean, by these people, on top of what was known; and why these say nothing, if so."""
    known = trained.calibration.attributes if trained.calibration else {}
    try:
        return {**known, **fit_attributes(trained, split, table)}, ""
    except NotKnown as error:
        return known, str(error)


def printed_attributes(attributes: dict[str, CategoryCalibration]) -> str:
    """For each category, what it was fitted on, and how much scores say."""
    rows: list[Row] = [
        {
            "category": name,
            "images": one.images,
            "people": one.people,
            "slope of cosine": f"{one.similarity:.3f}",
            "slope of match": "-" if one.match is None else f"{one.match:.3f}",
        }
        for name, one in attributes.items()
    ]
    return markdown_table(rows) if rows else ""


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
