"""The momentum model and the queues of its embeddings (MoCo, ALBEF).

A mixin, because the released parameter names put both at the top level of the model.
Letters: B batch, E embedding, Q queue.
"""

import copy

import torch
from timm.layers import DropPath
from torch import Tensor
from torch.nn.functional import normalize

from utils.processes.distributed import gather_rows

EMPTY = -100  # identity of a queue slot that was never written
FOLLOWED = ("visual_encoder", "vision_proj", "text_encoder", "text_proj")


class Momentum:
    """Expects the modules named in FOLLOWED.

    waiting: embeddings (image, text, identity) of micro-batches that are not in the queues yet.
    """

    waiting: list[tuple[Tensor, Tensor, Tensor]]

    def build_momentum(self) -> None:
        """Copies that start equal, follow slowly, take no gradient and leave out no layer."""
        for name in FOLLOWED:
            follower = copy.deepcopy(getattr(self, name)).requires_grad_(False)
            for part in follower.modules():
                if isinstance(part, DropPath):
                    part.drop_prob = 0.0
            setattr(self, f"{name}_m", follower)

    def build_queues(self, embed_dim: int, size: int) -> None:
        for name in ("image_queue", "text_queue"):
            self.register_buffer(name, normalize(torch.randn(embed_dim, size), dim=0))
        self.register_buffer("idx_queue", torch.full((1, size), EMPTY, dtype=torch.long))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        self.waiting = []

    def momentum_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """(momentum, online) parameters in the same order."""
        momentum = [p for name in FOLLOWED for p in getattr(self, f"{name}_m").parameters()]
        online = [p for name in FOLLOWED for p in getattr(self, name).parameters()]
        return momentum, online

    @torch.no_grad()
    def copy_to_momentum(self) -> None:
        """Start the momentum model at the online parameters."""
        torch._foreach_copy_(*self.momentum_pairs())

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """m <- momentum * m + (1 - momentum) * online."""
        torch._foreach_lerp_(*self.momentum_pairs(), 1 - momentum)

    def write_queues(self) -> None:
        """Put into the queues what waits for it."""
        for embedded in self.waiting:
            self.enqueue(*embedded)
        self.waiting.clear()

    @torch.no_grad()
    def enqueue(self, image: Tensor, text: Tensor, identity: Tensor) -> None:
        """Write embeddings [B, E] and identities [B] of all processes at the pointer, wrapping around."""
        identity = gather_rows(identity)
        size = self.idx_queue.shape[1]
        slots = (self.queue_ptr + torch.arange(len(identity), device=identity.device)) % size
        self.image_queue[:, slots] = gather_rows(image).T
        self.text_queue[:, slots] = gather_rows(text).T
        self.idx_queue[0, slots] = identity
        self.queue_ptr[:] = (self.queue_ptr + len(identity)) % size
