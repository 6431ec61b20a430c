"""A run that is killed at random moments, and resumed each time, ends with the bits of one that was not."""

import random
import time

import pytest
from harness import FULL, driver, finish, start, state_of

from utils.checkpoints.run_folder import LAST, PREVIOUS

KILLS = 50 if FULL else 3
pytestmark = pytest.mark.promise("Killed anywhere")

OFTEN = ["checkpoint_steps=2"]


def test_the_end_is_that_of_an_undisturbed_run(undisturbed, benchmark, tmp_path, trials):
    trial = trials("two processes killed at a random moment, resumed, same SHA-256", KILLS)
    chance, kills, ends = random.Random(7), 0, 0
    while kills < KILLS:
        output = tmp_path / f"run{ends}"
        running, killed = None, False
        while not killed or kills < KILLS:
            resume = ["--resume"] if any((output / name).exists() for name in (LAST, PREVIOUS)) else []
            running = start(driver(output, benchmark, *resume, settings=OFTEN), tmp_path)
            moment, began = chance.uniform(0.2, 1) * undisturbed.seconds, time.monotonic()
            while running.process.poll() is None and time.monotonic() - began < moment:
                time.sleep(0.002)
            killed = running.process.poll() is None
            if not killed:
                break
            running.kill()
            kills += 1
        if killed:  # the last kill: let it end
            resume = ["--resume"] if any((output / name).exists() for name in (LAST, PREVIOUS)) else []
            running = finish(driver(output, benchmark, *resume, settings=OFTEN), tmp_path)
        assert running.wait() == 0, running.said()[-3000:]
        assert state_of(output) == undisturbed.state
        assert (output / "metrics.json").read_text() == undisturbed.metrics
        assert not [path.name for path in output.rglob("*.tmp")]
        trial.survive(kills - trial.survived)
        ends += 1
