"""The nested content of a checkpoint: which values it may hold, whether they are finite, and its SHA-256."""

import cmath
import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

MAX_DEPTH = 100
LONGEST_NAME = 150
MAX_VALUES = 1_000_000  # a large checkpoint has some 20,000
TENSORS = (Tensor, nn.Parameter)
MAPPINGS = (dict, OrderedDict, Counter)
SEQUENCES = (list, tuple, torch.Size, set)
PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device)

KeyPath = tuple["KeyPath", Any] | None  # of a value: the path of the container that holds it, and its key there


class Unsuitable(Exception):
    """Content that no checkpoint may have; ends the sentence "checkpoint X ...: it holds ..."."""


def leaves(content: Any) -> Iterator[tuple[KeyPath, Any]]:
    """Every tensor and plain value in nested mappings, lists, tuples and sets, with its path.

    A value that is held twice comes twice. Raises Unsuitable for other types of values, for nesting beyond MAX_DEPTH
    (as of a list in itself) and for more than MAX_VALUES (a list of ten lists of ten lists ... is small in memory).
    """
    stack: list[tuple[KeyPath, int, Any]] = [(None, 0, content)]
    count = 1
    while stack:
        path, depth, value = stack.pop()
        if type(value) in PLAIN or type(value) in TENSORS:
            yield path, value
            continue
        items = items_of(value)
        if items is None:
            raise Unsuitable(f"{name_of(path)}, which is of type {type(value).__name__}")
        count += len(items)
        if depth == MAX_DEPTH:
            raise Unsuitable(f"values that are nested more than {MAX_DEPTH} deep")
        if count > MAX_VALUES:
            raise Unsuitable(f"more than {MAX_VALUES:,} values")
        stack.extend(((path, key), depth + 1, item) for key, item in reversed(items))


def items_of(value: Any) -> list[tuple[Any, Any]] | None:
    """Keys and values of a mapping, attributes included, or of a sequence; None for anything else."""
    if type(value) in MAPPINGS:
        return [*value.items(), *getattr(value, "__dict__", {}).items()]
    return list(enumerate(value)) if type(value) in SEQUENCES else None


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Nested content with `function(tensor)` for every tensor, in one order; nothing in it is shared with `value`."""
    if type(value) in TENSORS:
        return function(value.detach())
    if type(value) in MAPPINGS:
        twin = copy(value)  # with the attributes that a state_dict has
        for key, item in value.items():
            twin[key] = map_tensors(item, function)
        return twin
    if type(value) in (list, tuple):
        return type(value)(map_tensors(item, function) for item in value)
    return copy(value)


def name_of(path: KeyPath) -> str:
    """Keys from the outermost to the innermost: "optimizer.state.3.exp_avg"; of a long one, the end."""
    keys = []
    while path is not None:
        path, key = path
        keys.append(str(key))
    name = ".".join(reversed(keys)) or "the content"
    return name if len(name) <= LONGEST_NAME else f"...{name[-LONGEST_NAME:]}"


def require_plain(content: Any, most_bytes: float = math.inf) -> None:
    """Raises Unsuitable unless the content is plain values and tensors that are no larger than their storage.

    Tensors that share storages may together have `most_bytes`.
    """
    total = 0
    for path, value in leaves(content):
        if type(value) in TENSORS:
            if value.layout is not torch.strided or value.is_quantized or value.device.type == "meta":
                raise Unsuitable(f"{name_of(path)}, a sparse, quantized or empty shell of a tensor")
            if value.nbytes > value.untyped_storage().nbytes():
                raise Unsuitable(f"{name_of(path)}, a tensor that repeats its numbers; make it contiguous")
            total += value.nbytes
    if total > most_bytes:
        raise Unsuitable(f"tensors of {total:,} bytes on far smaller storages")


def first_non_finite(content: Any) -> str | None:
    """Name and description of the first value that is not a finite number: a float, or a tensor with one inside."""
    for path, value in leaves(content):
        if type(value) in TENSORS and not is_finite(value):
            numbers = value.detach().float() if value.is_floating_point() else value.detach()
            count = value.numel() - int(torch.isfinite(numbers).sum())
            return f"{name_of(path)} with {count:,} of {value.numel():,} values"
        if isinstance(value, float | complex) and not cmath.isfinite(value):
            return f"{name_of(path)} = {value}"
    return None


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite; the extremes show it, as NaN is both, ten times as fast as looking at each."""
    tensor = tensor.detach()
    if tensor.numel() == 0 or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.element_size() == 1:
        tensor = tensor.float()
    return all(math.isfinite(extreme.item()) for extreme in torch.aminmax(tensor))


# ---- SHA-256 ---------------------------------------------------------------------------


def sha256_of(content: Any) -> str:
    """SHA-256 of nested content: equal exactly when types, values and the bytes of tensors are.

    Mappings count as equal in any order and of any type, tensors on any device and with any strides.
    Raises TypeError for values that a checkpoint cannot hold.
    """
    digest = hashlib.sha256()
    feed(digest, content)
    return digest.hexdigest()


def feed(digest: Any, value: Any) -> None:
    """Every value begins with its type and size, so that no two contents feed the same bytes."""
    if type(value) in TENSORS:
        feed_text(digest, f"tensor {value.dtype} {list(value.shape)}")
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy())
    elif type(value) in MAPPINGS:
        feed_text(digest, f"mapping {len(value)}")
        for key in sorted(value, key=lambda key: (type(key).__name__, repr(key))):
            feed(digest, key)
            feed(digest, value[key])
    elif type(value) in (list, tuple, torch.Size):
        feed_text(digest, f"{'list' if type(value) is list else 'tuple'} {len(value)}")
        for item in value:
            feed(digest, item)
    elif type(value) is set:
        feed_text(digest, f"set {sorted(map(repr, value))}")
    elif type(value) in PLAIN:
        feed_text(digest, f"{type(value).__name__} {value!r}")
    else:
        raise TypeError(f"no SHA-256 of {type(value).__name__}: checkpoints hold tensors and plain values")


def feed_text(digest: Any, text: str) -> None:
    """Feed a text after its length."""
    data = text.encode()
    digest.update(len(data).to_bytes(8, "big") + data)
