"""Commands run side by side, some after others, with their messages in files.

They end with this process: a signal that ends it asks them to stop, and a kill of it does too (Linux).
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.processes.distributed import end_with_parent

POLL_SECONDS = 0.2
PATIENCE = 120  # seconds that a command has to keep what it did
SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class Job:
    """A command. log: file that its messages are appended to; after: the name of a job that must end first."""

    name: str
    command: Sequence[str]
    log: Path
    after: str | None = None


def run_jobs(
    jobs: Sequence[Job],
    processes: int,
    environment: Callable[[int], dict[str, str]],
    done: Callable[[Job], None],
    waiting: Callable[[list[str]], None],
) -> None:
    """Run all jobs, at most `processes` at a time, in their order as far as what they wait for allows.

    environment: of a command, from its slot among those that run (0 ... processes - 1); done: called with each job that
    has ended well; waiting: called regularly with the names of those that run.

    Raises UserError when a job fails; the others are stopped then, and can be resumed.
    """
    left = list(jobs)
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    # a job that is waited for and not among these was done before
    finished = {job.after for job in jobs if job.after} - {job.name for job in jobs}
    try:
        while left or running:
            for slot in sorted(set(range(processes)) - set(running)):
                ready = next((job for job in left if job.after is None or job.after in finished), None)
                if ready is None:
                    break
                left.remove(ready)
                running[slot] = ready, start(ready, environment(slot))
            time.sleep(POLL_SECONDS)
            waiting([job.name for job, _ in running.values()])
            for job in take_ended(running):
                finished.add(job.name)
                done(job)
    finally:
        stop([process for _, process in running.values()])


def take_ended(running: dict[int, tuple[Job, subprocess.Popen[bytes]]]) -> Iterator[Job]:
    """Take those jobs out that have ended. Raises UserError when one failed."""
    for slot, (job, process) in list(running.items()):
        if process.poll() is not None:
            del running[slot]
            require_success(job, process.returncode)
            yield job


def start(job: Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "ab") as log:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            preexec_fn=end_with_parent,
        )


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, wait until they have kept what they did, and end those that do not."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def require_success(job: Job, code: int) -> None:
    if code != 0:
        raise UserError(f"{job.name} ended with exit code {code}: {last_line(job.log)} (all its messages: {job.log})")


def last_line(path: Path) -> str:
    """The last line that was written to a file of messages, progress bars aside."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:SHOWN_CHARACTERS] if lines else "it said nothing"
