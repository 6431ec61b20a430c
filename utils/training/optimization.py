"""Optimizer, learning rate and gradient step."""

from collections.abc import Collection, Iterable
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import AdamW

from utils.config import Count, Fraction, NotNegative, Part, Positive, Section, Whole


class Optimizer(Section):
    """AdamW; `lr_custm` is the rate of what learns fast: the PRD and m-RTD heads."""

    opt: Literal["adamW", "adamw"] = "adamW"
    lr: Positive = 1e-5
    lr_custm: Positive = 1e-4
    weight_decay: NotNegative = 0.02
    betas: Annotated[list[Part], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    eps: Positive = 1e-8


class Schedule(Section):
    """Learning rate. `cosine` moves by epoch as published, `cosine_step` by step.

    `lr` and `decay_rate` are in published files and change nothing: the rate is the optimizer's, and
    decay belongs to cycles after the first, which there is none of.
    """

    sched: Literal["cosine", "cosine_step"] = "cosine"
    lr: Positive | None = None
    epochs: Count = 30
    min_lr: NotNegative = 1e-6
    decay_rate: Fraction = 1
    warmup_lr: NotNegative = 1e-5
    warmup_epochs: Whole = 1
    cooldown_epochs: Whole = 0


def make_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]],
    settings: Optimizer,
    fast: Collection[str] = (),
    undecayed: Collection[str] = (),
) -> AdamW:
    """AdamW over trainable parameters in up to four groups.

    Parameters named in `fast` learn with `lr_custm`; 1-D parameters, biases and those named in `undecayed` do not
    decay.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith(".bias") and name not in undecayed
            groups.setdefault((name in fast, decays), []).append(parameter)
    options = [
        {
            "params": members,
            "lr": settings.lr_custm if quick else settings.lr,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (quick, decays), members in groups.items()
    ]
    first, second = settings.betas
    return AdamW(options, betas=(first, second), eps=settings.eps, fused=True)


def load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore what an interrupted run's optimizer has gathered; rates and decay are those configured now.

    Raises ValueError, KeyError or TypeError when the state is of another model.
    """
    configured = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, configured, strict=True):
        group.update(settings)


class LearningRate:
    """timm's cosine schedule at the published positions.

    by_step False: position e + warmup_epochs for epoch e > 0, and in epoch 0 iteration // 100 up to
    warmup_epochs. by_step True: epochs as a fraction, moving with every step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: Schedule):
        from timm.scheduler.cosine_lr import CosineLRScheduler  # slow to import, and evaluation does not need it

        self.by_step, self.warmup_epochs = settings.sched == "cosine_step", settings.warmup_epochs
        self.schedule = CosineLRScheduler(
            optimizer,
            t_initial=settings.epochs,
            lr_min=settings.min_lr,
            cycle_decay=settings.decay_rate,
            warmup_lr_init=settings.warmup_lr,
            warmup_t=settings.warmup_epochs,
        )

    def position(self, epoch: int, iteration: int, iterations: int) -> float:
        if self.by_step:
            return epoch + iteration / iterations
        return epoch + self.warmup_epochs if epoch > 0 else min(iteration // 100, self.warmup_epochs)

    def move_to(self, epoch: int, iteration: int, iterations: int) -> None:
        """Set the learning rates for this iteration (0-based) of `iterations` in this epoch (0-based)."""
        position = self.position(epoch, iteration, iterations)
        self.schedule.step(cast(int, position))  # timm says int, and interpolates fractions


def clip_gradients(model: nn.Module, most: float | None) -> Tensor:
    """Scale gradients down to a total norm of `most` (None = leave them); returns the norm before."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
    if most is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, most, norm, foreach=True)
    return norm
