"""Says what a picture of a person shows, category by category: clothes and their colours, shoes, bag, hair, and so on.

Letters: N images, K options of a category.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dataset.decoding import Unusable
from evaluation.calibration import HOW_TO_FIT
from evaluation.description.meaning import CategoryCalibration, Evidence, probabilities_of, usable
from evaluation.description.phrases import Category, PhraseTable, captions_of
from evaluation.description.scoring import PhraseScorer
from search.batching.matching import chunks
from search.encoder import Encoder
from search.searcher import Searcher
from utils.errors import NotThere

KEPT = 20_000  # images whose scores are kept in memory, some 3 KiB each
SCORED_AT_ONCE = 16


@dataclass(frozen=True)
class CategoryPrediction:
    """What is seen of one category. options: how likely each is, best first; calibrated: whether that is a probability.

    shown: whether there is probably anything that it could be of, such as a bag that has a colour.
    """

    category: str
    options: dict[str, float]
    calibrated: bool
    shown: bool = True

    @property
    def phrase(self) -> str:
        """The likeliest option."""
        return next(iter(self.options))

    @property
    def score(self) -> float:
        return self.options[self.phrase]


class Describer:
    """Describes images by one model and one table of phrases, whose captions it reads when they are first needed."""

    def __init__(self, encoder: Encoder, table: PhraseTable):
        self.encoder, self.table = encoder, table
        self.texts = captions_of(table)
        self.scorer: PhraseScorer | None = None

    @property
    def calibrations(self) -> Mapping[str, CategoryCalibration]:
        """What the scores of the model mean, by category, as far as that is known."""
        known = self.encoder.trained.calibration
        return known.attributes if known else {}

    def score(self, contents: Sequence[bytes]) -> Evidence:
        """Scores of the content of image files for all captions. Raises Unusable when one is no usable image."""
        self.scorer = self.scorer or PhraseScorer(self.encoder.trained, self.texts)
        return self.scorer.score(torch.stack([self.encoder.decode_image(content) for content in contents]))

    def options(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """How likely each option of each category is [N, K], where there is anything that it could be of."""
        return probabilities_of(self.table, evidence, self.calibrations)

    def describe(self, content: bytes) -> list[CategoryPrediction]:
        """What an image file shows. Raises Unusable when it is no usable image."""
        return self.predict(self.score([content]))

    def predict(self, evidence: Evidence) -> list[CategoryPrediction]:
        """What an image shows, by its scores, in the order of the table."""
        options = self.options(evidence)
        return [self.predict_category(category, options) for category in self.table.values()]

    def predict_category(self, category: Category, options: Mapping[str, np.ndarray]) -> CategoryPrediction:
        scores = dict(zip(category.names, options[category.name][0].tolist(), strict=True))
        known, shown = usable(self.calibrations, category) is not None, True
        if category.parent is not None:  # how likely it is there, and like this
            other = self.table[category.parent]
            there = 1 - float(options[other.name][0, other.names.index(other.none_option or "")])
            scores = {name: there * score for name, score in scores.items()}
            known = known and usable(self.calibrations, other) is not None
            shown = other.names[int(options[other.name][0].argmax())] != other.none_option
        best_first = dict(sorted(scores.items(), key=lambda one: -one[1]))
        return CategoryPrediction(category.name, best_first, known, shown)

    def calibration_warning(self) -> str:
        """Which scores are no probabilities; empty when all are."""
        missing = [one.name for one in self.table.values() if usable(self.calibrations, one) is None]
        if not missing:
            return ""
        which = "the scores" if len(missing) == len(self.table) else f"the scores of {', '.join(missing)}"
        return f"{which} are uncalibrated: they compare phrases, and are no probabilities"

    def calibration_advice(self) -> str:
        """As `calibration_warning`, and what to do."""
        warning = self.calibration_warning()
        return f"{warning}; {HOW_TO_FIT % self.encoder.trained.checkpoint}" if warning else ""


class GalleryDescriber(Describer):
    """Describes the images of a gallery by the model that explains its hits; keeps scores, not images."""

    def __init__(self, searcher: Searcher, table: PhraseTable):
        super().__init__(searcher.reranker, table)
        self.searcher = searcher
        self.kept: OrderedDict[str, Evidence] = OrderedDict()  # by content, of one image each
        searcher.drops.append(self.drop)

    def drop(self, content: str) -> None:
        """Hold nothing of an image any more."""
        self.kept.pop(content, None)

    def describe_hit(self, path: str) -> list[CategoryPrediction]:
        """What an image of the gallery shows. Raises NotThere when its file is gone or changed."""
        self.searcher.authorize("describe", image=path)
        with self.searcher.model_lock:
            found, missing = self.evidence([path])
        if path in missing:
            raise NotThere(f"image {path} {missing[path]}")
        return self.predict(found[path])

    def evidence(self, paths: Sequence[str]) -> tuple[dict[str, Evidence], dict[str, str]]:
        """Scores of images by path, and why others could not be read."""
        by_path = self.searcher.gallery.records.by_path
        # asked for once: another process may replace or erase an image while it is scored
        records = {path: by_path.get(path) for path in paths}
        there = {path: image for path, image in records.items() if image is not None}
        missing = dict.fromkeys(records.keys() - there.keys(), "is no longer in the gallery")
        known = {path: self.kept.get(image.content_key) for path, image in there.items()}
        found = {path: evidence for path, evidence in known.items() if evidence is not None}
        contents: dict[str, bytes] = {}
        for path in [path for path in there if path not in found]:
            try:
                content = self.searcher.gallery.read_image(there[path])
                self.encoder.decode_image(content)
                contents[path] = content
            except Unusable as fault:
                missing[path] = str(fault)
        for some in chunks(list(contents), SCORED_AT_ONCE):
            scores = self.score([contents[path] for path in some])
            found |= {path: scores.select_images(np.array([number])) for number, path in enumerate(some)}
        self.keep({there[path].content_key: evidence for path, evidence in found.items()})
        return found, missing

    def keep(self, found: Mapping[str, Evidence]) -> None:
        """Keep these scores by content, and of all no more than `KEPT`, those used last."""
        for content, one in found.items():
            self.kept[content] = one
            self.kept.move_to_end(content)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)


def predictions_as_json(seen: Sequence[CategoryPrediction]) -> list[dict[str, Any]]:
    """For programs: each category with its likeliest phrase, its score, and those of all others."""
    return [
        {
            "category": one.category,
            "phrase": one.phrase,
            "score": one.score,
            "calibrated": one.calibrated,
            "shown": one.shown,
            "options": one.options,
        }
        for one in seen
    ]
