"""Several processes end with one message and one exit code."""

import signal
import subprocess
import sys
import textwrap

import pytest
from benchmark_data import REPOSITORY, environment
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from utils.processes.launch import explain

START = """
import os, signal, sys, time
sys.path.insert(0, {repository!r})
from utils.errors import UserError, run_command_line
rank = int(os.environ["RANK"])
def main():
{body}
run_command_line(main)
"""


def launch(tmp_path, body: str, **more: str) -> subprocess.CompletedProcess:
    """Run `body` as the `main` of two processes."""
    script = tmp_path / "script.py"
    script.write_text(START.format(repository=str(REPOSITORY), body=textwrap.indent(textwrap.dedent(body), "    ")))
    return subprocess.run(
        [sys.executable, "-m", "utils.processes.launch", "2", str(script), "--flag", "value"],
        cwd=REPOSITORY,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_processes_get_the_arguments_and_end_with_zero(tmp_path):
    # one write each, so that the lines of two processes cannot mix
    done = launch(tmp_path, "os.write(1, f\"{rank} {sys.argv[1:]} {os.environ['WORLD_SIZE']}\\n\".encode())")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "0 ['--flag', 'value'] 2", "1 ['--flag', 'value'] 2"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    "body",
    [
        "raise UserError('wrong key')",  # all of them
        "if rank: raise UserError('wrong key')\ntime.sleep(60)",  # one, and the other is stopped
        # one, and the other fails because of it
        "if rank: raise UserError('wrong key')\ntime.sleep(3)\nraise RuntimeError('connection closed')",
    ],
)
def test_bad_input_is_one_line_and_2(tmp_path, body):
    done = launch(tmp_path, body)
    assert (done.returncode, done.stderr) == (2, "error: wrong key\n")


def test_different_problems_are_all_told(tmp_path):
    done = launch(tmp_path, "raise UserError(f'no image {rank}')")
    assert done.returncode == 2
    assert set(done.stderr.splitlines()) <= {"error: no image 0", "error: no image 1"}
    assert done.stderr


WAITS = "time.sleep(60)"
SAYS_IT_WAS_STOPPED = "from utils.interruption import Interruption\nInterruption().listen()\ntime.sleep(60)"
FAILS_TOO = "while not os.path.exists(sys.argv[0] + '.gone'): time.sleep(0.01)\nsys.exit(1)"


@pytest.mark.parametrize("of_the_other", [WAITS, SAYS_IT_WAS_STOPPED, FAILS_TOO])
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_is_named(tmp_path, killed, of_the_other):
    end = f"if rank == {killed}:\n    open(sys.argv[0] + '.gone', 'w')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    done = launch(tmp_path, end + of_the_other)
    message = f"error: process {killed} was ended by SIGKILL (out of memory?); the others were stopped\n"
    assert (done.returncode, done.stderr) == (128 + 9, message)


def test_what_was_said_before_a_restart_is_not_said_again(tmp_path):
    body = """
        from utils.interruption import Interruption
        Interruption().listen()
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            time.sleep(60 if rank else 2)
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("wrong key")
    """
    done = launch(tmp_path, body, RESTARTS="1")
    assert (done.returncode, done.stderr) == (2, "error: wrong key\n")


@pytest.mark.parametrize("of_the_other", [WAITS, SAYS_IT_WAS_STOPPED])
def test_a_fault_of_the_program_keeps_its_traceback(tmp_path, of_the_other):
    done = launch(tmp_path, f"if rank: raise RuntimeError('a bug')\n{of_the_other}")
    assert done.returncode == 1
    assert "RuntimeError: a bug" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: process 1 ended with exit code 1; its messages are above"


def test_a_process_that_does_not_stop_is_not_the_cause():
    failures = [failed(10, 1, pid=1), failed(41, -signal.SIGKILL, pid=2)]
    assert explain(failures) == 1
    assert explain([failed(11, 1, pid=1), failed(10, -signal.SIGKILL, pid=2)]) == 128 + signal.SIGKILL


def failed(when: int, exitcode: int, pid: int) -> ProcessFailure:
    failure = ProcessFailure(local_rank=pid, pid=pid, exitcode=exitcode, error_file="")
    failure.timestamp = when
    return failure


def test_no_thread_of_the_process_group_outlives_it(tmp_path):
    # at the end of the interpreter it would be ended within C++, and the process with it
    body = """
        import pathlib, torch
        from torch.nn.parallel import DistributedDataParallel
        from utils.processes.distributed import process_group, read_launch
        with process_group(read_launch(dict(os.environ)), torch.device("cpu")):
            holders = [DistributedDataParallel(torch.nn.Linear(2, 2))]
            holders.append(holders)  # as a model whose methods are handed on
            holders[0](torch.ones(1, 2)).sum().backward()
            during = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
            del holders
        left = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
        os.write(1, f"{any('gloo' in name for name in during)} {any('gloo' in name for name in left)}\\n".encode())
    """
    done = launch(tmp_path, body)
    assert (done.returncode, done.stdout) == (0, "True False\n" * 2), done.stderr
