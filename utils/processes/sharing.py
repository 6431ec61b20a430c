"""Content with tensors that one process reads for all: from a shared disk once, and checked once."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec

import torch
import torch.distributed as dist
from torch import Tensor

from utils.processes.distributed import is_main, on_main, world_size
from utils.values import TENSORS, leaves, map_tensors

Parameters = ParamSpec("Parameters")

BLOCK = 2**26  # bytes that are sent together, if a tensor is not larger


def shared_from_main(function: Callable[Parameters, dict[str, Any]]) -> Callable[Parameters, dict[str, Any]]:
    """Decorator: run `function` on the main process, and return the nested content that it returns on all.

    The others receive its tensors on the CPU, each with a storage of its own. An exception is raised on all processes.
    """

    @wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> dict[str, Any]:
        if world_size() == 1:
            return function(*args, **kwargs)
        found: list[dict[str, Any]] = []

        def describe() -> dict[str, Any]:
            found.append(function(*args, **kwargs))
            return map_tensors(found[0], shell_of)

        content = on_main(describe)()
        content = found[0] if found else map_tensors(content, lambda shell: torch.empty_like(shell, device="cpu"))
        for block in blocks_of(content):
            broadcast(block)
        return content

    return wrapper


def shell_of(tensor: Tensor) -> Tensor:
    """Shape and type of a tensor, without its numbers."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def blocks_of(content: Any) -> Iterator[list[Tensor]]:
    """The tensors of nested content in its order, the same on all processes, some at a time."""
    block: list[Tensor] = []
    size = 0
    for tensor in (value for _, value in leaves(content) if type(value) in TENSORS):
        if block and size + tensor.nbytes > BLOCK:
            yield block
            block, size = [], 0
        block.append(tensor)
        size += tensor.nbytes
    if block:
        yield block


def broadcast(tensors: list[Tensor]) -> None:
    """Give tensors on the CPU the numbers that those of the main process have."""
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    sizes = [tensor.nbytes for tensor in tensors]
    if is_main():
        sent = torch.cat([as_bytes(tensor.resolve_conj().resolve_neg().contiguous()) for tensor in tensors]).to(device)
    else:
        sent = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
    dist.broadcast(sent, src=0)
    if not is_main():
        for tensor, part in zip(tensors, sent.cpu().split(sizes), strict=True):
            as_bytes(tensor).copy_(part)


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a contiguous tensor, in its memory."""
    return tensor.detach().reshape(-1).view(torch.uint8)
