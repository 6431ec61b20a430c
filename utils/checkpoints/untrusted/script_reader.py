"""The pickle of a TorchScript archive: objects of its own classes, which are never made, and outlines of tensors.

It has the opcodes that torch.save writes; those that make objects, or call, mean other things here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pickle import BUILD, GLOBAL, NEWOBJ, REDUCE, SETITEM, SETITEMS
from typing import Any

from utils.checkpoints.untrusted import pickle_values
from utils.checkpoints.untrusted.pickle_reader import OPERATIONS, Operations, Reader, read_outline, set_items
from utils.checkpoints.untrusted.pickle_values import STORAGES, Name, Other, Storage
from utils.checkpoints.untrusted.refusal import NOT_PLAIN, SPECIAL, Refused, damaged


class ScriptClass:
    """A class whose source is in the archive."""


@dataclass(eq=False)
class ScriptObject:
    """An object of such a class; attributes: by name, None = until they are known, and when code would restore them."""

    attributes: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class TensorOutline:
    """Where the numbers of a tensor are; offset, size and stride in elements of its storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_script(data: bytes) -> Any:
    """What the pickle of an archive holds, a ScriptObject if it is a module.

    Raises Refused when it names anything but its own classes and tensors; nearly any exception when it is damaged.
    """
    return read_outline(data, operations=SCRIPT_OPERATIONS).content


# ---- opcodes ---------------------------------------------------------------------------


def tensor(of: Any, offset: Any, size: Any, stride: Any, *more: Any) -> TensorOutline:
    """A tensor that lies within its storage; raises Refused when it does not."""
    pickle_values.tensor(of, offset, size, stride, *more)
    return TensorOutline(of, offset, tuple(size), tuple(stride))


def ignored(*values: Any) -> Other:
    """A list, mapping or device, which is no part of a state_dict."""
    return Other()


CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": pickle_values.ordered,
    "torch._utils _rebuild_tensor_v2": tensor,
    "torch device": ignored,
    **{f"torch.jit._pickle build_{type_}list": ignored for type_ in ("int", "double", "bool", "tensor")},
    "torch.jit._pickle restore_type_tag": ignored,
    **{f"{module} complex": pickle_values.BUILTINS["complex"] for module in ("__builtin__", "builtins")},
}


def name(reader: Reader) -> None:
    """A class of the archive, or one of the functions that are known here; any other is refused by its name."""
    module, attribute = reader.line(), reader.line()
    text = f"{module} {attribute}"
    if module.partition(".")[0] == "__torch__":
        reader.stack.append(ScriptClass())
    elif text in CALLS or text in STORAGES:
        reader.stack.append(Name(text))
    elif text.startswith("torch._utils _rebuild_"):
        raise Refused(SPECIAL)
    else:
        raise Refused(f"it asks for {f'{module}.{attribute}'[:60]!a}; {NOT_PLAIN}")


def call(reader: Reader) -> None:
    """What a known function would give; a class is only called for what is no module, such as a member of an Enum."""
    arguments, function = reader.stack.pop(), reader.stack.pop()
    reader.count_call()
    if type(function) is ScriptClass:
        reader.stack.append(Other())
    elif type(function) is Name and function.text in CALLS and type(arguments) is tuple:
        reader.stack.append(CALLS[function.text](*arguments))
    else:
        raise Refused(NOT_PLAIN)


def new(reader: Reader) -> None:
    """An object of a class of the archive, without attributes as yet."""
    arguments, owner = reader.stack.pop(), reader.stack.pop()
    if type(owner) is not ScriptClass or arguments != ():
        raise Refused(NOT_PLAIN)
    reader.count_call()
    reader.stack.append(ScriptObject())


def build(reader: Reader) -> None:
    """Attributes of an object; anything but a mapping is for code of its own to restore, and ignored."""
    state, owner = reader.stack.pop(), reader.stack[-1]
    if type(owner) is not ScriptObject or owner.attributes is not None:
        raise Refused(NOT_PLAIN)
    if type(state) is dict:
        if not all(type(key) is str for key in state):
            raise damaged("an attribute has no name")
        owner.attributes = state


def set_new_items(reader: Reader) -> None:
    """Items of a mapping that it does not have yet, as those of attributes and of mappings never repeat."""
    before, count = reader.below[-1][-1], len(reader.stack) // 2
    size = len(before)
    set_items(reader)
    if len(before) != size + count:
        raise damaged("two attributes have one name")


SCRIPT_OPERATIONS: Operations = {
    **{code: operation for code, operation in OPERATIONS.items() if code != SETITEM[0]},  # items are set together
    GLOBAL[0]: name,
    REDUCE[0]: call,
    NEWOBJ[0]: new,
    BUILD[0]: build,
    SETITEMS[0]: set_new_items,
}
