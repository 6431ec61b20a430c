"""The profile of a step names every stage that a step has."""

import sys

from test_train_step import TINY

from benchmarks import step_profile
from benchmarks.full_size import configuration
from benchmarks.step_profile import STAGES, profile
from models.objectives import LOSSES


def test_every_stage_takes_time_and_what_learns_takes_time_on_the_way_back():
    parts = profile(configuration(True, *TINY, "precision=bf16"), 4)
    after = {"gradient norm", "optimizer", "queues and momentum model"}
    assert set(parts) == {*STAGES, *LOSSES, "data (in a loader process)", *after}
    assert all(forward > 0 for forward, _ in parts.values())
    learns = {"encode_image", "encode_text", "fuse_rows", *LOSSES}
    assert {stage for stage, (_, backward) in parts.items() if backward > 0} == learns


def test_a_step_is_profiled_with_memory_as_in_training(monkeypatch, capsys):
    """Else the system gives and takes all memory of a step, which `benchmarks.train_step` does not time either."""
    called = []
    monkeypatch.setattr(step_profile, "keep_freed_memory", lambda: called.append("memory"))
    monkeypatch.setattr(step_profile, "profile", lambda config, size: called.append(size) or {"optimizer": (0.5, 0.0)})
    monkeypatch.setattr(sys, "argv", ["step_profile.py", "--batch", "3"])
    step_profile.main()
    assert called == ["memory", 3] and "batch 3, bf16: 0.50 s a step" in capsys.readouterr().out
