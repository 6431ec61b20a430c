"""Optimizer and gradient step."""

from collections.abc import Collection, Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import AdamW

from utils.config import NotNegative, Part, Positive, Section


class OptimizerSettings(Section):
    """What every optimizer is configured by: the learning rate of most parameters, and Adam's moments."""

    lr: Positive = 1e-5
    weight_decay: NotNegative = 0.02
    betas: Annotated[list[Part], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    eps: Positive = 1e-8


class Optimizer(OptimizerSettings):
    """AdamW; `lr_custm` is the rate of what learns fast: the PRD and m-RTD heads."""

    opt: Literal["adamW", "adamw"] = "adamW"
    lr_custm: Positive = 1e-4


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


def clip_gradients(model: nn.Module, most: float | None) -> Tensor:
    """Scale gradients down to a total norm of `most` (None = leave them); returns the norm before."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
    if most is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, most, norm, foreach=True)
    return norm
