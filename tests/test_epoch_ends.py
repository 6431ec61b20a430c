"""The end of an epoch: what is written, how long training waits for it, and what a crash around it costs."""

import errno
import json
import os
import time

import pytest
from benchmark_data import REPOSITORY, TINY, data_settings
from harness import state_of
from in_process import Ending, call, restored

import Retrieval
from utils import files
from utils.checkpoints import run_folder
from utils.checkpoints.files import read_checkpoint, save_checkpoint
from utils.checkpoints.run_folder import BEST, LAST, RunFolder

EPOCHS, SECONDS = 2, 0.5  # that a checkpoint takes on the disk of the first run
SETTINGS = [f"schedular.epochs={EPOCHS}", "workers=0", "bert_config.hidden_dropout_prob=0.1"]


def train(output, benchmark, *flags) -> Ending:
    with restored():
        os.chdir(REPOSITORY)
        where = ["--config", "configs/demo_from_nothing.yaml", "--output_dir", output, *flags]
        return call(Retrieval.main, *where, "--set", *TINY, *data_settings(benchmark), *SETTINGS)


class SlowDisk:
    """What a run writes where every checkpoint takes SECONDS more, and how long training waits for it at its saves."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.written, self.waits = [], []
        patch.setattr(run_folder, "save_checkpoint", self.save)
        for name in ("save_last", "save_best"):
            patch.setattr(RunFolder, name, self.timed(getattr(RunFolder, name)))

    def save(self, path, content, previous=None):
        time.sleep(SECONDS)
        save_checkpoint(path, content, previous)
        self.written.append(path.name)

    def timed(self, function):
        def save(*arguments):
            began = time.monotonic()
            function(*arguments)
            self.waits.append(time.monotonic() - began)

        return save


@pytest.fixture(scope="module")
def whole(benchmark, tmp_path_factory):
    """The folder and disk of a run that nothing disturbed, whose epochs and evaluations are as slow as the disk."""
    output, evaluate, step = tmp_path_factory.mktemp("whole") / "run", Retrieval.evaluate, Retrieval.Trainer.train_step

    def slow_evaluation(*given):
        time.sleep(SECONDS)
        return evaluate(*given)

    def slow_first_step(trainer, batches):
        time.sleep(SECONDS * (trainer.state.step.iteration == 0))
        step(trainer, batches)

    with pytest.MonkeyPatch.context() as patch:
        disk = SlowDisk(patch)
        patch.setattr(Retrieval, "evaluate", slow_evaluation)
        patch.setattr(Retrieval.Trainer, "train_step", slow_first_step)
        assert train(output, benchmark).code == 0
    return output, disk


def resumed_as_if_nothing_had_been(output, benchmark, whole) -> bool:
    """Resume a run to its end, and compare it with one that nothing disturbed."""
    assert train(output, benchmark, "--resume").code == 0
    logs = [[json.loads(line) for line in (folder / "log.txt").read_text().splitlines()] for folder in (output, whole)]
    assert [line["epoch"] for line in logs[0]] == list(range(EPOCHS))
    assert [line["train"] for line in logs[0]] == [line["train"] for line in logs[1]]
    assert (output / "metrics.json").read_text() == (whole / "metrics.json").read_text()
    return state_of(output) == state_of(whole)


def test_an_epoch_ends_with_one_checkpoint_beside_the_best_and_hardly_a_wait(whole):
    written, waits = whole[1].written, whole[1].waits
    assert written[:2] == [LAST, BEST] and [name for name in written if name == LAST] == [LAST] * (EPOCHS + 1)
    # the last one of a run comes right after the best; every other one had an epoch or an evaluation of time
    assert len(waits) == len(written) >= 4
    assert sum(waits[:-1]) < len(waits[:-1]) * SECONDS / 2


def test_a_crash_of_an_evaluation_costs_no_step(benchmark, tmp_path, monkeypatch, whole):
    calls, evaluate = iter(range(10)), Retrieval.evaluate

    def crash(*given):
        if next(calls) == 0:
            raise ZeroDivisionError
        return evaluate(*given)

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Retrieval, "evaluate", crash)
        train(tmp_path / "run", benchmark)
    kept = read_checkpoint(tmp_path / "run" / LAST)
    assert kept["next_epoch"] == 0 and kept["next_iteration"] == kept["iterations"] and not kept["evaluated"]
    assert resumed_as_if_nothing_had_been(tmp_path / "run", benchmark, whole[0])


def test_a_crash_after_an_evaluation_repeats_it_to_the_same_end(benchmark, tmp_path, monkeypatch, whole):
    step = Retrieval.Trainer.train_step

    def crash(trainer, batches):
        if trainer.state.step.epoch == 1:
            raise ZeroDivisionError
        step(trainer, batches)

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Retrieval.Trainer, "train_step", crash)
        train(tmp_path / "run", benchmark)
    assert resumed_as_if_nothing_had_been(tmp_path / "run", benchmark, whole[0])


def test_a_disk_that_fills_up_while_training_goes_on_ends_the_run_by_one_line(benchmark, tmp_path, monkeypatch, whole):
    flush, output = files.flush, tmp_path / "run"
    count = iter(range(100))

    def no_space(path):
        if LAST in path.name and next(count) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "flush", no_space)
        ending = train(output, benchmark)
    problem = (
        f"error: cannot write {output}/{LAST}: No space left on device; free space there; the earlier {LAST} there"
    )
    assert ending.code == 2 and ending.errors.splitlines()[-1].startswith(problem)
    assert read_checkpoint(output / LAST)["next_epoch"] == 0
    assert resumed_as_if_nothing_had_been(output, benchmark, whole[0])
