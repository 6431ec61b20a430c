"""Several processes end with one message and one exit code."""

import subprocess
import sys
import textwrap

import pytest
from benchmark_data import REPOSITORY, environment

START = """
import os, signal, sys, time
sys.path.insert(0, {repository!r})
from utils.errors import UserError, run_command_line
rank = int(os.environ["RANK"])
def main():
{body}
run_command_line(main)
"""


def launch(tmp_path, body: str) -> subprocess.CompletedProcess:
    """Run `body` as the `main` of two processes."""
    script = tmp_path / "script.py"
    script.write_text(START.format(repository=str(REPOSITORY), body=textwrap.indent(textwrap.dedent(body), "    ")))
    return subprocess.run(
        [sys.executable, "-m", "utils.launch", "2", str(script), "--flag", "value"],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


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


def test_a_killed_process_is_named(tmp_path):
    done = launch(tmp_path, "if rank: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)")
    assert done.returncode == 128 + 9
    assert done.stderr == "error: process 1 was ended by SIGKILL (out of memory?); the others were stopped\n"


def test_a_fault_of_the_program_keeps_its_traceback(tmp_path):
    done = launch(tmp_path, "if rank: raise RuntimeError('a bug')\ntime.sleep(60)")
    assert done.returncode == 1
    assert "RuntimeError: a bug" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: process 1 ended with exit code 1; its messages are above"
