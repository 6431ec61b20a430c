"""Encodes images and sentences with a trained model, and scores how well they match.

Letters: B images, N image tokens, D width, E embedding, T text tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.batch import TextTokens
from dataset.captions import plain_text
from dataset.images import image_from
from dataset.tokens import Encoded
from evaluation.stages.encoding import encode_images
from evaluation.trained import TrainedModel
from utils.checkpoints.named import checkpoint_path
from utils.device import prepare_device
from utils.errors import UserError
from utils.precision import choose_precision
from utils.text import counted, shorten

MAX_CHARACTERS = 20_000  # of a sentence; a caption has a few hundred


@dataclass(frozen=True)
class TokenizedQuery:
    """A sentence, cleaned and in word pieces.

    unknown_spans: characters of `cleaned` that the vocabulary does not have; words, words_read: of the whole sentence,
    which is cut where it is longer than the model reads.
    """

    text: str
    cleaned: str
    encoded: Encoded
    unknown_spans: list[tuple[int, int]]
    words: int
    words_read: int

    @property
    def token_ids(self) -> tuple[int, ...]:
        """What the model reads of it: the ids of its word pieces."""
        return tuple(self.encoded.ids)


TOKENIZED_FIELDS = tuple(field.name for field in fields(TokenizedQuery))


@dataclass(frozen=True, kw_only=True)
class EncodedQuery(TokenizedQuery):
    """A sentence that is encoded. tokens: ids and mask [1, T]; embedding [E] of length 1."""

    tokens: TextTokens
    embedding: np.ndarray

    @property
    def unknown(self) -> list[str]:
        """The words, or parts of words, that the model cannot read."""
        return list(dict.fromkeys(self.cleaned[start:end] for start, end in self.unknown_spans))

    @property
    def warnings(self) -> list[str]:
        """What a user is to know of how the sentence was read: unknown words, and a cut."""
        warnings = [f"not known to the model, and not read: {', '.join(self.unknown)}"] if self.unknown else []
        if self.words_read < self.words:
            read = f"only the first {self.words_read} of its {self.words} words are read"
            warnings.append(f"the sentence is longer than the model reads: {read}")
        return warnings

    @property
    def read_as(self) -> str:
        """What the model reads: known words alone, up to where the sentence is cut off."""
        return " ".join(known_characters(self.cleaned, self.encoded, self.unknown_spans).split())

    def without_unknown(self, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those spans of characters of `cleaned` that hold nothing unknown."""
        unknown = self.unknown_spans
        return [(a, b) for a, b in spans if not any(start < b and a < end for start, end in unknown)]


class Encoder:
    """One trained model on one device."""

    def __init__(self, trained: TrainedModel, source: Mapping[str, Any] | None = None):
        """source: arguments of `open` that give the same encoder again."""
        self.trained, self.source = trained, dict(source or {})
        self.model, self.config, self.setting = trained.model, trained.config, trained.setting

    @classmethod
    def open(
        cls,
        checkpoint: str | Path,
        config: str | Path | None = None,
        device: str = "auto",
        overrides: Sequence[str] = (),
    ) -> "Encoder":
        """From a checkpoint of a run or an exported folder; settings as in `evaluation.trained.TrainedModel.open`.

        Raises UserError when it cannot be used.
        """
        settings = Path(config).resolve() if config else None
        file = checkpoint_path(checkpoint)
        trained = TrainedModel.open(file, settings, overrides, prepare_device(device))
        source = {"checkpoint": str(file.resolve()), "config": str(settings) if settings else None}
        return cls(trained, {**source, "overrides": list(overrides)})

    @property
    def dimensions(self) -> int:
        """E."""
        return self.model.embedding_width

    @property
    def precision(self) -> str:
        """fp32, tf32 or bf16."""
        return choose_precision(self.config.precision, self.setting.device)

    def fingerprint(self) -> dict[str, object]:
        """What results depend on: a digest of the weights and word pieces, and how images and captions are read."""
        return {
            **self.model.facts(),
            "model": self.trained.digest,
            "image_size": list(self.config.image_size),
            "max_words": self.config.max_words,
            "precision": self.precision,
        }

    # ---- images ------------------------------------------------------------------------

    def decode_image(self, content: bytes) -> Tensor:
        """The content of an image file as uint8 [3, H, W]. Raises dataset.decoding.Unusable."""
        return image_from(content, self.config.image_size, self.config.resampling)

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Tensor]) -> tuple[Tensor | None, np.ndarray]:
        """uint8 images [3, H, W] -> tokens [B, N, D] that pairs are scored by, if any; embeddings [B, E]."""
        batch = torch.stack(list(images)).to(self.setting.device)
        tokens, embeddings = encode_images(self.model, batch, self.setting)
        return tokens, embeddings.cpu().numpy()

    # ---- sentences ---------------------------------------------------------------------

    def encode_query(self, text: str) -> EncodedQuery:
        """Encode a sentence. What goes beyond the model's `max_words` is cut off, as in training.

        Raises UserError for a sentence without a word, or without one that the model knows, or an absurdly long one.
        """
        return self.embed([self.tokenize(text)])[0]

    def tokenize(self, text: str) -> TokenizedQuery:
        """A sentence in word pieces. Raises UserError as `encode_query`."""
        if len(text) > MAX_CHARACTERS:
            raise UserError(f"the sentence has {counted(len(text), 'character')}; give one of at most {MAX_CHARACTERS}")
        text = text.encode("utf-8", "replace").decode()  # what is not text, such as half of a surrogate pair
        tokenizer, most = self.trained.tokenizer, self.config.max_words
        whole = tokenizer.clean(plain_text(text), None)
        cleaned, words = tokenizer.clean(whole, most), whole.count(" ") + 1
        if not any(character.isalnum() for character in cleaned):
            raise UserError("the sentence holds no word; describe a person, such as: a woman in a red coat")
        encoded = tokenizer.encode(cleaned, most)
        unknown = tokenizer.unknown_spans(encoded)
        if not any(character.isalnum() for character in known_characters(cleaned, encoded, unknown)):
            raise UserError(
                f"the model knows no word of {shorten(cleaned, 60)!r}; describe a person in the language and"
                " the words of the captions that it was trained on"
            )
        return TokenizedQuery(text, cleaned, encoded, unknown, words, tokenizer.count_read(whole, most, most))

    @torch.inference_mode()
    def embed(self, queries: Sequence[TokenizedQuery]) -> list[EncodedQuery]:
        """Encode sentences: those of equal length at once, as padding would change numbers, and equal ones once."""
        found: dict[tuple[int, ...], tuple[TextTokens, np.ndarray]] = {}
        pieces = list(dict.fromkeys(query.token_ids for query in queries))
        for length in sorted(set(map(len, pieces))):
            alike = [one for one in pieces if len(one) == length]
            ids = torch.tensor(alike, device=self.setting.device)
            mask = torch.ones_like(ids, dtype=torch.bool)
            with self.setting.precision():
                embeddings = self.model.embed_text(TextTokens(ids, mask)).float().cpu().numpy()
            for row, one in enumerate(alike):
                found[one] = TextTokens(ids[row : row + 1], mask[row : row + 1]), embeddings[row]
        return [
            EncodedQuery(
                **{name: getattr(query, name) for name in TOKENIZED_FIELDS}, tokens=tokens, embedding=embedding
            )
            for query, (tokens, embedding) in ((query, found[query.token_ids]) for query in queries)
        ]


def known_characters(cleaned: str, encoded: Encoded, unknown: Sequence[tuple[int, int]]) -> str:
    """A cleaned sentence up to its last word piece, with spaces for what is unknown."""
    characters = list(cleaned[: max(end for _, end in encoded.offsets)])
    for start, end in unknown:
        characters[start:end] = " " * (end - start)
    return "".join(characters)
