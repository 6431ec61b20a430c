"""The driver with two more losses, each added as CONTRIBUTING.md says: a function and an entry.

sdm: similarity distribution matching (IRRA section 3.3), on embeddings. hit: is the fused caption that of its image? On
fused states, by a head of its own.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.losses import Mean, mean_over
from models.objectives import LOSSES, Loss, head
from models.training_step import TrainingStep
from utils.processes.distributed import gather_with_gradient


def sdm(step: TrainingStep) -> Tensor:
    """KL divergence of the distribution of each image over the captions of all processes from that of identities."""
    image, texts = step.embeddings.image, gather_with_gradient(step.embeddings.text)
    same = (step.batch.identity[:, None] == step.everyone.identity).float()
    targets = same / same.sum(1, keepdim=True)
    logs = log_softmax(image @ texts.T / step.model.temp, dim=1)
    return (logs.exp() * (logs - (targets + 1e-8).log())).sum(1).mean()


def hit(step: TrainingStep) -> Mean:
    """Positives and texts with negative images, told apart by a head of one number; a mean over rows that count."""
    assert step.negatives is not None
    states = torch.cat([step.fused["positive"][:, 0], step.fused["negative_image"][:, 0]])
    labels = (torch.arange(len(states), device=states.device) < step.batch.size).float()
    counts = torch.cat([torch.ones_like(step.negatives.valid), step.negatives.valid])
    values = binary_cross_entropy_with_logits(
        step.head("hit_head")(states).squeeze(1).float(), labels, reduction="none"
    )
    return mean_over(values, counts)


ADDED = {
    "sdm": Loss(sdm),
    "hit": Loss(hit, ("positive", "negative_image"), head("hit_head", 1), fast=True, momentum="always", weight=0.25),
}

if __name__ == "__main__":
    import Retrieval
    from utils.errors import run_command_line

    LOSSES.update(ADDED)
    run_command_line(Retrieval.main)
