"""One process of a run is killed: the others end, and the run can begin again by itself."""

import os
import signal
import time

import pytest
from harness import driver, finish, start, state_of

from utils.run_folder import LAST

pytestmark = pytest.mark.promise("Dead peer")

OFTEN = ["checkpoint_steps=2"]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_others_stop_soon_with_a_message(benchmark, tmp_path, trials, rank):
    trial = trials("process killed, the others end with a message", 1)
    output = tmp_path / "run"
    running = start(driver(output, benchmark, settings=OFTEN), tmp_path)
    running.wait_until((output / LAST).exists)
    ranks = running.ranks()
    os.kill(ranks[rank], signal.SIGKILL)
    began = time.monotonic()
    code, seconds = running.wait(60), time.monotonic() - began
    trial.measure("slowest end", seconds)
    assert seconds < 60
    assert code == 128 + signal.SIGKILL
    assert f"error: process {rank} was ended by SIGKILL" in running.said()
    assert not [pid for pid in ranks if os.path.exists(f"/proc/{pid}")]
    trial.survive()


def test_a_process_without_a_launcher_says_that_it_lost_another(benchmark, tmp_path):
    # as under srun, where nobody watches
    output, flags = tmp_path / "run", driver(tmp_path / "run", benchmark, processes=1, settings=OFTEN)
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20_000 + os.getpid() % 20_000)}
    one, other = (
        start(flags, tmp_path / rank, RANK=rank, LOCAL_RANK=rank, **place) for rank in ("0", "1")
    )
    one.wait_until((output / LAST).exists)
    other.kill()
    assert one.wait(60) == 1
    assert one.said().splitlines()[-1].startswith("error: process 0 lost a process it works with; the run can go on")
    assert "Traceback" not in one.said()


def test_with_restarts_the_run_ends_as_an_undisturbed_one(benchmark, tmp_path, trials):
    trial = trials("process killed and all restarted, same SHA-256", 2)
    finish(driver(tmp_path / "undisturbed", benchmark, settings=OFTEN), tmp_path / "a")
    output = tmp_path / "run"
    running = start(driver(output, benchmark, settings=OFTEN), tmp_path / "b", RESTARTS="3")
    for _ in range(2):
        seen = (output / LAST).stat().st_mtime_ns if (output / LAST).exists() else 0
        running.wait_until(lambda seen=seen: (output / LAST).exists() and (output / LAST).stat().st_mtime_ns > seen)
        os.kill(running.ranks()[1], signal.SIGKILL)
        time.sleep(1)
    assert running.wait() == 0, running.said()[-3000:]
    assert state_of(output) == state_of(tmp_path / "undisturbed")
    trial.survive(2)
