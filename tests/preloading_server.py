"""The process that `preloaded.Popen` forks commands from: it imports, forks, and does nothing else.

    python tests/preloading_server.py SOCKET ROOM

It must not run threads, none of which a fork would have. A fork goes on as the command that it is made for: it leaves
`main` as Python would leave the command, so that the interpreter ends like that of any command.
"""

import ctypes
import fcntl
import gc
import importlib
import os
import runpy
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from io import BufferedReader, BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from preloaded import REPOSITORY, Request, Server, fork_from, without_options

IMPORTED = (
    "Retrieval",
    "torch.distributed.run",
    "torch.utils.tensorboard",
    "utils.processes.launch",
    "evaluation.__main__",
    "search.__main__",
    "dataset.synthetic",
    "dataset.prepare",
    "spacy",  # from here on: what a run imports when it needs it, which takes longer than its steps
    "timm.scheduler.cosine_lr",
    "torch._inductor.config",
)

USUAL = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}


def serve(connection: socket.socket) -> Request:
    """Fork for every request until nobody is left to send one; returns in each fork what was requested."""
    for number in USUAL:
        signal.signal(number, signal.SIG_IGN)  # sent to all processes of a command, and not meant for this one
    while request := Request.receive(connection):
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass  # that have ended
        fork = fork_below if request.ended is None else fork_beside
        if answer := fork(request):
            connection.send(answer)
            for number in request.files if request.ended is None else (*request.files, request.ended):
                os.close(number)
        else:
            connection.close()
            return request
    os._exit(0)


def fork_below(request: Request) -> bytes:
    """Fork a child of the process that asked for it: its number, or b"0"; b"" in the fork."""
    reading, writing = os.pipe()
    if between := os.fork():
        os.close(writing)
        os.waitpid(between, 0)
        with open(reading, "rb") as file:
            return file.read() or b"0"
    between = os.getpid()
    os.close(reading)
    if command := os.fork():
        os.write(writing, str(command).encode())
        os._exit(0)
    os.close(writing)
    while os.getppid() == between:
        time.sleep(0.001)  # until that ended
    return b""


def fork_beside(request: Request) -> bytes:
    """Fork for a process that cannot be the parent: what tells it number and status; b"" in the fork."""
    if teller := os.fork():
        return str(teller).encode()
    ended = request.ended or 0
    if command := os.fork():
        os.write(ended, f"{command}\n".encode())
        os.write(ended, f"{os.waitpid(command, 0)[1]}\n".encode())
        os._exit(0)
    os.close(ended)
    return b""


def fork_server(environment: dict[str, str], request: Request) -> Request | None:
    """Fork a server for what this process starts: None in this process, and requests in the forks of the server."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        fork_from(Server(ours, environment, threading.Lock()))
        return None
    ours.close()
    for file in request.files:
        os.close(file)
    return serve(theirs)


def become(request: Request, show: Callable[[Request], None]) -> None:
    """Take over environment, files and what signals do, as a new Python has them."""
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, 2**9) for file in request.files]  # out of the way
    for file in request.files:
        os.close(file)
    for copy, number in zip(high, request.numbers, strict=True):
        os.dup2(copy, number)
        os.close(copy)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        setattr(sys, name, reopened(number, getattr(sys, name), request.arguments[1] == "-u"))
        setattr(sys, f"__{name}__", getattr(sys, name))
    for number, usual in USUAL.items():
        signal.signal(number, usual)
    signal.pthread_sigmask(signal.SIG_SETMASK, request.blocked)
    os.environ.clear()
    os.environ.update(request.environment)
    show(request)
    sys.modules["numpy"].random.seed()  # which a new Python draws from the system


def reopened(number: int, before: TextIO, unbuffered: bool) -> TextIO:
    """A standard file as Python opens it, for what its number now stands for."""
    unbuffered |= before.write_through
    file = FileIO(number, "w" if number else "r", closefd=False)
    binary: Any = BufferedReader(file) if number == 0 else file if unbuffered else BufferedWriter(file)
    lines = not unbuffered and (number == 2 or file.isatty())
    how: dict[str, Any] = {"encoding": before.encoding, "errors": before.errors, "write_through": unbuffered}
    return TextIOWrapper(binary, newline="\n" if number else None, line_buffering=lines, **how)


def memory_shown() -> Callable[[Request], None]:
    """Writes what /proc shows of a command, its arguments and environment, to where it stands in this process."""
    numbers = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    first_argument, last_argument, first_variable, last_variable = map(int, numbers[45:49])

    def show(request: Request) -> None:
        variables = [f"{name}={value}" for name, value in request.environment.items()]
        regions = ((first_argument, last_argument, request.arguments), (first_variable, last_variable, variables))
        for first, last, words in regions:
            content = b"".join(os.fsencode(word) + b"\0" for word in words)
            ctypes.memmove(first, content.ljust(last - first, b"\0"), last - first)

    return show


def run(given: list[str]) -> None:
    """Do what `python ARGUMENTS...` does."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    sys.orig_argv, (_, first, *rest) = given, without_options(given)
    if first == "-m":
        sys.argv, sys.path[0] = ["-m", *rest[1:]], str(REPOSITORY)
        script = f"{rest[0]}.__main__"
        sys.modules.pop(script if script in sys.modules else rest[0], None)
        runpy._run_module_as_main(rest[0])
        return
    sys.argv = [first, *rest]
    if first == "-c":
        sys.argv, sys.path[:1] = ["-c", *rest[1:]], ["", str(REPOSITORY)]
        exec(rest[0], main.__dict__)
        return
    sys.path[0] = str(Path(first).resolve().parent)
    main.__file__, main.__cached__ = first, None
    main.__loader__ = SourceFileLoader("__main__", first)
    exec(compile(Path(first).read_bytes(), first, "exec"), main.__dict__)


def main() -> None:
    connection, environment = socket.socket(fileno=int(sys.argv[1])), dict(os.environ)
    del environment["ROOM"]
    sys.path[0] = str(REPOSITORY)
    show = memory_shown()
    for name in IMPORTED:
        importlib.import_module(name)
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a module that is imported here starts a thread")
    gc.collect()
    gc.freeze()
    inner: Request | None = serve(connection)
    while inner:
        request = inner
        if request.new_session:
            os.setsid()
        inner = fork_server(environment, request)
    become(request, show)
    run(request.arguments)


if __name__ == "__main__":
    main()
