"""What a GPU would be given to do, and what would make its processor wait for it, told without one.

Tensors of the pretended GPU have shapes, types and a device, and no content: kernels are named and not run.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda")


class Launches(TorchDispatchMode):
    """Names what the GPU is given to do, in order, and notes what would make the processor wait for it."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.waits: list[str] = []

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.names)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        result = function(*args, **kwargs)
        given, made = (
            [part for part in tree_leaves(whole) if isinstance(part, Tensor)] for whole in ((args, kwargs), result)
        )
        if function.namespace != "aten" or not any(part.is_cuda for part in (*given, *made)):
            return result
        back = any(part.is_cuda for part in given) and any(not part.is_cuda for part in made)
        indices = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else ()
        chosen = any(isinstance(part, Tensor) and part.dtype == torch.bool for part in indices)
        if name in self.WAITING or back or chosen:
            self.waits.append(name)
        alias = function._schema.returns and function._schema.returns[0].alias_info
        is_view = alias and not alias.is_write
        converted = name == "to" and (made[0].dtype, made[0].device) != (given[0].dtype, given[0].device)
        nothing = is_view or name in (
            "_unsafe_view",
            "empty",
            "empty_like",
            "dropout",
        )  # of which nobody drops anything here
        if converted or not nothing:
            self.names.append(name)
        return result


def backward_of(results: Iterable[Tensor]) -> Counter[str]:
    """The operations whose backward passes `results` ask for, by the names that autograd has for them.

    (Autograd would look for the GPU if they were run.)
    """
    found: Counter[str] = Counter()
    seen, left = set(), [result.grad_fn for result in results if result.grad_fn is not None]
    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            found[re.sub(r"Backward\d*$", "", node.name())] += 1
            left += [other for other, _ in node.next_functions if other is not None]
    return found


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Within, tensors on a GPU can be made where there is none, and autocast converts them."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        mock.patch.object(Tensor, "pin_memory", lambda tensor: tensor),
        mock.patch("torch.cuda.get_device_capability", lambda device: (9, 0)),
        mock.patch("torch.cuda.is_bf16_supported", lambda *options: True),
        mock.patch("torch.backends.cuda.is_flash_attention_available", lambda: True),
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
    ):
        yield


def without_content(value: Any) -> Any:
    """Tensors of the same shapes and types on the GPU, in data classes too."""
    if isinstance(value, Tensor):
        return torch.empty_like(value, device=GPU)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: without_content(getattr(value, part.name)) for part in fields(value)})
    return value


def on_gpu(model: nn.Module) -> nn.Module:
    """The module with tensors of the GPU, without content."""
    return model.to_empty(device=GPU)
