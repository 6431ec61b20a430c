"""Learning rate and weight decay of each parameter of IRRA and RDE by its name, and their course over epochs."""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

OF_SELECTION = ("visul_emb_layer.", "texual_emb_layer.")  # RDE's token selection


@dataclass(frozen=True)
class ParameterRates:
    """Learning rates and weight decay, as published.

    fast: how many times faster new layers learn; bias: the same of biases. selection: learning rate of RDE's token
    selection, whatever lr is.
    """

    lr: float = 1e-5
    weight_decay: float = 4e-5
    bias_weight_decay: float = 0.0
    fast: float = 5.0
    bias: float = 2.0
    selection: float = 1e-3

    def of(self, name: str) -> tuple[float, float]:
        """(learning rate, weight decay) of a parameter. The norms around cross-attention learn as the towers do."""
        is_bias = "bias" in name
        decay = self.bias_weight_decay if is_bias else self.weight_decay
        if name.startswith(OF_SELECTION):
            return self.selection, decay
        if "classifier" in name or "mlm_head" in name:
            return self.lr * self.fast, decay
        if is_bias:
            return self.lr * self.bias, decay
        return self.lr * (self.fast if "cross" in name else 1.0), decay


def parameter_groups(model: nn.Module, rates: ParameterRates) -> list[dict[str, Any]]:
    """A group of each parameter that learns, in the order of the model, as released checkpoints have them."""
    groups = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            lr, decay = rates.of(name)
            groups.append({"params": [parameter], "name": name, "lr": lr, "weight_decay": decay})
    return groups


def epoch_factor(epoch: int, epochs: int = 60, warmup: int = 5, start: float = 0.1) -> float:
    """What all learning rates are multiplied with in an epoch, counted from 1: a linear rise, then half a cosine."""
    done = epoch - 1
    if done < warmup:
        return start + (1 - start) * done / warmup
    return (1 + math.cos(math.pi * (done - warmup) / (epochs - warmup))) / 2
