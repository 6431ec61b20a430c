"""Which image a text attends to, and how padded texts do.

Letters: R text rows, T text tokens, B images, N image tokens, A heads, d width of a head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.kernels import attend, attend_indexed


@dataclass(frozen=True)
class Pairing:
    """Which image each of R text rows attends to.

    aligned: the first `aligned` * B rows are that many stacks of B texts, text i with image i.
    crossed: image number of each remaining row [R - aligned * B]; None when there are none.
    """

    aligned: int = 1
    crossed: Tensor | None = None

    def images(self, count: int, device: torch.device) -> Tensor:
        """The image number of each row [R], where there are `count` images."""
        own = torch.arange(count, device=device).repeat(self.aligned)
        return own if self.crossed is None else torch.cat([own, self.crossed])

    def most(self, count: int) -> int:
        """No image of `count` has more rows than that."""
        return self.aligned + (0 if self.crossed is None else len(self.crossed))


def attend_to_images(query: Tensor, keys: Tensor, values: Tensor, pairing: Pairing, dropout: float) -> Tensor:
    """Cross-attention of text queries [R, A, T, d] to the images they are paired with.

    keys and values are [B, A, N, d]; returns [R, A, T, d].
    """
    images, stacks = keys.shape[0], pairing.aligned
    own = query[: stacks * images].unflatten(0, (stacks, images))  # [S, B, A, T, d]
    own = own.permute(1, 2, 0, 3, 4)  # [B, A, S, T, d]
    attended = attend(own.flatten(2, 3), keys, values, dropout=dropout)
    attended = attended.unflatten(2, own.shape[2:4]).permute(2, 0, 1, 3, 4).flatten(0, 1)
    if pairing.crossed is None:
        return attended
    crossed = attend_indexed(query[stacks * images :], keys, values, pairing.crossed, dropout)
    return torch.cat([attended, crossed])
