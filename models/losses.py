"""The mathematics of losses, as pure functions of tensors.

Letters: B batch, M momentum embeddings (batch and queue), T text tokens, V vocabulary,
R fused rows, C attributes, L patches.

Where a loss is a mean over a varying number of things (masked tokens, rows with a valid
negative, captions with an attribute), it comes as a `Mean`, whose number can be replaced by its
mean over all processes, so that averaging gradients over processes gives the gradient of one
process with the whole batch.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, softmax

ContrastiveTerm = Literal["i2t", "t2i", "i2i", "t2t"]  # query and key: image or text
CONTRASTIVE_TERMS: tuple[ContrastiveTerm, ...] = get_args(ContrastiveTerm)
IGNORED = -100  # label of a position that takes no part in a loss
SPREAD = -7046029254386353131  # 2^64 over the golden ratio, odd: products with it spread numbers over 64 bits
FAR_BELOW = -1e9  # a logit whose exponential is 0 beside any other; finite, so that its gradient is 0 and not NaN


class Mean(NamedTuple):
    """A mean that is not taken yet: the sum of some values, and how many they are (two scalars)."""

    total: Tensor
    number: Tensor

    def over(self, number: Tensor) -> Tensor:
        """The sum by another number of values, such as their mean number over processes; 0 when there are none."""
        return self.total / number.clamp(min=1e-6)

    @property
    def value(self) -> Tensor:
        """The mean; 0 of nothing."""
        return self.over(self.number)


def value_of(loss: Tensor | Mean) -> Tensor:
    """A loss of one process alone, as a scalar."""
    return loss.value if isinstance(loss, Mean) else loss


def mean_over(values: Tensor, chosen: Tensor) -> Mean:
    """Mean of `values` where `chosen` is True."""
    return Mean(values.where(chosen, 0).sum(), chosen.sum())


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row of `logits` against a distribution: [B, M] -> [B]."""
    return -(log_softmax(logits, dim=-1) * targets).sum(-1)


def identity_targets(identity: Tensor, known: Tensor) -> Tensor:
    """[B] against [M] identities: 1 / (number of equal ones) where equal. Rows sum to 1."""
    same = (identity[:, None] == known[None, :]).float()
    return same / same.sum(1, keepdim=True)


def contrastive_term(
    online: Tensor, momentum: Tensor | None, same: Tensor, temp: Tensor, alpha: float | Tensor
) -> Tensor:
    """One direction of the contrastive loss (RaSa section 3.1): a scalar.

    online, momentum [B, M]: similarities of the queries, embedded by either model, to the momentum
    embeddings of batch and queue; same [B, M] from `identity_targets`. Targets mix the momentum
    model's own distribution (share alpha; None = no share) with the identities.
    """
    targets = same
    if momentum is not None:
        soft = softmax(momentum / temp.detach(), dim=-1)
        targets = alpha * soft + (1 - alpha) * same
    return soft_cross_entropy(online / temp, targets.detach()).mean()


def matching(logits: Tensor, matches: Tensor, valid: Tensor) -> Mean:
    """p-ITM: cross-entropy of match logits [R, 2] against `matches` [R] (1 = match) over valid rows."""
    return mean_over(cross_entropy(logits, matches, reduction="none"), valid)


def replaced_pairs(logits: Tensor, replaced: Tensor) -> Tensor:
    """PRD: was caption2 [B] exchanged for another of the same identity? logits [B, 2]."""
    return cross_entropy(logits, replaced)


def masked_language(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None,
    alpha: float | Tensor,
    axis: str,
    longest: Tensor | None = None,
    chosen: Tensor | None = None,
) -> Mean:
    """MLM with distillation. logits, teacher_logits [B, T, V]; labels [B, T], IGNORED = not masked.

    Without a teacher, the words alone are learned; alpha and axis belong to the distilled term.
    axis "vocabulary" takes the student's log-softmax for the distilled term over V, and B and T may be one dimension;
    "positions" takes it over T, padding included, as the released results were trained; of T, the first `longest`
    positions alone where captions are padded beyond that (None = they are not). chosen [M]: flat indices of positions,
    all masked ones among them, whose teacher logits [M, V] are then given; None = all.
    """
    student = logits
    if axis == "positions" and teacher_logits is not None:
        if longest is not None:
            beyond = torch.arange(labels.shape[1], device=labels.device) >= longest
            student = student.masked_fill(beyond[:, None], FAR_BELOW)
        student = log_softmax(student, dim=1)
    labels, logits, student = labels.flatten(), logits.flatten(0, -2), student.flatten(0, -2)
    if chosen is not None:
        labels, logits, student = (part.index_select(0, chosen) for part in (labels, logits, student))
    values = cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    if teacher_logits is not None:
        student = student if axis == "positions" else log_softmax(student, dim=1)
        distilled = -(student * softmax(teacher_logits.flatten(0, -2), dim=-1)).sum(-1)
        values = (1 - alpha) * values + alpha * distilled
    return mean_over(values, labels != IGNORED)


def token_replaced(logits: Tensor, labels: Tensor) -> Mean:
    """m-RTD: is each token [B, T] a replaced one (1), the original (0) or IGNORED? logits [B, T, 2]."""
    values = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return mean_over(values, labels.flatten() != IGNORED)


def reconstruction(predicted: Tensor, target: Tensor, removed: Tensor) -> Mean:
    """MAE: mean squared error of pixel patches [B, L, P*P*3] over removed patches [B, L] (True)."""
    return mean_over((predicted - target).square().mean(-1), removed)


def attribute_weights(attributes: Tensor, count: int) -> Tensor:
    """Attribute numbers per token [R, T] -> averaging weights [R, C, T]; absent attributes are 0."""
    numbers = torch.arange(1, count + 1, device=attributes.device)
    chosen = (attributes[:, None, :] == numbers[:, None]).float()
    return chosen / chosen.sum(-1, keepdim=True).clamp(min=1)


def attribute_keys(ids: Tensor, attributes: Tensor, count: int) -> Tensor:
    """A number for each attribute [B, C] that is the same where its tokens are, in whatever order; 0 = absent.

    ids [B, T]; attributes [B, T]: attribute number of each token.
    """
    mixed = (ids + 1) * SPREAD
    mixed = (mixed ^ (mixed >> 31)) * SPREAD
    numbers = torch.arange(1, count + 1, device=ids.device)
    return torch.where(attributes[:, None, :] == numbers[:, None], mixed[:, None, :], 0).sum(-1)


def named_there(keys: Tensor, texts: Tensor, images: Tensor) -> Tensor:
    """Whether the caption of the image names an attribute of the text, word for word: [R, C].

    keys [B, C] of `attribute_keys`; texts, images [R]: rows of these, of the text and of the image's own caption.
    """
    there = keys[images]
    return (keys[texts][:, :, None] == there[:, None, :]).any(-1) & (keys[texts] != 0)


def attribute_matching(logits: Tensor, present: Tensor, matches: Tensor, valid: Tensor) -> Mean:
    """AL (MARS section 3.3): does each attribute fit the image?

    logits [R, C, 2] of the attribute vectors; present [R, C] True = the caption has this
    attribute, and it counts; matches [R] 1 = image of the same identity; valid [R] False = row without a valid
    negative. Mean over a caption's attributes, then over the captions that have any.
    """
    rows, count = present.shape
    labels = matches[:, None].expand(rows, count)
    values = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(rows, count)
    per_caption = values.where(present, 0).sum(1) / present.sum(1).clamp(min=1)
    return mean_over(per_caption, valid & present.any(1))
