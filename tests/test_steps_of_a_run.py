"""A run whose length is given in steps ends amid an epoch, with its learning rate at the end of its course."""

from harness import state_of
from in_process import retrieve

from evaluation.results import read_log

STEPS = ["schedular={sched: cosine_step, epochs: 1, warmup_epochs: 0, min_lr: 1.0e-8, steps: 6}"]  # epochs have four


def test_it_ends_with_them_and_resumes_to_the_same_end(benchmark, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    retrieve(whole, benchmark, settings=STEPS)
    first, last = read_log(whole / "log.txt")
    assert (first["steps"], last["steps"]) == (4, 6)
    assert last["lr"] < 0.2 * first["lr"]  # of the last steps of the epochs: 0.5 and 0.07 of the full rate
    retrieve(stopped, benchmark, settings=[*STEPS, "max_steps=3"])
    (stopped / "metrics.json").unlink()
    retrieve(stopped, benchmark, "--resume", settings=[*STEPS, "max_steps=null"])
    parts = ("model", "optimizer", "step")
    assert {part: state_of(stopped)[part] for part in parts} == {part: state_of(whole)[part] for part in parts}
