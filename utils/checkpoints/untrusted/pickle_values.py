"""What stands for the values of a pickle, and what may be called in one.

Nothing is looked up, called or allocated. What `torch.load(weights_only=True)` accepts beyond tensors on a storage and
plain values is refused here: functions that allocate any size they are told, keys that take for ever to hash.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from utils.checkpoints.untrusted.refusal import NOT_PLAIN, Refused, damaged

MAX_DIMENSIONS = 64  # as in torch

STORAGES = {
    f"{module} {name}Storage": dtype
    for module in ("torch", "torch.cuda")
    for name, dtype in {
        "ComplexDouble": torch.complex128,
        "ComplexFloat": torch.complex64,
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
} | {"torch.storage UntypedStorage": torch.uint8}  # of an element
DTYPES = {f"torch {name}": value.itemsize for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
ARGUMENTS = "argparse Namespace"
KEYS = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True)
class Name:
    """A class or function by name, "module name"; never looked up."""

    text: str


@dataclass(frozen=True)
class Storage:
    """The storage of one or more tensors: how many elements it has, and of which class of storage."""

    key: str
    numel: int
    storage_class: str

    @property
    def dtype(self) -> torch.dtype:
        return STORAGES[self.storage_class]

    @property
    def size(self) -> int:
        return self.numel * self.dtype.itemsize


class Ordered(dict[Any, Any]):
    """An OrderedDict, which may have attributes."""


class Arguments:
    """An argparse.Namespace, as which many programs keep their command line; `given` once it has its attributes."""

    given = False


class Other:
    """A tensor or plain value that is of no interest here."""


# ---- what may be called, and with what -------------------------------------------------


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def as_mapping(pairs: Any) -> dict:
    """Keys and values; a key of nested tuples could take for ever to hash, or overflow the stack of the process."""
    mapping = {}
    for key, value in pairs:
        if type(key) not in KEYS or (type(key) is int and not -(2**63) <= key < 2**63):
            raise Refused(NOT_PLAIN)
        mapping[key] = value
    return mapping


def ordered(pairs: Any = ()) -> Ordered:
    if type(pairs) not in (tuple, list) or any(type(pair) not in (tuple, list) for pair in pairs):
        raise Refused(NOT_PLAIN)
    return Ordered(as_mapping(pairs))


def counter(counts: Any) -> dict:
    if type(counts) is not dict:
        raise Refused(NOT_PLAIN)
    return counts


def a_set(items: Any) -> Other:
    if type(items) is not list:
        raise Refused(NOT_PLAIN)
    as_mapping((item, None) for item in items)
    return Other()


def of_types(*types: type) -> Callable[..., Other]:
    """A function of one or more values of these types, whose result does not matter."""

    def function(*values: Any) -> Other:
        if not 0 < len(values) <= len(types) or any(map(lambda value, type_: type(value) is not type_, values, types)):
            raise Refused(NOT_PLAIN)
        return Other()

    return function


def encoded(value: Any, encoding: Any) -> bytes:
    """How bytes are written; other encodings can take for ever."""
    if type(value) is not str or encoding != "latin1":
        raise Refused(NOT_PLAIN)
    return value.encode("latin1")


def byte_array(value: Any = b"", encoding: Any = "latin-1") -> Other:
    if type(value) not in (str, bytes) or encoding != "latin-1":  # a number would be a size to allocate
        raise Refused(NOT_PLAIN)
    return Other()


def shape(sizes: Any) -> tuple[int, ...]:
    if type(sizes) not in (tuple, list) or len(sizes) > MAX_DIMENSIONS or not all(map(is_count, sizes)):
        raise damaged("a tensor has an impossible shape")
    return tuple(sizes)


def tensor(
    of: Any, offset: Any, size: Any, stride: Any, needs_gradient: Any = False, hooks: Any = None, more: Any = None
) -> Other:
    """A tensor of `size` on a storage; refused when it reaches beyond that, or repeats its elements by strides of 0."""
    if type(of) is not Storage or type(needs_gradient) is not bool or hooks not in (None, {}) or more not in (None, {}):
        raise Refused(NOT_PLAIN)
    require_within(of.numel, offset, size, stride)
    return Other()


def tensor_of_dtype(
    of: Any, offset: Any, size: Any, stride: Any, needs_gradient: Any, hooks: Any, dtype: Any, more: Any = None
) -> Other:
    """The same on a storage of bytes, with a dtype that has no storage class of its own."""
    if type(of) is not Storage or type(dtype) is not Name or dtype.text not in DTYPES:
        raise Refused(NOT_PLAIN)
    require_within(of.size // DTYPES[dtype.text], offset, size, stride)
    return tensor(of, 0, (0,), (1,), needs_gradient, hooks, more)  # its extent is checked already


def require_within(numel: int, offset: Any, size: Any, stride: Any) -> None:
    """Raises Refused unless a tensor lies within a storage of `numel` elements and has no more than that itself."""
    size, stride = shape(size), shape(stride)
    if len(size) != len(stride) or not is_count(offset):
        raise damaged("a tensor has an impossible shape")
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if prod(size) and (prod(size) > numel or last >= numel):
        raise Refused(f"it holds a tensor of shape {list(size[:8])} on a storage of {numel} elements")


def parameter(data: Any, needs_gradient: Any, hooks: Any) -> Other:
    if type(data) is not Other or type(needs_gradient) is not bool or hooks not in (None, {}):
        raise Refused(NOT_PLAIN)
    return data


BUILTINS: dict[str, Callable[..., Any]] = {
    "set": a_set,
    "complex": of_types(float, float),
    "bytearray": byte_array,
}
CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": ordered,
    "collections Counter": counter,
    "torch Size": shape,
    "torch device": of_types(str, int),
    "torch._utils _rebuild_tensor": tensor,
    "torch._utils _rebuild_tensor_v2": tensor,
    "torch._utils _rebuild_tensor_v3": tensor_of_dtype,
    "torch._utils _rebuild_parameter": parameter,
    "_codecs encode": encoded,
    **{f"{module} {name}": BUILTINS[name] for module in ("__builtin__", "builtins") for name in BUILTINS},
}
