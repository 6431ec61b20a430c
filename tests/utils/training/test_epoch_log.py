"""What is known of an epoch survives a checkpoint."""

import pytest
import torch

from utils.training.epoch_log import EpochLog, Step


def scalars(number: float) -> dict[str, torch.Tensor]:
    return {"cl": torch.tensor(number), "total": torch.tensor(2 * number), "grad_norm": torch.tensor(number / 3)}


def fill(log: EpochLog, numbers: range) -> EpochLog:
    for number in numbers:
        log.add(scalars(number + 0.1), Step(1, number, 40, 100 + number), 0.5 / (number + 1), 8)
    return log


def test_a_log_that_was_saved_half_way_ends_with_the_same_record():
    whole, half = fill(EpochLog(), range(40)), fill(EpochLog(), range(17))
    half.skip(8)
    whole.skip(8)
    resumed = fill(EpochLog.restored(half.state(), torch.device("cpu")), range(17, 40))
    end = Step(1, 40, 40, 140)
    expected, found = whole.record(end, 0.1), resumed.record(end, 0.1)
    assert expected.pop("samples_per_second") > 0 and found.pop("samples_per_second") > 0
    assert found == expected


def test_seconds_go_on_where_they_were():
    log = EpochLog()
    log.before = 100.0
    with log.running():
        pass
    resumed = EpochLog.restored(log.state(), torch.device("cpu"))
    assert 100 < resumed.seconds < 101
    assert resumed.seconds == resumed.seconds  # the clock stands


@pytest.mark.parametrize("state", [{}, {"sums": 3}, None, {"sums": {"count": 1, "values": {"a": "b"}}}])
def test_what_is_no_state_is_refused(state):
    with pytest.raises((KeyError, TypeError, ValueError)):
        EpochLog.restored(state, torch.device("cpu"))
