"""A run from step to step: when it evaluates."""

from harness import driver, finish


def test_a_run_that_would_never_be_evaluated_is_evaluated_at_its_end(benchmark, tmp_path):
    said = finish(driver(tmp_path, benchmark, processes=1, settings=["schedular.epochs=2", "eval_epoch=9"]), tmp_path)
    assert "of 2 epochs, only the last is evaluated" in said.said()
    assert (tmp_path / "metrics.json").exists()
