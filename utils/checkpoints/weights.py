"""Finds the weights in what other programs save: under which key they are, and what stands before their names."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "params")
AVERAGED = ("ema", "model_ema", "ema_state_dict", "state_dict_ema", "params_ema")  # taken where there are no others
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile
WITHIN = r"(?<=\.)(_orig_mod\.)+"
DEPTH = 3  # keys below one another


class Ambiguous(ValueError):
    """Why it is not clear which weights are meant, as the rest of a sentence that begins with the file."""


def find_weights(content: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """(the keys that lead to them, such as "model", empty for a bare state dict; tensors by their plain names).

    What is under `model` counts first, as this program and those that it follows write it.

    Raises Ambiguous when several sets of weights are there, or names with and without a prefix. No tensors: none found.
    """
    for choice in (("model",), WRAPPERS, AVERAGED):
        found = {key: held for key in choice if (held := tensors_under(content.get(key)))}
        if len(found) > 1:
            raise Ambiguous(f"holds weights under {' and '.join(f'`{key}`' for key in found)}; keep one of them")
        for key, (below, tensors) in found.items():
            return ".".join(filter(None, (key, below))), plain_names(tensors)
    return "", plain_names(tensors_of(content))


def tensors_under(value: Any, depth: int = DEPTH) -> tuple[str, dict[str, Tensor]] | None:
    """The tensors of a mapping, or those of one within it, and the keys that lead there; None when there are none."""
    if not isinstance(value, Mapping) or not depth:
        return None
    if tensors := tensors_of(value):
        return "", tensors
    within = {key: held for key in WRAPPERS if (held := tensors_under(value.get(key), depth - 1))}
    if len(within) > 1:
        raise Ambiguous(f"holds weights under {' and '.join(f'`{key}`' for key in within)}; keep one of them")
    return next(((".".join(filter(None, (key, below))), held) for key, (below, held) in within.items()), None)


def tensors_of(value: Mapping[str, Any]) -> dict[str, Tensor]:
    return {str(name): tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what parallel and compiled models put before their names, once or several times.

    torch.compile marks the parts that it compiled alone, also within a name. Raises Ambiguous.
    """
    named = dict(tensors)
    while prefix := next((prefix for prefix in PREFIXES if named and all(n.startswith(prefix) for n in named)), None):
        named = {name.removeprefix(prefix): value for name, value in named.items()}
    marked = next((name for name in named if name.startswith(PREFIXES)), None)
    if marked:
        other = next(name for name in named if not name.startswith(marked.partition(".")[0] + "."))
        raise Ambiguous(f"holds names with and without a prefix, such as {marked} and {other}; save one model alone")
    plain = {re.sub(WITHIN, "", name): value for name, value in named.items()}
    if len(plain) < len(named):
        raise Ambiguous(f"holds tensors with and without {PREFIXES[1]} in the same name; save one model alone")
    return plain
