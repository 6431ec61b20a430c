"""Tasks on several processes: order, errors, and what happens when a worker dies."""

import os
import time

import pytest

from utils.errors import UserError
from utils.processes.parallel import WAITING, available_cores, map_in_order, map_in_threads

WAYS = pytest.mark.parametrize(("workers", "fork"), [(1, False), (2, False), (2, True)])


def slow_first(offset: int, task: int) -> tuple[int, int]:
    if task == 0:
        time.sleep(0.3)
    if task == 13:
        raise UserError("task 13 is unlucky")
    return offset + task, os.getpid()


def die(task: int) -> None:
    os._exit(1)


@WAYS
def test_results_come_in_the_order_of_the_tasks(workers, fork):
    values, processes = zip(*map_in_order(slow_first, range(12), workers, (100,), fork), strict=True)
    assert list(values) == list(range(100, 112))
    assert (os.getpid() in processes) == (workers == 1)
    assert len(set(processes)) <= workers


@WAYS
def test_an_error_of_a_task_comes_out(workers, fork):
    with pytest.raises(UserError, match="task 13 is unlucky"):
        list(map_in_order(slow_first, range(11, 20), workers, (0,), fork))


@pytest.mark.parametrize("fork", [False, True])
def test_a_worker_that_dies_is_an_error_and_no_endless_wait(fork):
    with pytest.raises(UserError, match="worker process ended"):
        list(map_in_order(die, range(3), 2, fork=fork))


def test_tasks_are_taken_as_they_are_needed():
    taken = []
    tasks = (taken.append(task) or task for task in range(1000))
    results = map_in_order(abs, tasks, 2, fork=True)
    next(results)
    results.close()
    assert len(taken) <= 2 * WAITING + 1


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_give_results_in_order_and_are_not_far_ahead(threads):
    started = []

    def work(task):
        started.append(task)
        if task == 0:
            time.sleep(0.1)
        if task == 90:
            raise UserError("task 90 is unlucky")
        return 2 * task

    results = map_in_threads(work, range(100), threads)
    assert next(results) == 0 and len(started) <= threads * WAITING + 1
    assert [next(results) for _ in range(89)] == list(range(2, 180, 2))
    with pytest.raises(UserError, match="unlucky"):
        next(results)


def test_there_is_a_core():
    assert available_cores() >= 1
