"""All captions of a data set as token ids, cut into word pieces once, in little memory.

Letters: N captions, B captions of a batch, T text tokens.
"""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from dataset.attributes import Attribute, attribute_ids
from dataset.tokens import TextTokenizer


class CaptionTable:
    """Token ids of N captions, and which attribute each token belongs to, in the order of the captions.

    captions: cleaned; spans: the attributes of each as spans of characters. Captions keep `max_tokens` tokens.
    lengths [N] int32: tokens of each caption, those at its start and end included.
    """

    def __init__(
        self,
        captions: Sequence[str],
        spans: Iterable[Sequence[Attribute]],
        tokenizer: TextTokenizer,
        max_tokens: int,
    ):
        ids, attributes, lengths = array("i"), array("i"), array("i")
        for text, found in zip(tokenizer.encode_all(captions, max_tokens), spans, strict=True):
            ids.extend(text.ids)
            attributes.extend(attribute_ids(found, text.offsets, len(text.ids)) if found else [0] * len(text.ids))
            lengths.append(len(text.ids))
        self.lengths = np.array(lengths, dtype=np.int32)
        self._starts = compact(np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)]))
        self._ids, self._attributes = compact(np.array(ids)), compact(np.array(attributes))

    def ids(self, caption: int) -> np.ndarray:
        """The token ids [T] of a caption by its number."""
        return self._ids[self._starts[caption] : self._starts[caption + 1]]

    def attributes(self, caption: int) -> np.ndarray:
        """For each token [T] of a caption the number of its attribute, from 1; 0 = none."""
        return self._attributes[self._starts[caption] : self._starts[caption + 1]]


def compact(numbers: np.ndarray) -> np.ndarray:
    """Numbers from 0 in the smallest type that holds them all."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))
