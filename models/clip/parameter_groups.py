"""Learning rate and weight decay of each parameter of IRRA and RDE, by its name."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from utils.config import NotNegative, Part, Positive
from utils.training.optimization import OptimizerSettings

OF_SELECTION = ("visul_emb_layer.", "texual_emb_layer.")  # RDE's token selection


class ClipOptimizer(OptimizerSettings):
    """Adam, whose weight decay is part of the gradient, with rates as published.

    lr_factor: how many times faster the classifier and the cross-modal encoder learn; bias_lr_factor: the same of
    biases. momentum: of SGD. eps: as published for float16 weights; AdamW was run with 1e-8.
    """

    opt: Literal["adam", "adamW", "sgd"] = "adam"
    weight_decay: NotNegative = 4e-5
    weight_decay_bias: NotNegative = 0.0
    lr_factor: Positive = 5.0
    bias_lr_factor: Positive = 2.0
    betas: Annotated[list[Part], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    eps: Positive = 1e-3
    momentum: Part = 0.9

    def rates_of(self, name: str) -> tuple[float, float]:
        """(learning rate, weight decay) of a parameter. The norms around cross-attention learn as the towers do."""
        is_bias = "bias" in name
        decay = self.weight_decay_bias if is_bias else self.weight_decay
        if "classifier" in name or "mlm_head" in name:
            return self.lr * self.lr_factor, decay
        if is_bias:
            return self.lr * self.bias_lr_factor, decay
        return self.lr * (self.lr_factor if "cross" in name else 1.0), decay


class RdeOptimizer(ClipOptimizer):
    """lr_selection: learning rate of the layers that select tokens, whatever lr is."""

    lr_selection: Positive = 1e-3

    def rates_of(self, name: str) -> tuple[float, float]:
        rate, decay = super().rates_of(name)
        return (self.lr_selection if name.startswith(OF_SELECTION) else rate), decay


def parameter_groups(parameters: Iterable[tuple[str, nn.Parameter]], settings: ClipOptimizer) -> list[dict[str, Any]]:
    """The parameters that learn, in a group for each (learning rate, weight decay); the first is that of `lr`."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            groups.setdefault(settings.rates_of(name), []).append(parameter)
    most_first = sorted(groups.items(), key=lambda group: group[0][0] != settings.lr)
    return [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in most_first]


def make_clip_optimizer(parameters: Iterable[tuple[str, nn.Parameter]], settings: ClipOptimizer) -> Optimizer:
    """The configured optimizer over all parameters that learn."""
    groups = parameter_groups(parameters, settings)
    if settings.opt == "sgd":
        return SGD(groups, momentum=settings.momentum, fused=True)
    first, second = settings.betas
    adam = AdamW if settings.opt == "adamW" else Adam
    return adam(groups, betas=(first, second), eps=settings.eps, fused=True)
