"""Times of calls whose work a device does later."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import finish_queued


@dataclass(frozen=True)
class Times:
    """Medians over calls in milliseconds: until the device is done (ms), until it has been given all (host_ms)."""

    ms: float
    host_ms: float


def time_calls(function: Callable[[], Any], longest: float, repeats: int = 5, warm_up: int = 2) -> Times:
    """Call a function `warm_up` times, then `repeats` times against the clock, once at least.

    longest: no further call begins after so many seconds.
    """
    began = time.perf_counter()
    for _ in range(warm_up):
        function()
    found: list[Times] = []
    while not found or (len(found) < repeats and time.perf_counter() - began < longest):
        found.append(time_once(function))
    return Times(*(statistics.median(values) for values in zip(*((one.ms, one.host_ms) for one in found), strict=True)))


def time_once(function: Callable[[], Any]) -> Times:
    """One call against the clock."""
    finish_queued()
    began = time.perf_counter()
    function()
    issued = time.perf_counter()
    finish_queued()
    return Times(ms=1e3 * (time.perf_counter() - began), host_ms=1e3 * (issued - began))
