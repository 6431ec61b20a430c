"""The opcodes of a pickle: its containers and plain values, and what its tensors claim to be.

Opcodes that torch.save does not write are refused, and so are attributes, which could replace methods.
"""

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from utils.checkpoints.untrusted.pickle_values import (
    ARGUMENTS,
    CALLS,
    DTYPES,
    STORAGES,
    Arguments,
    Name,
    Ordered,
    Other,
    Storage,
    as_mapping,
    is_count,
)
from utils.checkpoints.untrusted.refusal import NOT_PLAIN, SPECIAL, TOO_MANY, Refused, damaged

MAX_STEPS = 1_000_000  # opcodes of one pickle; a large checkpoint has some 200,000
MAX_CALLS = 100_000  # of functions; a tensor takes two


@dataclass
class Outline:
    """What one pickle holds: its `content`, its `storages` by key, and the offset in the data at which it ends."""

    content: Any
    storages: dict[str, Storage]
    end: int


@dataclass
class Reader:
    """The state of a walk through the opcodes of a pickle, as torch's own reader has it."""

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

    def count_call(self) -> None:
        """Raises Refused when more is called, or made, than in any checkpoint."""
        self.calls += 1
        if self.calls > MAX_CALLS:
            raise Refused(TOO_MANY)


Operations = Mapping[int, Callable[[Reader], None]]  # by opcode


def read_outline(data: bytes, start: int = 0, operations: Operations | None = None) -> Outline:
    """Walk through the pickle that begins at `start`; `operations` are those of torch.save unless given.

    Raises Refused when it holds more than tensors and plain values; nearly any exception when it is damaged.
    """
    reader, operations = Reader(data, start), OPERATIONS if operations is None else operations
    for _ in range(MAX_STEPS):
        code = data[reader.at]
        reader.at += 1
        if code == pickle.STOP[0]:
            return Outline(reader.stack.pop(), reader.storages, reader.at)
        if code not in operations:
            raise Refused(NOT_PLAIN)
        operations[code](reader)
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
        raise damaged("it appends to what is not a list")
    reader.stack[-1].extend(items)


def set_item(reader: Reader) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    set_items(reader, [key, value])


def set_items(reader: Reader, items: list | None = None) -> None:
    items = reader.since_mark() if items is None else items
    if not isinstance(reader.stack[-1], dict):
        raise damaged("it sets an item of what is not a mapping")
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
    reader.count_call()
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
    arguments, owner = reader.stack.pop(), reader.stack.pop()
    if type(owner) is not Name or owner.text != ARGUMENTS or arguments != ():
        raise Refused(NOT_PLAIN)
    reader.count_call()
    reader.stack.append(Arguments())


def storage(reader: Reader) -> None:
    """A storage by its key: ("storage", class, key, device, elements), and in old files a view of it, or None."""
    what, owner, key, device, numel, *view = reader.stack.pop()
    if what != "storage" or type(owner) is not Name or owner.text not in STORAGES or view not in ([], [None]):
        raise Refused(NOT_PLAIN)
    if type(key) is not str or type(device) is not str or not is_count(numel):
        raise damaged("a storage is described wrongly")
    described = Storage(key, numel, owner.text)
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


# the opcodes that torch.save writes, in files of all versions
OPERATIONS: Operations = {
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
