"""Stands in for the Python of a shell script: has a server fork what it shall run, and else becomes a new Python.

The server (see preloaded.py) belongs to the tests that started the script, and so does what it forks: this process
passes signals on, and ends as the fork does.
"""

import fcntl
import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from preloaded import REPOSITORY, Request, is_forked

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def write_stand_in(program: Path, connection: int, environment: Mapping[str, str], tests: Path) -> None:
    """Make `program` a stand-in for this Python, and `torchrun` beside it one for that of its environment.

    connection: number of the server's socket in the processes that run it. environment: what the server has imported
    in. tests: the folder of this file in the copy of the repository that the server belongs to.
    """
    program.parent.mkdir(parents=True)
    state = program.with_name("server.json")
    state.write_text(json.dumps({"connection": connection, "environment": dict(environment), "python": sys.executable}))
    code = f"import sys; sys.path.insert(0, {str(tests)!r}); import preloaded_python as p; p.main({str(state)!r})"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS -c {shlex.quote(code)} "$@"\n')
    torchrun = program.with_name("torchrun")
    torchrun.write_text(f'#!/bin/sh\nexec {shlex.quote(str(program))} -m torch.distributed.run "$@"\n')
    for script in (program, torchrun):
        script.chmod(0o755)


def main(state: str) -> None:
    """Run what the command line says."""
    with open(state, encoding="utf-8") as file:
        server = json.load(file)
        arguments = [server["python"], *sys.argv[1:]]
        reading, writing = os.pipe()
        request = Request(arguments, dict(os.environ), (0, 1, 2), ended=writing)
        if Path.cwd() == REPOSITORY and is_forked(request, server["environment"]):
            fcntl.flock(file, fcntl.LOCK_EX)  # other processes use the same socket
            connection = socket.socket(fileno=server["connection"])
            request.send(connection)
            answer = connection.recv(100)
            connection.detach()
            fcntl.flock(file, fcntl.LOCK_UN)
            if answer.strip(b"0"):
                os.close(writing)
                end_with(reading)
    os.execv(arguments[0], arguments)


def end_with(told: int) -> None:
    """End as the fork does, whose number and status are told."""
    with open(told, encoding="ascii") as file:
        pid = int(file.readline())
        for number in PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, _: os.kill(pid, number))
        code = os.waitstatus_to_exitcode(int(file.readline()))
    if code < 0:
        with suppress(OSError):  # SIGKILL does nothing else
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
