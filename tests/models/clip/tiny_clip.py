"""Tiny CLIP models with random weights, and batches for them."""

import torch

from dataset.batch import MaskedCaptions, PairBatch
from models.clip.towers import ClipSize

SIZE = ClipSize(
    image_size=(20, 12),
    patch_size=4,
    stride=4,
    vision_width=8,
    vision_depth=2,
    vision_heads=2,
    text_width=8,
    text_depth=2,
    text_heads=2,
    text_length=10,
    vocabulary=30,
    embedding=6,
)
SOT, EOT = 28, 29


def captions(*words: int, length: int = 10) -> torch.Tensor:
    """A caption of so many words each, padded: [B, length]."""
    rows = [[SOT, *(1 + (number * 7 + row) % 20 for number in range(count)), EOT] for row, count in enumerate(words)]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def batch(identities: tuple[int, ...] = (0, 1, 1, 2), masked: bool = True) -> PairBatch:
    ids = captions(*(3 + number % 4 for number in range(len(identities))))
    hidden, labels = ids.clone(), torch.zeros_like(ids)
    hidden[:, 1], labels[:, 1] = 27, ids[:, 1]
    torch.manual_seed(1)
    image = torch.randn(len(identities), 3, *SIZE.image_size)
    return PairBatch(
        image=image,
        ids=ids,
        identity=torch.tensor(identities),
        index=torch.arange(len(identities)),
        masked=MaskedCaptions(hidden, labels) if masked else None,
    )


def finite_gradients(model: torch.nn.Module, total: torch.Tensor) -> None:
    total.backward()
    assert total.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
