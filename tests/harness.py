"""Real runs of the driver for tests that disturb them: started as a group, signalled, killed, compared.

FAULTS=full in the environment (shell/torture.sh) makes the tests of reliability as thorough as they can be.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmark_data import REPOSITORY, TINY, data_settings, environment
from preloaded import Popen

from utils.checkpoints.files import read_checkpoint, sha256_of
from utils.checkpoints.run_folder import LAST

FULL = os.environ.get("FAULTS") == "full"
LIVELY = [  # on top of TINY: everything that is random in a step, on two processes
    "batch_size_train=4",
    "bert_config.hidden_dropout_prob=0.1",
    "bert_config.attention_probs_dropout_prob=0.1",
    "weak_pos_pair_probability=0.5",
    "augmentation={crop: 2, light: 0.2, erase: 0.5}",
    "workers=1",
    "schedular.epochs=6",
    "schedular.sched=cosine_step",
    "optimizer.lr=1e-3",
    "mlm_distill_axis=positions",
]
OF_THE_STATE = (  # what of a checkpoint must be the same in two runs that were disturbed differently
    "model",
    "optimizer",
    "lr_scheduler",
    "next_epoch",
    "next_iteration",
    "iterations",
    "step",
    "epoch",
    "evaluated",
    "failed",
    "best",
    "best_epoch",
    "metrics",
    "seed",
    "data",
    "tokenizer",
)


def state_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each part of the last checkpoint of a run: model (momentum model, queues), optimizer, schedule ..."""
    checkpoint = read_checkpoint(folder / LAST)
    return {name: sha256_of(checkpoint[name]) for name in OF_THE_STATE}


@dataclass
class Running:
    """A command under way."""

    process: subprocess.Popen
    errors: Path

    def kill(self) -> None:
        """SIGKILL to all processes of the command."""
        self.send_all(signal.SIGKILL)
        self.process.wait()

    def send_all(self, number: int) -> None:
        """A signal to all processes of the command, as when a cluster takes a machine away."""
        for process in self.family():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def family(self) -> list[int]:
        """All processes of the command, parents first."""
        children, found = children_of_all(), [self.process.pid]
        for process in found:
            found += children.get(process, [])
        return found

    def wait(self, seconds: float = 300) -> int:
        """The exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not ended after {seconds} s:\n{self.said()[-3000:]}") from None

    def wait_until(self, true: Callable[[], bool], seconds: float = 120) -> None:
        """Until something is true, while the command runs."""
        end = time.monotonic() + seconds
        while not true():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"ended or too slow, {self.process.poll()}:\n{self.said()[-3000:]}")
            time.sleep(0.005)

    def said(self) -> str:
        """What it wrote on standard error."""
        return self.errors.read_text(errors="replace")

    def ranks(self) -> list[int]:
        """Process numbers of the training processes by rank."""
        numbers = {rank_of(process): process for process in children_of_all().get(self.process.pid, [])}
        numbers.pop(None, None)
        return [numbers[rank] for rank in sorted(numbers)]


def children_of_all() -> dict[int, list[int]]:
    """The children of every process of this machine that has some."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            parent = int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    return children


def rank_of(process: int) -> int | None:
    """What torchrun has called a process."""
    with suppress(OSError):
        words = Path("/proc", str(process), "environ").read_bytes().split(b"\0")
        return next((int(word[5:]) for word in words if word.startswith(b"RANK=")), None)
    return None


def driver(
    output: Path,
    benchmark: Path,
    *flags: str,
    processes: int = 2,
    settings: Sequence[str] = (),
    script: str = "Retrieval.py",
) -> list[str]:
    """The command of a tiny run."""
    launcher = ["-m", "utils.processes.launch", str(processes)] if processes > 1 else []
    return [
        sys.executable,
        *launcher,
        script,
        "--config",
        "configs/demo_from_nothing.yaml",
        "--output_dir",
        str(output),
        *flags,
        "--set",
        *TINY,
        *data_settings(benchmark),
        *LIVELY,
        *settings,
    ]


def start(command: Sequence[str], folder: Path, new: bool = FULL, **more: str) -> Running:
    """Start a command; `folder` takes its standard error.

    new: by a new Python that imports everything, rather than by a fork of one that has (see preloaded.py).
    """
    folder.mkdir(parents=True, exist_ok=True)
    errors = folder / "errors.txt"
    with open(errors, "ab") as file:
        process = (subprocess.Popen if new else Popen)(
            list(map(str, command)),
            cwd=REPOSITORY,
            env=environment(**more),
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
        )
    return Running(process, errors)


def finish(command: Sequence[str], folder: Path, new: bool = FULL, **more: str) -> Running:
    """Run a command to its end, which must be a good one."""
    running = start(command, folder, new, **more)
    code = running.wait()
    assert code == 0, running.said()[-3000:]
    return running
