"""The momentum model and the queues of its embeddings (MoCo, ALBEF).

A mixin, because the released parameter names put both at the top level of the model.
Letters: B batch, E embedding, Q queue.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from models.objectives import Objective
from models.training_step import QueueEntry

EMPTY = -100  # identity of a queue slot that was never written
FOLLOWED = ("visual_encoder", "vision_proj", "text_encoder", "text_proj")


class Momentum(nn.Module):
    """What a model that has the modules named in FOLLOWED adds to them."""

    objective: Objective
    image_queue: Tensor  # [E, Q]
    text_queue: Tensor  # [E, Q]
    idx_queue: Tensor  # [1, Q] identities
    queue_ptr: Tensor  # [1] where the next entry is written

    def build_momentum(self) -> None:
        """Copies that start equal, follow slowly, take no gradient and leave out no layer."""
        for name in FOLLOWED:
            follower = copy.deepcopy(getattr(self, name)).requires_grad_(False)
            for part in follower.modules():
                if hasattr(part, "drop_prob"):  # stochastic depth, here as in timm
                    part.drop_prob = 0.0
            setattr(self, f"{name}_m", follower)

    def build_queues(self, embed_dim: int, size: int) -> None:
        for name in ("image_queue", "text_queue"):
            self.register_buffer(name, normalize(torch.randn(embed_dim, size), dim=0))
        self.register_buffer("idx_queue", torch.full((1, size), EMPTY, dtype=torch.long))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

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
    def follow(self, momentum: float, taken: Tensor | None = None) -> None:
        """m <- momentum * m + (1 - momentum) * online; taken: as in `advance`."""
        followers, followed = self.momentum_pairs()
        share = (1 - momentum) * self.as_factor(taken)
        torch._foreach_lerp_(followers, followed, [share] * len(followers))

    def advance(self, queued: Iterable[QueueEntry], taken: Tensor | None = None) -> None:
        """After an optimizer step: the embeddings of its micro-batches enter the queues, the momentum model follows.

        taken: a scalar on the device, which is not read: 1, or 0 for a step that was not taken, which then changes
        nothing here either. None = it was taken.
        """
        for entry in queued:
            self.enqueue(entry, taken)
        self.follow(self.objective.momentum, taken)

    def as_factor(self, taken: Tensor | None) -> Tensor:
        """`taken` as a scalar on the device: 1 for None."""
        return torch.ones((), device=self.queue_ptr.device) if taken is None else taken

    @torch.no_grad()
    def enqueue(self, entry: QueueEntry, taken: Tensor | None = None) -> None:
        """Write embeddings and identities at the pointer, wrapping around; taken: as in `advance`."""
        count, size, taken = len(entry.identity), self.idx_queue.shape[1], self.as_factor(taken) > 0
        slots = (self.queue_ptr + torch.arange(count, device=self.queue_ptr.device)) % size
        for queue, rows in (
            (self.image_queue, entry.image),
            (self.text_queue, entry.text),
            (self.idx_queue, entry.identity[:, None]),
        ):
            queue[:, slots] = rows.T.where(taken, queue[:, slots])
        self.queue_ptr[:] = (self.queue_ptr + count * taken) % size
