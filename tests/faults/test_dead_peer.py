"""One process of a run is killed: the others end, and the run can begin again by itself."""

import os
import signal
import sys
import time

import pytest
from harness import FULL, driver, finish, start, state_of

from utils.checkpoints.run_folder import LAST

pytestmark = pytest.mark.promise("Dead peer")

OFTEN = ["checkpoint_steps=2"]


@pytest.mark.parametrize(("rank", "new"), [(0, True), (1, FULL)])
def test_the_others_stop_soon_with_a_message(benchmark, tmp_path, trials, rank, new):
    trial = trials("process killed, the others end with a message", 1)
    output = tmp_path / "run"
    running = start(driver(output, benchmark, settings=OFTEN), tmp_path, new)
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
    one, other = (start(flags, tmp_path / rank, RANK=rank, LOCAL_RANK=rank, **place) for rank in ("0", "1"))
    one.wait_until((output / LAST).exists)
    other.kill()
    assert one.wait(60) == 1
    assert one.said().splitlines()[-1].startswith("error: process 0 lost a process it works with; the run can go on")
    assert "Traceback" not in one.said()


def test_with_restarts_the_run_ends_as_an_undisturbed_one(undisturbed, benchmark, tmp_path, trials):
    trial = trials("process killed and all restarted, same SHA-256", 2)
    output = tmp_path / "run"
    running = start(driver(output, benchmark, settings=OFTEN), tmp_path / "b", RESTARTS="3")
    for _ in range(2):
        seen = (output / LAST).stat().st_mtime_ns if (output / LAST).exists() else 0
        running.wait_until(lambda seen=seen: (output / LAST).exists() and (output / LAST).stat().st_mtime_ns > seen)
        os.kill(running.ranks()[1], signal.SIGKILL)
        time.sleep(1)
    assert running.wait() == 0, running.said()[-3000:]
    assert state_of(output) == undisturbed.state
    trial.survive(2)


def test_one_process_is_started_again_too(benchmark, tmp_path):
    settings = [*OFTEN, "schedular.epochs=2"]
    finish(driver(tmp_path / "undisturbed", benchmark, processes=1, settings=settings), tmp_path / "a")
    output = tmp_path / "run"
    command = driver(output, benchmark, processes=1, settings=settings)[2:]
    script = ["bash", "-c", 'source shell/common.sh; ensure_environment; run_retrieval "$@"', "a script", *command]
    running = start(script, tmp_path / "b", RESTARTS="1", GPUS="1", MARS_ENV=sys.prefix)
    running.wait_until((output / LAST).exists)
    os.kill(running.ranks()[0], signal.SIGKILL)
    assert running.wait() == 0, running.said()[-3000:]
    assert state_of(output) == state_of(tmp_path / "undisturbed")


@pytest.mark.parametrize("restarts", ["abc", "-1", "1.5"])
def test_a_number_of_restarts_that_is_none_is_refused(tmp_path, restarts):
    script = ["bash", "-c", "source shell/common.sh; ensure_environment; run_retrieval"]
    for number, command in enumerate((script, [sys.executable, "-m", "utils.processes.launch", "2", "Retrieval.py"])):
        running = start(command, tmp_path / str(number), RESTARTS=restarts, MARS_ENV=sys.prefix, GPUS="1")
        assert running.wait() == 2
        assert running.said().startswith("error: ") and len(running.said().splitlines()) == 1
        assert "RESTARTS" in running.said()
