"""What is not finite on one process: no process takes the step, and the run ends when it stays so."""

import pytest
from harness import FULL, driver, finish, start

from utils.checkpoints.files import read_checkpoint
from utils.checkpoints.run_folder import BEST, LAST, PREVIOUS

pytestmark = pytest.mark.promise("Non-finite values")

SCRIPT = "tests/faults/broken_driver.py"
STEPS = ["max_steps=5", "checkpoint_steps=1"]


def tensors_of(folder, name=LAST):
    content = read_checkpoint(folder / name)
    moments = {
        f"{number}.{key}": value
        for number, held in content["optimizer"]["state"].items()
        for key, value in held.items()
    }
    return {**content["model"], **moments}


@pytest.fixture(scope="module")
def before(benchmark, tmp_path_factory):
    """A run that ends before the step with the fault."""
    folder = tmp_path_factory.mktemp("before")
    finish(driver(folder / "run", benchmark, settings=["max_steps=2"]), folder)
    return folder / "run"


@pytest.mark.parametrize("what", ["input", "loss", "gradient"] if FULL else ["gradient", "loss"])
def test_the_step_is_skipped_by_all_and_leaves_no_trace(before, benchmark, tmp_path, what):
    after = tmp_path / "after"
    command = driver(after, benchmark, settings=["max_steps=3"], script=SCRIPT)
    running = finish(command, tmp_path / "b", BREAK=f"{what}:1:2-2")
    one, other = tensors_of(before), tensors_of(after)
    assert read_checkpoint(after / LAST)["step"] == 3
    assert all(one[name].equal(other[name]) for name in one)
    assert "skipped step 2 (epoch 0): process 1: " in running.said()


@pytest.mark.parametrize("what", ["input", "loss", "gradient"] if FULL else ["loss"])
def test_the_third_in_a_row_ends_the_run(benchmark, tmp_path, what):
    output = tmp_path / "run"
    running = start(driver(output, benchmark, settings=STEPS, script=SCRIPT), tmp_path, BREAK=f"{what}:1:1-9")
    assert running.wait() == 2
    last = running.said().splitlines()[-1]
    assert last.startswith("error: training diverged: 3 steps in a row were not finite; step 3 (epoch 0): process 1: ")
    assert (" not finite for " in last and ".png" in last) or ".jpg" in last
    assert_finite(output)


def test_a_parameter_that_is_not_finite_ends_the_run_at_once(benchmark, tmp_path):
    output = tmp_path / "run"
    running = start(driver(output, benchmark, settings=STEPS, script=SCRIPT), tmp_path, BREAK="parameter:1:1-9")
    assert running.wait() == 2
    last = running.said().splitlines()[-1]
    whose = "process 1: parameter text_proj.weight not finite for "
    assert last.startswith(f"error: training cannot go on after step 1 (epoch 0): {whose}")
    assert "process 0" not in last
    assert_finite(output)


def assert_finite(output):
    """Whatever checkpoints there are."""
    for name in (LAST, PREVIOUS, BEST):
        if (output / name).exists():
            content = read_checkpoint(output / name)
            assert all(value.isfinite().all() for value in content["model"].values() if value.is_floating_point())
