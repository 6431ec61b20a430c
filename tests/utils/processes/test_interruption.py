"""Signals end a run where it can end."""

import os
import signal

import pytest

from utils.interruption import SIGNALS, Interruption, Stopped


@pytest.fixture
def interruption():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    listening = Interruption()
    listening.listen()
    yield listening
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_with_its_code(interruption, number, code):
    with pytest.raises(Stopped, match=f"^stopped by {number.name}$") as stopped:
        os.kill(os.getpid(), number)
    assert stopped.value.code == code


def test_a_deferred_signal_waits_for_the_end_of_the_block(interruption):
    done = []
    with pytest.raises(Stopped, match="SIGTERM"), interruption.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.received == signal.SIGTERM
        done.append("the step")
    assert done == ["the step"]


def test_a_second_signal_changes_nothing(interruption):
    with pytest.raises(Stopped, match="SIGUSR1"), interruption.deferred():
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(os.getpid(), number)
    os.kill(os.getpid(), signal.SIGTERM)  # after the end is under way, too


def test_nothing_that_handles_errors_swallows_it(interruption):
    with pytest.raises(Stopped):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("swallowed")


def test_an_error_in_the_block_is_told_and_not_the_signal(interruption):
    with pytest.raises(ValueError, match="first"), interruption.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("first")
