"""What a search finds: hits, and the answer that holds them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from search.encoder import EncodedQuery
from search.likelihood import HitProbabilities


@dataclass(frozen=True)
class Hit:
    """An image that was found. similarity: cosine of the embeddings; score: logit of the matching head, by which hits
    are ordered, and its probability `match`; both None for an image that was not re-ranked. metadata: as indexed.
    moments: the others of its group, best first, where hits are grouped. probability: how likely it shows the described
    person, where the model is calibrated. id: of the image in the gallery."""

    path: str
    similarity: float
    score: float | None
    metadata: dict[str, Any]
    moments: "tuple[Hit, ...]" = ()
    probability: float | None = None
    id: str = ""

    @property
    def match(self) -> float | None:
        return None if self.score is None else float(1 / (1 + np.exp(-self.score)))


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first; milliseconds by stage, of all searches that were answered together; missing: images whose files
    could not be read, with why.

    query: as the model of the gallery reads it; matched: as another model that re-ranked reads it. likelihood: of the
    hits that were ordered by calibrated scores; None where there are none.
    """

    query: EncodedQuery
    hits: list[Hit]
    milliseconds: dict[str, float]
    missing: dict[str, str]
    matched: EncodedQuery | None = None
    likelihood: HitProbabilities | None = None

    @property
    def verdict(self) -> str:
        """In plain words that probably nobody fits; empty where somebody may, or that cannot be said."""
        return self.likelihood.verdict if self.likelihood else ""

    @property
    def nobody_fits(self) -> bool | None:
        """Whether probably nobody fits; None where that cannot be said."""
        return self.likelihood.nobody_fits if self.likelihood else None

    @property
    def readings(self) -> list[EncodedQuery]:
        """The sentence as each model reads it."""
        return [self.query, *([self.matched] if self.matched else [])]

    @property
    def warnings(self) -> list[str]:
        """What a user is to know of how the sentence was read."""
        of_matching = self.matched.warnings if self.matched else []
        return [*self.query.warnings, *(f"in re-ranking: {line}" for line in of_matching)]

    def reading(self) -> dict[str, Any]:
        """For programs, what was read of the sentence: by the model that reads the smallest part of it, if two do.

        unknown: to any of them.
        """
        least = min(self.readings, key=lambda reading: reading.words_read / reading.words)
        return {
            "read_as": least.read_as,
            "unknown": list(dict.fromkeys(word for reading in self.readings for word in reading.unknown)),
            "words": least.words,
            "words_read": least.words_read,
        }
