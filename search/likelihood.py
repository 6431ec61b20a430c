"""How likely hits are right, and whether anybody in a gallery fits, where the model that orders them is calibrated.

Letters: N hits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.calibration import FALSE_ALARMS, HOW_TO_FIT, StageCalibration
from search.encoder import Encoder


@dataclass(frozen=True)
class HitProbabilities:
    """What calibration says of the hits of a search.

    probabilities [N]: how likely each shows the described person. nobody_fits: the best hit does not exceed the score
    that a share `false_alarms` of searches for absent people exceed.
    """

    probabilities: list[float]
    nobody_fits: bool
    false_alarms: float = FALSE_ALARMS

    @property
    def verdict(self) -> str:
        """In plain words that nobody fits; empty where somebody may."""
        if not self.nobody_fits:
            return ""
        return (
            "probably nobody here fits: of searches for people who are not here, more than"
            f" {100 * self.false_alarms:g} % have as good a best hit"
        )


def stage_calibration(encoder: Encoder, reranked: bool) -> StageCalibration | None:
    """What the scores of a model mean: of its matching head, where hits are re-ranked, else of its embeddings."""
    known = encoder.trained.calibration
    return known.stages.get("reranked" if reranked else "stage1") if known else None


def hit_probabilities(
    scores: Sequence[float], calibration: StageCalibration, images: int, false_alarms: float
) -> HitProbabilities:
    """Of hits with these scores [N], best first, among so many images."""
    probabilities = calibration.probabilities(np.array([scores]), images)[0].tolist()
    return HitProbabilities(probabilities, not scores[0] > calibration.threshold(false_alarms, images), false_alarms)


def why_unknown(encoder: Encoder) -> str:
    """That the scores of a model are not calibrated, and what to do."""
    checkpoint = encoder.trained.checkpoint
    return (
        f"the scores of {checkpoint} are not calibrated, so nobody can be told to be absent; {HOW_TO_FIT % checkpoint}"
    )
