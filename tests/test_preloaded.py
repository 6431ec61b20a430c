"""A command that is forked is, for whoever starts it, one that a new Python runs."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import preloaded
import pytest
from benchmark_data import REPOSITORY
from harness import children_of_all
from preloaded import SERVER, Popen, Server, server
from preloaded_python import write_stand_in

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no command is forked")

INTERRUPTED = 0 if signal.getsignal(signal.SIGINT) == signal.SIG_IGN else -signal.SIGINT  # as a shell starts a job


def environment() -> dict[str, str]:
    """What the server has imported in, whatever other tests have set since."""
    return dict(server().environment)


FORKED = "import os, sys\nprint('torch' in sys.modules, flush=True)\n"  # before anything is imported


@pytest.fixture
def started(tmp_path):
    """Starts Python code, which is written to a file, and returns how it ended and what it wrote."""

    def start(code: str, *arguments: str, how: type = Popen, before=(), **more) -> SimpleNamespace:
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(code))
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        given = {"cwd": REPOSITORY, "env": environment(), "text": True, **pipes, **more}
        with how([sys.executable, *before, str(script), *arguments], **given) as process:
            output, errors = process.communicate("typed\n", timeout=300)
        return SimpleNamespace(code=process.returncode, output=output, errors=errors, pid=process.pid)

    return start


ENDS = {
    "returns": ("print('done')", 0),
    "exit code": ("sys.exit(3)", 3),
    "message": ("sys.exit('too bad')", 1),
    "exception": ("raise ValueError('a bug')", 1),
    "interrupted": ("os.kill(os.getpid(), signal.SIGINT)", INTERRUPTED),
    "terminated": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "signalled": ("os.kill(os.getpid(), signal.SIGUSR1)", -signal.SIGUSR1),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "aborted": ("os.abort()", -signal.SIGABRT),
    "thread": ("threading.Timer(0.1, lambda: os.write(1, b'late')).start()", 0),
    "at exit": ("atexit.register(lambda: print('last'))", 0),
}


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_as_a_new_one(started, end):
    code = f"import atexit, os, signal, sys, threading\nprint(sys.argv[1:], sys.stdin.read())\n{ENDS[end][0]}"
    found, expected = (started(code, "a", "b c", how=how) for how in (Popen, subprocess.Popen))
    assert found.code == expected.code == ENDS[end][1]
    assert found.output == expected.output
    assert found.errors.splitlines()[-1:] == expected.errors.splitlines()[-1:]


WHO = """
    import json, os, resource, signal, sys
    from pathlib import Path
    def shown(what):
        return Path("/proc/self", what).read_bytes().rstrip(b"\\0").split(b"\\0")
    files = {number: os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
    print(json.dumps({
        "parent": os.getppid(), "session": os.getsid(0) == os.getpid(), "group": os.getpgid(0) == os.getpid(),
        "folder": os.getcwd(), "arguments": sys.argv, "command": repr(shown("cmdline")), "path": sys.path,
        "environment": repr(sorted(shown("environ"))), "variables": sorted(os.environ.items()),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "main": sys.modules["__main__"].__file__,
        "signals": [repr(signal.getsignal(number)) for number in range(1, 32)],
        "streams": [[file.encoding, file.errors, file.line_buffering, file.write_through, file.fileno()]
                    for file in (sys.stdin, sys.stdout, sys.stderr)],
        "threads": len(os.listdir("/proc/self/task")), "spec": repr(sys.modules["__main__"].__spec__),
    }, indent=0))
    opened = [number for number, file in files.items() if "socket:" not in file and "/fd" not in file]
    print(sorted(opened), file=sys.stderr)
"""


@pytest.mark.parametrize("more", [{}, {"start_new_session": True}, {"before": ["-u"]}], ids=str)
def test_it_finds_what_a_new_one_finds(started, more):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        found, expected = (
            started(WHO, "a", "ü", how=how, **({"env": {**environment(), "RANK": "1", "SOAK": "ä"}} | more))
            for how in (Popen, subprocess.Popen)
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert found.code == expected.code == 0, found.errors
    assert found.output.splitlines() == expected.output.splitlines()
    assert found.errors == expected.errors  # its open files, but for the socket of its own server


@pytest.mark.parametrize(
    ("command", "code"), [(["Retrieval.py", "--nonsense"], 2), (["-m", "evaluation", "report", "/nowhere"], 2)]
)
def test_commands_of_the_program_are_forked(command, code, monkeypatch):
    monkeypatch.setattr(subprocess.Popen, "_execute_child", None)  # which starts a new Python
    process = Popen([sys.executable, *command], cwd=REPOSITORY, env=environment(), stderr=subprocess.PIPE, text=True)
    with process:
        errors = process.communicate()[1]
    assert process.returncode == code and errors.startswith("error: ") and errors.count("\n") == 1


def test_it_is_forked_and_has_what_is_imported(started):
    assert started(FORKED).output == "True\n"


@pytest.mark.parametrize(
    "more",
    [
        {"variables": {"OMP_NUM_THREADS": "2"}},
        {"variables": {"MALLOC_ARENA_MAX": "1"}},
        {"variables": {"HF_HUB_OFFLINE": "0"}},
        {"cwd": REPOSITORY.parent},
        {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))},
        {"umask": 0o77},
        {"before": ["-O"]},
    ],
    ids=["threads", "malloc", "offline", "folder", "limit", "umask", "option"],
)
def test_what_a_fork_could_not_know_is_new(started, more):
    variables = {**environment(), **more.get("variables", {})}
    others = {name: value for name, value in more.items() if name != "variables"}
    assert started(FORKED, env=variables, **others).output == "False\n"


def test_without_a_server_it_is_new(started, monkeypatch):
    here, there = preloaded.socket.socketpair(preloaded.socket.AF_UNIX, preloaded.socket.SOCK_SEQPACKET)
    there.close()
    gone = Server(here, server().environment, threading.Lock())
    monkeypatch.setattr(preloaded, "server", lambda: gone)
    assert started(FORKED).output == "False\n"
    here.close()


NESTED = """
    import multiprocessing, subprocess, sys
    def forked(_=None):
        return "torch" in sys.modules
    if __name__ == "__main__":
        command = [sys.executable, __file__, "below"]
        if sys.argv[1:]:
            print(forked())
        else:
            print(forked(), subprocess.run(command, capture_output=True, text=True).stdout.strip())
            for start in ("spawn", "forkserver"):
                with multiprocessing.get_context(start).Pool(1) as pool:
                    print(pool.map(forked, [0]))
"""


def test_what_it_starts_is_forked_too(started):
    found = started(NESTED)
    assert found.output.splitlines() == ["True True", "[True]", "[True]"], found.errors
    assert found.errors == ""


@pytest.fixture
def python(tmp_path) -> tuple[str, list[int]]:
    """A stand-in for Python, as shell scripts get it, and the file that it needs."""
    number = server().connection.fileno()
    write_stand_in(tmp_path / "bin" / "python", number, server().environment, REPOSITORY / "tests")
    return str(tmp_path / "bin" / "python"), [number]


@pytest.mark.parametrize("end", ENDS)
def test_a_stand_in_ends_as_python(python, tmp_path, end):
    program, files = python
    code = f"import atexit, os, signal, sys, threading\nprint('torch' in sys.modules, sys.argv[1:])\n{ENDS[end][0]}"
    (tmp_path / "script.py").write_text(code)
    command = [program, str(tmp_path / "script.py"), "a", "b c"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), pass_fds=files, timeout=300, capture_output=True, text=True
    )
    assert done.returncode == ENDS[end][1], done.stderr
    if ENDS[end][1] >= 0:  # else what it wrote is lost
        assert done.stdout.startswith("True ['a', 'b c']\n"), done.stderr


def test_a_stand_in_passes_signals_on_and_runs_the_rest_itself(python, tmp_path):
    program, files = python
    (tmp_path / "script.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n")
    with subprocess.Popen(
        [program, str(tmp_path / "script.py")],
        cwd=REPOSITORY,
        env=environment(),
        pass_fds=files,
        stdout=subprocess.PIPE,
    ) as process:
        command = int(process.stdout.readline())
        process.terminate()
    assert process.returncode == -signal.SIGTERM
    assert not os.path.exists(f"/proc/{command}")
    code = "import sys; print('torch' in sys.modules, sys.prefix)"
    assert subprocess.check_output([program, "-c", code], cwd=REPOSITORY, text=True) == f"False {sys.prefix}\n"


def test_the_server_runs_no_threads_and_keeps_no_children(started):
    started(FORKED)
    ours = os.fsencode(REPOSITORY / SERVER)  # other tests may have started one of a copy of the repository
    [below] = [pid for pid in children_of_all()[os.getpid()] if ours in command_of(pid)]
    assert len(os.listdir(f"/proc/{below}/task")) == 1
    assert below not in children_of_all()


def command_of(process: int) -> bytes:
    return Path("/proc", str(process), "cmdline").read_bytes()


def test_nothing_of_a_killed_command_is_left(started, tmp_path):
    code = "import subprocess, sys, time\nprint('ready', flush=True)\ntime.sleep(60)\n"
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, str(tmp_path / "script.py")]
    with Popen(command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        [below] = children_of_all()[process.pid]  # the server of its own
        process.kill()
    assert process.returncode == -signal.SIGKILL
    for _ in range(600):
        if not os.path.exists(f"/proc/{below}") or "\nState:\tZ" in Path(f"/proc/{below}/status").read_text():
            break
        threading.Event().wait(0.05)
    else:
        raise AssertionError("its server is still there")
