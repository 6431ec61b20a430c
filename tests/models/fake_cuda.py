"""How many kernels a GPU is asked for, counted without one: on tensors that have a device and no content."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from models.kernels import attention
from models.person_search import PersonSearchModel

GPU = torch.device("cuda", 0)
# what looks at a tensor in another way, or makes room for one
FREE = {
    *("alias", "as_strided", "detach", "device", "empty", "empty_like", "empty_strided", "expand", "new_empty"),
    *("permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsafe_split"),
    *("unsqueeze", "view", "_unsafe_view"),
}


class Launches(TorchDispatchMode):
    """Counts operations that a GPU has a kernel for, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        self.counts.update([] if name in FREE else [name])
        return function(*args, **(kwargs or {}))


def without_content(value: Any) -> Any:
    """Tensors of the same shapes and types on a GPU, in data classes too."""
    if isinstance(value, Tensor):
        return torch.empty_like(value, device=GPU)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: without_content(getattr(value, part.name)) for part in fields(value)})
    return value


def one_kernel(query: Tensor, keys: Tensor, values: Tensor, **options: Any) -> Tensor:
    """In place of attention, for which a GPU has one kernel and what counts here several operations."""
    return query * 1


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Within, tensors on a GPU can be made where there is none, and autocast converts them."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        mock.patch("torch.cuda.is_bf16_supported", lambda *options: True),
        mock.patch.object(attention, "scaled_dot_product_attention", one_kernel),
    ):
        yield


def launches(model: PersonSearchModel, *inputs: Any, precision: Callable) -> Counter[str]:
    """Of the forward pass of a training step, by name of operation."""
    with fake_gpu():
        model = model.to_empty(device=GPU)
        inputs = tuple(without_content(value) for value in inputs)
        with precision(), Launches() as counted:
            model(*inputs)
    return counted.counts
