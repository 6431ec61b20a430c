"""The profile of a step names every stage that a step has."""

from test_train_step import TINY

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
