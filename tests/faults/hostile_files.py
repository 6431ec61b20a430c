"""Checkpoint files that run code when they are read without care.

CODE: name -> function of the path of a marker file, which the code makes, that returns the bytes of the file.
"""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hostile_parts import (
    HEAD,
    ORDERED,
    Call,
    archive,
    call,
    calling,
    checkpoint,
    group,
    legacy,
    name,
    old_checkpoint,
    saved,
    shell,
    source,
    storage,
    tensor,
    text,
    whole,
)

# ---- code ------------------------------------------------------------------------------


def import_of_a_module(marker: Path) -> bytes:
    """Imports a module that lies beside the marker."""
    module = marker.with_name(f"module_{marker.stem}.py")
    module.write_text(f"open({str(marker)!r}, 'w').close()\n")
    append = call(name("builtins", "getattr"), name("sys", "path"), text("append"))
    imported = call(name("importlib", "import_module"), text(module.stem))
    return archive(checkpoint(group(call(append, text(str(marker.parent))), imported)))


def model_of_a_hub(marker: Path) -> bytes:
    """Loads a hub's folder, which runs its hubconf.py."""
    folder = marker.with_name(f"hub_{marker.stem}")
    folder.mkdir(exist_ok=True)
    (folder / "hubconf.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    return archive(checkpoint(call(name("torch.hub", "_load_local"), text(str(folder)), text("model"))))


def objects_of_numpy(marker: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Call(open, str(marker), "w")], dtype=object), allow_pickle=True)
    return file.getvalue()


def tar_archive(marker: Path) -> bytes:
    """As torch's first versions wrote; the storages' list holds a call."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive_:
        for part in ("storages", "tensors", "pickle"):
            data = pickle.dumps(Call(open, str(marker), "w"), 2)
            entry = tarfile.TarInfo(part)
            entry.size = len(data)
            archive_.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def in_a_key(marker: Path) -> bytes:
    return archive(HEAD + b"}(" + call(name("os", "system"), shell(marker)) + text("x") + b"u.")


def in_a_hook(marker: Path) -> bytes:
    hooks = ORDERED + text("hook") + call(name("os", "system"), shell(marker)) + b"s"
    return archive(checkpoint(b"N", tensor(storage(), hooks=hooks)))


def in_a_storage(marker: Path) -> bytes:
    of = group(text("storage"), call(name("os", "system"), shell(marker)), text("0"), text("cpu"), whole(2)) + b"Q"
    return archive(checkpoint(b"N", tensor(of)))


def in_a_state(marker: Path) -> bytes:
    """Makes an object of a class and gives it a state that is computed by a call."""
    state = b"}" + text("x") + call(name("os", "system"), shell(marker)) + b"s"
    return archive(checkpoint(name("types", "SimpleNamespace") + b")R" + state + b"b"))


def in_a_command_line(marker: Path) -> bytes:
    """In an attribute of the one class that is made from a file."""
    state = b"}" + text("lr") + call(name("os", "system"), shell(marker)) + b"s"
    return archive(checkpoint(name("argparse", "Namespace") + b")\x81" + state + b"b"))


def after_the_content(marker: Path) -> bytes:
    """In the list of storages of an old file, behind harmless content."""
    keys = HEAD + b"]" + call(name("os", "system"), shell(marker)) + b"a."
    return legacy(old_checkpoint(b"N")).replace(pickle.dumps(["0"], 2), keys)


def nested_load(marker: Path) -> bytes:
    """A storage is read by torch itself from bytes within the file, without care."""
    inner = saved(Call(open, str(marker), "w"))
    data = call(name("_codecs", "encode"), text(inner.decode("latin1")), text("latin1"))
    return archive(checkpoint(call(name("torch.storage", "_load_from_bytes"), data)))


def nested_pickle(marker: Path) -> bytes:
    inner = call(
        name("_codecs", "encode"), text(pickle.dumps(Call(open, str(marker), "w"), 0).decode("latin1")), text("latin1")
    )
    return archive(checkpoint(call(name("pickle", "loads"), inner)))


CODE: dict[str, Callable[[Path], bytes]] = {
    "os.system, a plain pickle": lambda marker: HEAD + call(name("os", "system"), shell(marker)) + b".",
    "os.system, protocol 0": lambda marker: f"cos\nsystem\n(S'touch {marker}'\ntR.".encode(),
    "os.system, protocol 4": lambda marker: pickle.dumps(Call(os.system, f"touch {marker}"), 4),
    "os.system, archive": calling("os", "system", shell),
    "os.system, old format": lambda marker: legacy(old_checkpoint(call(name("posix", "system"), shell(marker)))),
    "os.system, before the content": lambda marker: (
        HEAD + call(name("os", "system"), shell(marker)) + b"." + legacy(old_checkpoint(b"N"))
    ),
    "os.system, after the content": after_the_content,
    "os.system, as a key": in_a_key,
    "os.system, as a hook": in_a_hook,
    "os.system, as a class of storage": in_a_storage,
    "os.system, as a state": in_a_state,
    "os.system, in a command line": in_a_command_line,
    "INST opcode": lambda marker: f"(S'touch {marker}'\nios\nsystem\n.".encode(),
    "OBJ opcode": lambda marker: b"(" + name("os", "system") + text(f"touch {marker}") + b"o.",
    "STACK_GLOBAL opcode": lambda marker: (
        b"\x80\x04" + text("os") + text("system") + b"\x93" + shell(marker) + b"\x85R."
    ),
    "builtins.eval": calling("builtins", "eval", source),
    "builtins.exec": calling("builtins", "exec", source),
    "builtins.eval, old name": calling("__builtin__", "eval", source),
    "subprocess.call": calling("subprocess", "call", lambda marker: b"](" + text("touch") + text(str(marker)) + b"e"),
    "subprocess.getoutput": calling("subprocess", "getoutput", shell),
    "open": calling("io", "open", lambda marker: text(str(marker)), text("w")),
    "runpy": lambda marker: archive(checkpoint(call(name("runpy", "_run_code"), source(marker), b"}"))),
    "import of a module": import_of_a_module,
    "model of a hub": model_of_a_hub,
    "torch.load within": nested_load,
    "pickle.loads within": nested_pickle,
    "array of objects": objects_of_numpy,
    "tar archive": tar_archive,
}
