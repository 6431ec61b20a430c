"""Optimizer, learning rate and gradient step."""

import math
from collections.abc import Collection, Iterable
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer


def make_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    special_lr: float,
    special_names: tuple[str, ...],
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    undecayed: Collection[str] = (),
) -> Optimizer:
    """AdamW over trainable parameters in up to four groups.

    Parameters whose name contains one of `special_names` learn with `special_lr`; 1-D
    parameters, biases and those named in `undecayed` do not decay.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            special = any(part in name for part in special_names)
            decays = parameter.ndim > 1 and not name.endswith(".bias") and name not in undecayed
            groups.setdefault((special, decays), []).append(parameter)
    settings = [
        {
            "params": members,
            "lr": special_lr if special else lr,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (special, decays), members in groups.items()
    ]
    return AdamW(settings, betas=betas, eps=eps, fused=True)


def load_moments(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Take up what an interrupted run's optimizer has gathered; rates and decay are those configured now.

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

    def __init__(
        self,
        optimizer: Optimizer,
        epochs: int,
        min_lr: float,
        warmup_lr: float,
        warmup_epochs: int,
        decay_rate: float,
        by_step: bool,
    ):
        self.by_step, self.warmup_epochs = by_step, warmup_epochs
        self.schedule = CosineLRScheduler(
            optimizer,
            t_initial=epochs,
            lr_min=min_lr,
            cycle_decay=decay_rate,
            warmup_lr_init=warmup_lr,
            warmup_t=warmup_epochs,
        )

    def position(self, epoch: int, iteration: int, iterations: int) -> float:
        if self.by_step:
            return epoch + iteration / iterations
        return epoch + self.warmup_epochs if epoch > 0 else min(iteration // 100, self.warmup_epochs)

    def move_to(self, epoch: int, iteration: int, iterations: int) -> None:
        """Set the learning rates for this iteration (0-based) of `iterations` in this epoch (0-based)."""
        self.schedule.step(self.position(epoch, iteration, iterations))


def clip_gradients(model: nn.Module, most: float | None) -> Tensor:
    """Scale gradients down to a total norm of `most` (None = leave them); returns the norm before."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    return torch.nn.utils.clip_grad_norm_(parameters, most or math.inf, foreach=True)
