"""Signals that ask a run to end: SIGTERM and SIGUSR1 (a cluster takes the machine away), SIGINT (Ctrl-C).

Where a run can end at once, `Stopped` is raised. Within `deferred` a signal waits until it is asked for, so that
the step under way is finished and kept. A second signal changes nothing.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
BY_REQUEST, BY_HAND = 128 + signal.SIGTERM, 128 + signal.SIGINT  # exit codes: 143, 130


class Stopped(BaseException):
    """The run ends because of signal `number`; `kept` says what is kept of it.

    No Exception: nothing that handles errors may swallow it.
    """

    def __init__(self, number: int, kept: str = ""):
        super().__init__(f"stopped by {signal.Signals(number).name}{kept}")
        self.number, self.kept = number, kept
        self.code = BY_HAND if number == signal.SIGINT else BY_REQUEST


class Interruption:
    """What this process knows of signals."""

    def __init__(self) -> None:
        self.received, self.deferring = 0, False

    def listen(self) -> None:
        """Catch signals from now on (main thread only)."""
        for number in SIGNALS:
            signal.signal(number, self.handle)

    def handle(self, number: int, frame: object) -> None:
        if not self.received:
            self.received = number
            if not self.deferring:
                raise Stopped(number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Signals wait; one that nobody asked for ends the run where the block ends."""
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False
        if self.received:
            raise Stopped(self.received)
