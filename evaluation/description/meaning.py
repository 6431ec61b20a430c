"""What the scores of phrases mean: how likely each option of a category is; of those of 0.8 four in five are right.

Log odds of options are lines of cosine and match logit with the same slopes for all options of a category, and an
offset for each, which is also how common it is. Options of a category are compared with each other alone.

Letters: G images, P captions, K options of a category.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from evaluation.description.phrases import Category, PhraseTable, columns_of

UNCALIBRATED_SLOPE = 1 / 0.07  # of cosines, where nothing else is known: the usual temperature of contrastive losses


@dataclass(frozen=True)
class Evidence:
    """What a model makes of captions: similarity [G, P], cosines; match [G, P], logits of the matching head, if any."""

    similarity: np.ndarray
    match: np.ndarray | None = None

    def select_captions(self, columns: Sequence[int]) -> "Evidence":
        """Of the captions with these numbers."""
        picked = list(columns)
        return Evidence(self.similarity[:, picked], None if self.match is None else self.match[:, picked])

    def select_images(self, rows: np.ndarray) -> "Evidence":
        """Of some images [G], by index or by True."""
        return Evidence(self.similarity[rows], None if self.match is None else self.match[rows])


class CategoryCalibration(BaseModel):
    """What the scores of one category mean.

    log odds of an option = similarity * cosine + match * logit + its offset. captions: of each option, by which a table
    is known to be the one that this was fitted for. images, people: that it was fitted on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    captions: dict[str, str]
    similarity: Annotated[float, Field(ge=0)]
    match: Annotated[float, Field(ge=0)] | None
    offsets: dict[str, float]
    images: Annotated[int, Field(ge=1)]
    people: Annotated[int, Field(ge=1)]

    def fits(self, category: Category) -> bool:
        """Whether it was fitted for exactly these options."""
        return self.captions == dict(category.options) and self.offsets.keys() == self.captions.keys()

    def probabilities(self, category: Category, evidence: Evidence) -> np.ndarray:
        """evidence [G, K] of the options of a category it fits -> how likely each is [G, K]."""
        logits = self.similarity * evidence.similarity + np.array([self.offsets[name] for name in category.names])
        if self.match is not None and evidence.match is not None:
            logits = logits + self.match * evidence.match
        return softmax(logits)


def probabilities_of(
    table: PhraseTable, evidence: Evidence, calibrations: Mapping[str, CategoryCalibration]
) -> dict[str, np.ndarray]:
    """How likely each option of each category is [G, K], where there is anything that it could be of."""
    return {
        name: probabilities_in(table[name], evidence.select_captions(columns), usable(calibrations, table[name]))
        for name, columns in columns_of(table).items()
    }


def usable(calibrations: Mapping[str, CategoryCalibration], category: Category) -> CategoryCalibration | None:
    """The calibration of a category, if there is one for just these options."""
    found = calibrations.get(category.name)
    return found if found is not None and found.fits(category) else None


def probabilities_in(category: Category, evidence: Evidence, found: CategoryCalibration | None) -> np.ndarray:
    """As `probabilities_of`, of one category; without a calibration, options are compared as they are."""
    if found is not None:
        return found.probabilities(category, evidence)
    return softmax(UNCALIBRATED_SLOPE * evidence.similarity if evidence.match is None else evidence.match)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    logits = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return logits / logits.sum(axis=-1, keepdims=True)
