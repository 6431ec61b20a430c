"""How the losses of IRRA and RDE compare samples of many processes.

Letters: B samples of this process, M samples of all processes, E embedding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from utils.processes.distributed import gather_rows, gather_with_gradient, rank


@dataclass(frozen=True)
class Everyone:
    """Features of both modalities [M, E] of all processes, with gradient, and which of them share an identity [B, M].

    own [B]: the columns of this process' samples.
    """

    image: Tensor
    text: Tensor
    same: Tensor
    own: Tensor


def gather_pairs(image: Tensor, text: Tensor, identity: Tensor) -> Everyone:
    """Features [B, E] and identities [B] of all processes, each of which has as many; of equal shape, by one call."""
    everyone = gather_with_gradient(torch.stack([image, text], dim=1))
    own = torch.arange(len(identity), device=identity.device) + rank() * len(identity)
    return Everyone(everyone[:, 0], everyone[:, 1], identity[:, None] == gather_rows(identity), own)


def unit(features: Tensor) -> Tensor:
    """Features of length 1, in float32."""
    return normalize(features.float(), dim=-1)
