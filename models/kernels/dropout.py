"""Dropout of elements, with a mask that costs little on a CPU, and of whole branches.

On a CPU torch draws one element after the other in one thread, at about 7 ns each: an eighth of a training step of a
small model in float32, a fifth in bfloat16 (`benchmarks.dropout`). Here torch's generator draws one seed, and a fast
generator of random bits makes the mask from it.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 2**16  # an element is kept where 16 random bits, as a number, lie below a threshold
BLOCK = 2**16  # elements drawn at a time: their random bits stay in the cache


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): in training, a sample's branch is left out with a probability.

    Others are larger instead, so that the mean stays.
    """

    def __init__(self, drop_prob: float = 0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, branch: Tensor) -> Tensor:
        """[B, ...], which is that of the result."""
        if not self.training or self.drop_prob == 0:
            return branch
        kept = 1 - self.drop_prob
        mask = branch.new_empty(len(branch), *[1] * (branch.ndim - 1)).bernoulli_(kept)
        return branch * mask.div_(kept)


class Dropout(nn.Dropout):
    """torch's layer by `dropout`; not in place."""

    def __init__(self, p: float = 0.5):
        super().__init__(p)

    def forward(self, states: Tensor) -> Tensor:
        """Any shape, which is that of the result."""
        return dropout(states, self.p, self.training)


def dropout(states: Tensor, p: float, training: bool = True) -> Tensor:
    """In training, elements of `states` are zero with probability p, and the others larger, so that the mean stays.

    On a CPU p counts to 1 / 65536. The mask depends on torch's generator alone and not on the number of threads, and
    takes one byte of memory per element until the backward pass. Elsewhere, and in what is compiled, this is torch's
    dropout, as for any p that leaves nothing to draw. Raises ValueError if p is not between 0 and 1.
    """
    drawn = training and 0 < p < 1 and states.numel() > 0
    if torch.compiler.is_compiling() or states.device.type != "cpu" or not drawn:
        return functional.dropout(states, p, training)
    threshold = min(max(round((1 - p) * LEVELS), 1), LEVELS - 1)
    mask = torch.from_numpy(draw_mask(states.numel(), threshold)).view(states.shape)
    return (states * mask).mul_(LEVELS / threshold)


def draw_mask(count: int, threshold: int) -> np.ndarray:
    """`count` booleans, each True with probability threshold / 65536, by one draw of torch's generator."""
    seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
    generator, mask = np.random.SFC64(seed), np.empty(count, dtype=np.bool_)
    for start in range(0, count, BLOCK):
        part = mask[start : start + BLOCK]
        words = np.asarray(generator.random_raw(-(-len(part) // 4)))  # of 64 bits, four elements each
        np.less(words.view(np.uint16)[: len(part)], threshold, out=part)
    return mask
