"""Two processes of a test, forked, which meet as those of a run do."""

import multiprocessing
from collections.abc import Callable
from typing import Any


def results_of_two(target: Callable[..., None], given: Any) -> list[tuple]:
    """What target(given, rank, queue) puts into the queue on ranks 0 and 1: tuples that begin with the rank."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=target, args=(given, rank, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    return found
