"""The outline of a pickle: its containers and plain values, and what its tensors claim to be.

Nothing that a pickle asks for is called or allocated. What `torch.load(weights_only=True)` accepts beyond tensors
on a storage and plain values is refused here: functions that allocate any size they are told, keys that take for
ever to hash, attributes that replace methods.
"""

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

MOST_STEPS = 1_000_000  # opcodes of one pickle; a large checkpoint has some 200,000
MOST_CALLS = 100_000  # of functions; a tensor takes two
MOST_DIMENSIONS = 64  # as in torch
NOT_PLAIN = "it is no checkpoint of tensors and plain values, and nothing else is ever loaded"
TOO_MANY = "it holds more values than any checkpoint"
SPECIAL = "it holds a sparse, quantized or other special tensor, and only plain ones are read"

STORAGES = {
    f"{module} {name}Storage": size
    for module in ("torch", "torch.cuda")
    for name, size in {
        "ComplexDouble": 16,
        "ComplexFloat": 8,
        "Double": 8,
        "Float": 4,
        "Half": 2,
        "BFloat16": 2,
        "Long": 8,
        "Int": 4,
        "Short": 2,
        "Char": 1,
        "Byte": 1,
        "Bool": 1,
    }.items()
} | {"torch.storage UntypedStorage": 1}  # bytes of an element
DTYPES = {f"torch {name}": value.itemsize for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
ARGUMENTS = "argparse Namespace"
KEYS = (str, int, float, bool, bytes, type(None))


class Refused(Exception):
    """Why a file is not read; ends the sentence "checkpoint X cannot be read: ..."."""


def damaged(detail: str) -> Refused:
    """The refusal of a file that no program can have written so."""
    return Refused(f"it is damaged, cut off, or no checkpoint ({detail})")


@dataclass(frozen=True)
class Name:
    """A class or function by name, "module name"; never looked up."""

    text: str


@dataclass(frozen=True)
class Storage:
    """The numbers of one or more tensors: how many there are, and of which class."""

    key: str
    numel: int
    kind: str

    @property
    def size(self) -> int:
        return self.numel * STORAGES[self.kind]


class Ordered(dict):
    """An OrderedDict, which may have attributes."""


class Arguments:
    """An argparse.Namespace, as which many programs keep their command line; `given` once it has its attributes."""

    given = False


class Other:
    """A tensor or plain value that is of no interest here."""


@dataclass
class Outline:
    """What one pickle holds: `content`, its `storages` by key, and where in the data it ends."""

    content: Any
    storages: dict[str, Storage]
    end: int


@dataclass
class Reader:
    """Goes through the opcodes of a pickle, as torch's own reader does."""

    data: bytes
    at: int = 0
    stack: list = field(default_factory=list)
    below: list[list] = field(default_factory=list)  # stacks under the last mark
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)
    calls: int = 0

    def take(self, count: int) -> bytes:
        """The next bytes; raises Refused when there are fewer."""
        self.at += count
        if self.at > len(self.data):
            raise damaged("its pickle is cut off")
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        """The next number, in a form of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """The text up to the next end of a line, which is left out."""
        end = self.data.index(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1].decode()

    def since_mark(self) -> list:
        """The values since the last mark, which is taken away."""
        items, self.stack = self.stack, self.below.pop()
        return items


def read_outline(data: bytes, start: int = 0) -> Outline:
    """The outline of the pickle that begins at `start`.

    Raises Refused when it holds more than tensors and plain values; nearly any exception when it is damaged.
    """
    reader = Reader(data, start)
    for _ in range(MOST_STEPS):
        code = data[reader.at]
        reader.at += 1
        if code == pickle.STOP[0]:
            return Outline(reader.stack.pop(), reader.storages, reader.at)
        if code not in OPERATIONS:
            raise Refused(NOT_PLAIN)
        OPERATIONS[code](reader)
    raise Refused(TOO_MANY)


# ---- opcodes ---------------------------------------------------------------------------


def mark(reader: Reader) -> None:
    """What follows is gathered: items, a tuple, arguments."""
    reader.below.append(reader.stack)
    reader.stack = []


def group(count: int | None) -> Callable[[Reader], None]:
    """Makes a tuple of the last `count` values, None = of those since the mark."""

    def operation(reader: Reader) -> None:
        items = reader.since_mark() if count is None else [reader.stack.pop() for _ in range(count)][::-1]
        reader.stack.append(tuple(items))

    return operation


def append(reader: Reader) -> None:
    extend(reader, [reader.stack.pop()])


def extend(reader: Reader, items: list | None = None) -> None:
    items = reader.since_mark() if items is None else items
    if type(reader.stack[-1]) is not list:
        raise damaged("it appends to what is no list")
    reader.stack[-1].extend(items)


def set_item(reader: Reader) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    set_items(reader, [key, value])


def set_items(reader: Reader, items: list | None = None) -> None:
    items = reader.since_mark() if items is None else items
    if not isinstance(reader.stack[-1], dict):
        raise damaged("it sets an item of what is no mapping")
    reader.stack[-1].update(as_mapping(zip(items[::2], items[1::2], strict=True)))


def name(reader: Reader) -> None:
    """A class or function, one of those that are known here."""
    text = f"{reader.line()} {reader.line()}"
    if text not in CALLS and text not in STORAGES and text not in DTYPES and text != ARGUMENTS:
        raise Refused(SPECIAL if text.startswith("torch._utils _rebuild_") else NOT_PLAIN)
    reader.stack.append(Name(text))


def call(reader: Reader) -> None:
    """What a function would give, if it is one of those that may be called, and with such arguments."""
    arguments, function = reader.stack.pop(), reader.stack.pop()
    if type(function) is not Name or function.text not in CALLS or type(arguments) is not tuple:
        raise Refused(NOT_PLAIN)
    reader.calls += 1
    if reader.calls > MOST_CALLS:
        raise Refused(TOO_MANY)
    reader.stack.append(CALLS[function.text](*arguments))


def build(reader: Reader) -> None:
    """Attributes: of a command line, or the versions that a model's state_dict has; others could replace methods."""
    state, owner = reader.stack.pop(), reader.stack[-1]
    if type(state) is not dict:
        raise Refused(NOT_PLAIN)
    if type(owner) is Arguments and not owner.given:
        owner.given = True
        allowed = all(type(name) is str and not name.startswith("__") for name in state)
    else:
        allowed = type(owner) is Ordered and set(state) == {"_metadata"}
    if not allowed:
        raise Refused(NOT_PLAIN)


def new(reader: Reader) -> None:
    """An object without attributes: only of a class that is nothing but its attributes."""
    arguments, kind = reader.stack.pop(), reader.stack.pop()
    if type(kind) is not Name or kind.text != ARGUMENTS or arguments != ():
        raise Refused(NOT_PLAIN)
    reader.calls += 1
    if reader.calls > MOST_CALLS:
        raise Refused(TOO_MANY)
    reader.stack.append(Arguments())


def storage(reader: Reader) -> None:
    """A storage by its key: ("storage", class, key, device, elements), and in old files a view of it, or None."""
    what, kind, key, device, numel, *view = reader.stack.pop()
    if what != "storage" or type(kind) is not Name or kind.text not in STORAGES or view not in ([], [None]):
        raise Refused(NOT_PLAIN)
    if type(key) is not str or type(device) is not str or not is_count(numel):
        raise damaged("a storage is described wrongly")
    described = Storage(key, numel, kind.text)
    if reader.storages.setdefault(key, described) != described:
        raise damaged(f"storage {key[:20]!r} is described in two ways")
    reader.stack.append(described)


def constant(make: Callable[[], Any]) -> Callable[[Reader], None]:
    return lambda reader: reader.stack.append(make())


def number(form: str) -> Callable[[Reader], None]:
    return lambda reader: reader.stack.append(reader.number(form))


def text(form: str) -> Callable[[Reader], None]:
    return lambda reader: reader.stack.append(reader.take(reader.number(form)).decode("utf-8", "surrogatepass"))


def whole_number(reader: Reader) -> None:
    reader.stack.append(int.from_bytes(reader.take(reader.number("<B")), "little", signed=True))


def get(form: str) -> Callable[[Reader], None]:
    return lambda reader: reader.stack.append(reader.memo[reader.number(form)])


def put(form: str) -> Callable[[Reader], None]:
    def operation(reader: Reader) -> None:
        reader.memo[reader.number(form)] = reader.stack[-1]

    return operation


# those that torch.save writes, in files of all versions
OPERATIONS: dict[int, Callable[[Reader], None]] = {
    code[0]: operation
    for code, operation in {
        pickle.PROTO: lambda reader: reader.take(1),
        pickle.MARK: mark,
        pickle.NONE: constant(lambda: None),
        pickle.NEWTRUE: constant(lambda: True),
        pickle.NEWFALSE: constant(lambda: False),
        pickle.EMPTY_TUPLE: constant(tuple),
        pickle.EMPTY_LIST: constant(list),
        pickle.EMPTY_DICT: constant(dict),
        pickle.EMPTY_SET: constant(Other),
        pickle.BININT: number("<i"),
        pickle.BININT1: number("<B"),
        pickle.BININT2: number("<H"),
        pickle.BINFLOAT: number(">d"),
        pickle.LONG1: whole_number,
        pickle.BINUNICODE: text("<I"),
        pickle.SHORT_BINSTRING: text("<B"),
        pickle.TUPLE: group(None),
        pickle.TUPLE1: group(1),
        pickle.TUPLE2: group(2),
        pickle.TUPLE3: group(3),
        pickle.APPEND: append,
        pickle.APPENDS: extend,
        pickle.SETITEM: set_item,
        pickle.SETITEMS: set_items,
        pickle.BINGET: get("<B"),
        pickle.LONG_BINGET: get("<I"),
        pickle.BINPUT: put("<B"),
        pickle.LONG_BINPUT: put("<I"),
        pickle.GLOBAL: name,
        pickle.REDUCE: call,
        pickle.NEWOBJ: new,
        pickle.BUILD: build,
        pickle.BINPERSID: storage,
    }.items()
}


# ---- what may be called, and with what -------------------------------------------------


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def as_mapping(pairs: Any) -> dict:
    """Pairs of key and value; a key of nested tuples could take for ever to hash, or the stack of the process."""
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


def of_types(*kinds: type) -> Callable[..., Other]:
    """A function of one or more values of these types, the result of which does not matter."""

    def function(*values: Any) -> Other:
        if not 0 < len(values) <= len(kinds) or any(map(lambda value, kind: type(value) is not kind, values, kinds)):
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
    if type(sizes) not in (tuple, list) or len(sizes) > MOST_DIMENSIONS or not all(map(is_count, sizes)):
        raise damaged("the shape of a tensor is none")
    return tuple(sizes)


def tensor(
    of: Any, offset: Any, size: Any, stride: Any, needs_gradient: Any = False, hooks: Any = None, more: Any = None
) -> Other:
    """A tensor of `size` on a storage; refused when it reaches, or with strides of 0 repeats, more than that holds."""
    if type(of) is not Storage or type(needs_gradient) is not bool or hooks not in (None, {}) or more not in (None, {}):
        raise Refused(NOT_PLAIN)
    require_within(of.numel, offset, size, stride)
    return Other()


def tensor_of_type(
    of: Any, offset: Any, size: Any, stride: Any, needs_gradient: Any, hooks: Any, dtype: Any, more: Any = None
) -> Other:
    """The same on a storage of bytes, with a type of number that has no storage class of its own."""
    if type(of) is not Storage or type(dtype) is not Name or dtype.text not in DTYPES:
        raise Refused(NOT_PLAIN)
    require_within(of.size // DTYPES[dtype.text], offset, size, stride)
    return tensor(of, 0, (0,), (1,), needs_gradient, hooks, more)  # its place is checked already


def require_within(numel: int, offset: Any, size: Any, stride: Any) -> None:
    """Raises Refused unless a tensor lies on a storage of `numel` elements and has no more of its own."""
    size, stride = shape(size), shape(stride)
    if len(size) != len(stride) or not is_count(offset):
        raise damaged("the shape of a tensor is none")
    last = offset + sum((many - 1) * step for many, step in zip(size, stride, strict=True))
    if prod(size) and (prod(size) > numel or last >= numel):
        raise Refused(f"it holds a tensor of shape {list(size[:8])} on a storage of {numel} elements")


def parameter(data: Any, needs_gradient: Any, hooks: Any) -> Other:
    if type(data) is not Other or type(needs_gradient) is not bool or hooks not in (None, {}):
        raise Refused(NOT_PLAIN)
    return data


CALLS: dict[str, Callable] = {
    "collections OrderedDict": ordered,
    "collections Counter": counter,
    "torch Size": shape,
    "torch device": of_types(str, int),
    "torch._utils _rebuild_tensor": tensor,
    "torch._utils _rebuild_tensor_v2": tensor,
    "torch._utils _rebuild_tensor_v3": tensor_of_type,
    "torch._utils _rebuild_parameter": parameter,
    "_codecs encode": encoded,
} | {
    f"{builtins} {name}": function
    for builtins in ("__builtin__", "builtins")
    for name, function in {"set": a_set, "complex": of_types(float, float), "bytearray": byte_array}.items()
}
