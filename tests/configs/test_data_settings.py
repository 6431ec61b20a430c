"""Settings of training data that any system has, and which of them do not fit together."""

import re

import pytest

from configs.loading import load_config
from utils.errors import UserError

SYSTEMS = pytest.mark.parametrize("system", ["mars", "clip", "rde"])


def refused(message: str, *settings: str) -> None:
    """Settings are refused in a line with this message."""
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        load_config(None, list(settings))
    assert "\n" not in str(raised.value)


@SYSTEMS
def test_any_system_may_draw_people_and_samples_of_each(system):
    config = load_config(None, [f"system={system}"])
    assert (config.sampler, config.samples_per_identity) == ("random", 4)
    people = [f"system={system}", "sampler=identity", "batch_size_train=12"]
    assert load_config(None, [*people, "samples_per_identity=3"]).samples_per_identity == 3
    refused("`samples_per_identity`: 5 must divide batch_size_train (12)", *people, "samples_per_identity=5")
    assert load_config(None, [f"system={system}", "batch_size_train=9"]).sampler == "random"  # of no meaning then
    refused("`sampler`", f"system={system}", "sampler=balanced")


def test_batches_of_look_alikes_are_those_of_no_sampler():
    assert load_config(None, ["look_alikes=[null]", "sampler=identity"]).sampler == "identity"
    for groups in ("4", "[null, 2]"):
        refused("`look_alikes`: makes batches in its own way", f"look_alikes={groups}", "sampler=identity")


@SYSTEMS
def test_captions_are_exchanged_by_a_file_or_by_chance(system):
    assert load_config(None, [f"system={system}", "noisy_rate=0.2"]).noisy_rate == 0.2
    assert load_config(None, [f"system={system}", "noisy_file=a.npy", "noisy_rate=0"]).noisy_file == "a.npy"
    both = [f"system={system}", "noisy_file=a.npy", "noisy_rate=0.2"]
    refused("`noisy_file`: says which captions are exchanged; leave it out, or `noisy_rate` 0.2", *both)
    refused("`noisy_rate`", f"system={system}", "noisy_rate=1.1")
