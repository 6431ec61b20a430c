"""A signal to any process of a run: the step under way is kept, and the run ends soon with the right code."""

import os
import random
import re
import signal
import time

import pytest
from harness import FULL, driver, finish, start, state_of

from utils.checkpoints.files import read_checkpoint
from utils.checkpoints.run_folder import LAST

pytestmark = pytest.mark.promise("Preemption")

TARGETS = ("launcher", "process 0", "process 1", "all")
CASES = [(name, target) for name in ("SIGTERM", "SIGINT", "SIGUSR1") for target in TARGETS]
QUICK = [("SIGTERM", "launcher"), ("SIGINT", "all"), ("SIGUSR1", "process 1")]
EXPECTED = {"SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 143}


def send(running, target: str, number: int) -> None:
    if target == "all":
        running.send_all(number)
    elif target == "launcher":
        os.kill(running.process.pid, number)
    else:
        os.kill(running.ranks()[int(target[-1])], number)


@pytest.mark.parametrize(("name", "target"), CASES if FULL else QUICK)
def test_a_signal_ends_the_run_and_no_step_is_lost(undisturbed, benchmark, tmp_path, trials, name, target):
    trial = trials("signalled, ended with 143 or 130, resumed, same SHA-256", 1)
    output, number = tmp_path / "run", signal.Signals[name]
    new = FULL or (name, target) == QUICK[0]
    running = start(driver(output, benchmark, settings=["checkpoint_steps=1"]), tmp_path, new)
    running.wait_until((output / LAST).exists)
    time.sleep(random.Random(f"{name} {target}").uniform(0, 0.5))
    send(running, target, number)
    began = time.monotonic()
    if target != "all" or name != "SIGINT":  # a second signal changes nothing
        time.sleep(0.05)
        send(running, "launcher", number)
    code, seconds = running.wait(60), time.monotonic() - began
    trial.measure("slowest end", seconds)
    assert seconds < max(10, undisturbed.seconds / 2)  # where the machine has more to do, all takes longer
    assert code == EXPECTED[name], running.said()[-2000:]
    assert "Traceback" not in running.said()
    step = re.search(r"error: stopped by SIG\w+ after step (\d+); go on with --resume", running.said())
    if step:  # else it was evaluating, whose epoch is kept
        assert read_checkpoint(output / LAST)["step"] == int(step[1])
    finish(driver(output, benchmark, "--resume"), tmp_path)
    assert state_of(output) == undisturbed.state
    trial.survive()
