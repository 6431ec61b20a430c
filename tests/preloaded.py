"""Starts Python commands as forks of a process that has imported torch and this program, which takes seconds.

`Popen` is subprocess.Popen in all else: what it starts is a child of this process, with its own number, folder,
environment, files, session and exit code, and what that starts in turn is forked too. A new Python is started wherever
a fork could make a difference: for other programs and options, in another folder, with limits or as another user, and
when the environment differs in more than the variables of `LATE`, as many of the others are read by imports.
"""

import atexit
import ctypes
import functools
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import util
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
SERVER = "tests/preloading_server.py"
MODULES = ("Retrieval", "search", "evaluation", "dataset.synthetic", "dataset.prepare", "utils.processes.launch")
MODULES += ("torch.distributed.run", "pytest")  # that `-m` may run, beside benchmarks
OPTIONS = ("-u", *subprocess._args_from_interpreter_flags())  # that it may have; the latter are those of this Python
LATE_PREFIXES = ("GRADIO_", "GROUP_", "LOCAL_", "MASTER_", "ROLE_", "TORCHELASTIC_")  # of variables read when used
LATE = {"RANK", "WORLD_SIZE", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "CUBLAS_WORKSPACE_CONFIG", "LAUNCHER_TELLS_ERRORS"}
LATE |= {"RESTARTS", "GPUS", "MARS_ENV", "RECIPE", "OUTPUT", "CONFIG", "BREAK", "SOAK", "PYTEST_CURRENT_TEST"}
LATE |= {"SHLVL", "_", "PWD", "OLDPWD"}  # which a shell sets
ROOM = 2**16  # bytes that the server keeps for the arguments and for the environment of a command, as /proc shows them
FILES = 250  # that can be sent to the server
SUBREAPER = 36  # prctl: descendants that lose their parent become children of this process
USUAL = {"preexec_fn": None, "pass_fds": (), "shell": False, "gid": None, "gids": None, "uid": None, "umask": -1}
SIGNATURE = inspect.signature(subprocess.Popen._execute_child)
spawn_new = util.spawnv_passfds


@dataclass(frozen=True)
class Request:
    """A command to fork in the folder of the repository."""

    arguments: list[str]
    environment: dict[str, str]
    files: Sequence[int]  # of the sender
    numbers: Sequence[int] = (0, 1, 2)  # of these files in the command
    new_session: bool = False
    blocked: Collection[int] = ()  # signals
    ended: int | None = None  # a file that takes number and status, for a process that cannot be the parent

    def send(self, connection: socket.socket) -> None:
        """To the server, the files along with it."""
        files = [*self.files, *([] if self.ended is None else [self.ended])]
        content = asdict(replace(self, files=(), blocked=sorted(self.blocked)))
        socket.send_fds(connection, [json.dumps(content).encode()], files)

    @classmethod
    def receive(cls, connection: socket.socket) -> "Request | None":
        """What was sent, with the files as numbered here; None when nobody is left to send it."""
        content, files, _, _ = socket.recv_fds(connection, 4 * ROOM, FILES)
        if not content:
            return None
        request = cls(**json.loads(content))
        ended = None if request.ended is None else files.pop()
        return replace(request, files=files, ended=ended)


@dataclass(frozen=True)
class Server:
    """The process that forks: the way to it, and the environment in which it has imported everything."""

    connection: socket.socket
    environment: Mapping[str, str]
    lock: threading.Lock

    def fork(self, request: Request) -> int | None:
        """The number of the new process, which is a child of this one; None when that needs a new Python.

        The server forks a process that forks the command and ends, whereupon the command is given to its nearest
        ancestor that takes orphans in.
        """
        if not is_forked(request, self.environment):
            return None
        try:
            with self.lock, taking_orphans_in():
                replace(request, blocked=signal.pthread_sigmask(signal.SIG_BLOCK, ())).send(self.connection)
                return int(self.connection.recv(100) or 0) or None
        except OSError:
            return None


@contextmanager
def taking_orphans_in() -> Iterator[None]:
    """Descendants that lose their parent meanwhile become children of this process."""
    libc = ctypes.CDLL(None)
    libc.prctl(SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(SUBREAPER, 0, 0, 0, 0)


@functools.cache
def server() -> Server:
    """The server of this process, started when it is first asked for. It ends with this process."""
    from benchmark_data import environment

    return start_server(REPOSITORY, environment())


def start_server(repository: Path, settings: Mapping[str, str]) -> Server:
    """Start a server for commands of a copy of the repository, in this environment. It ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, str(repository / SERVER), str(theirs.fileno()), "-" * ROOM],
        cwd=repository,
        env={**settings, "ROOM": "-" * ROOM},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return Server(ours, settings, threading.Lock())


def is_forked(request: Request, environment: Mapping[str, str]) -> bool:
    """Whether a fork of the server, which has imported everything in `environment`, is as good as a new Python."""
    if sys.platform != "linux" or not all(isinstance(word, str) for word in request.arguments):
        return False
    program, first, second, *_ = [*without_options(request.arguments), "", ""]
    known = first == "-c" and second.startswith("from multiprocessing.")
    known |= first == "-m" and (second in MODULES or second.startswith("benchmarks."))
    known |= first.endswith(".py") and (REPOSITORY / first).is_file()
    names = {*request.environment, *environment}
    different = {name for name in names if request.environment.get(name) != environment.get(name)}
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), environment.get("PYTHONPATH")]))
    if request.environment.get("PYTHONPATH") == paths:  # the server has imported from there
        different -= {"PYTHONPATH"}
    size = max(sum(map(len, request.arguments)), sum(len(f"{item}") for item in request.environment.items()))
    return program == sys.executable and known and all(map(is_late, different)) and 4 * size < ROOM


def without_options(command: Sequence[str]) -> list[str]:
    """The command without the options that a fork can have."""
    program, *rest = command
    while rest and rest[0] in OPTIONS:
        rest = rest[1:]
    return [program, *rest]


def is_late(name: str) -> bool:
    """Whether a variable of the environment is read when it is used, and never by an import."""
    return name in LATE or name.startswith(LATE_PREFIXES)


class Popen(subprocess.Popen):
    """subprocess.Popen, which forks Python commands."""

    def _execute_child(self, *given: Any) -> None:
        wanted = SIGNATURE.bind(self, *given).arguments
        ends = [wanted[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")]
        usual = all(wanted.get(name, value) == value for name, value in USUAL.items())
        here = Path(wanted["cwd"] or os.getcwd()) == REPOSITORY
        if usual and here and wanted.get("process_group") in (None, -1) and not isinstance(wanted["args"], str | bytes):
            files = [end if end >= 0 else number for number, end in enumerate((ends[0], ends[3], ends[5]))]
            environment = dict(os.environ if wanted["env"] is None else wanted["env"])
            session = bool(wanted["start_new_session"])
            pid = server().fork(Request(list(wanted["args"]), environment, files, new_session=session))
            if pid is not None:
                self.pid, self._child_created = pid, True
                self._close_pipe_fds(*ends)
                return
        super()._execute_child(*given)


def spawn(path: str, arguments: Sequence[str], numbers: Sequence[int]) -> int:
    """multiprocessing.util.spawnv_passfds, which forks: for processes that hand out forks, or do a task.

    The one that counts shared memory and semaphores imports nothing of this program, and is a new Python.
    """
    words = [word.decode() if isinstance(word, bytes) else word for word in arguments]
    if Path.cwd() == REPOSITORY and not words[-1].startswith("from multiprocessing.resource_tracker"):
        numbers = [0, 1, 2, *sorted(numbers)]
        pid = server().fork(Request(words, dict(os.environ), numbers, numbers))
        if pid is not None:
            return pid
    return spawn_new(path, arguments, numbers)


def fork_from(here: Server) -> None:
    """Have what this process starts forked from a server of its own, whatever starts it."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    globals()["server"] = lambda: here
    subprocess.Popen = subprocess_handler.Popen = Popen
    util.spawnv_passfds = spawn
