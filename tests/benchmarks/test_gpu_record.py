"""The measurement of a GPU: its budget, items that fail, its file, and its command line."""

import json
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from in_process import call

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import record, tables
from benchmarks.gpu.record import Item, Record, measure_all
from benchmarks.gpu.timing import Times, time_calls
from utils.errors import UserError


def strictly(text):
    """JSON as its standard has it, without NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when an item says so."""
    passed = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(record.time, "perf_counter", lambda: passed.seconds)
    return passed


def lasting(clock, name, expected, real=None, needs_cuda=False):
    """An item of this estimate."""

    def measure():
        clock.seconds += expected if real is None else real
        return Times(1.0, 0.5)

    return Item(name, expected, measure, needs_cuda)


def run(items, path, budget=100.0, device="cpu"):
    found = Record({"device": device}, [item.name for item in items])
    measure_all(found, items, budget, path, tell=lambda line: None)
    return strictly(path.read_text())


def test_what_the_budget_does_not_suffice_for_is_left_out_and_what_fits_goes_on(clock, tmp_path):
    items = [lasting(clock, "a", 30), lasting(clock, "long", 80), lasting(clock, "b", 60), lasting(clock, "c", 20)]
    found = run(items, tmp_path / "a.json")
    assert [*found["items"]] == ["a", "b"]
    assert found["left_out"] == {
        "long": "takes some 80 s, and 70 s were left",
        "c": "takes some 20 s, and 10 s were left",
    }


def test_estimates_grow_on_a_slow_card(clock, tmp_path):
    items = [lasting(clock, "a", 10, real=40), lasting(clock, "b", 20), lasting(clock, "c", 10)]
    found = run(items, tmp_path / "a.json")
    assert [*found["items"]] == ["a", "c"] and found["left_out"]["b"] == "takes some 80 s, and 60 s were left"


def test_estimates_do_not_shrink_on_a_fast_one(clock, tmp_path):
    items = [lasting(clock, "a", 50, real=1), lasting(clock, "b", 100)]
    assert [*run(items, tmp_path / "a.json")["items"]] == ["a"]


def test_what_needs_cuda_is_measured_there_alone(clock, tmp_path):
    items = [lasting(clock, "graph", 1, needs_cuda=True)]
    assert run(items, tmp_path / "a.json")["left_out"] == {"graph": "needs CUDA"}
    assert [*run(items, tmp_path / "b.json", device="cuda:1")["items"]] == ["graph"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"),
            "OutOfMemoryError: CUDA out of memory. Tried",
        ),
        (RuntimeError("No available kernel.  Aborting execution."), "RuntimeError: No available kernel. Aborting"),
        (NotImplementedError("not on this card"), "NotImplementedError: not on this card"),
        (AssertionError(), "AssertionError: "),
    ],
)
def test_an_item_that_fails_is_noted_in_one_line_and_the_others_go_on(error, line, clock, tmp_path):
    def fail():
        raise error

    found = run([Item("bad", 1, fail), lasting(clock, "good", 1)], tmp_path / "a.json")
    assert found["failed"]["bad"].startswith(line) and "\n" not in found["failed"]["bad"]
    assert [*found["items"]] == ["good"] and found["finished"]


def test_an_item_that_does_not_end_is_given_up_when_the_budget_ends(tmp_path):
    def endless():
        while True:
            time.sleep(0.01)

    before, began = signal.getsignal(signal.SIGALRM), time.monotonic()
    good = Item("good", 0.01, lambda: Times(1.0, 0.5))
    found = run(
        [good, Item("endless", 0.01, endless), Item("late", 0.01, good.measure)], tmp_path / "a.json", budget=0.5
    )
    assert time.monotonic() - began < 10
    assert [*found["items"]] == ["good"] and found["finished"]
    assert found["failed"] == {"endless": "TimeoutError: not done when the budget ended"}
    assert [*found["left_out"]] == ["late"]
    assert signal.getsignal(signal.SIGALRM) == before and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_the_error_that_came_first_is_noted_too():
    with pytest.raises(RuntimeError) as ending:
        try:
            raise ValueError("a copy to the processor")
        finally:
            raise RuntimeError("capture was invalidated")
    assert (
        record.one_line(ending.value)
        == "RuntimeError: capture was invalidated; after ValueError: a copy to the processor"
    )


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_a_run_that_is_cut_off_keeps_what_it_has(end, clock, tmp_path):
    path = tmp_path / "a.json"

    def cut_off():
        kept = strictly(path.read_text())
        assert [*kept["items"]] == ["a"] and not kept["finished"]
        raise end

    with pytest.raises(end):
        run([lasting(clock, "a", 1), Item("b", 1, cut_off), lasting(clock, "c", 1)], path)
    drawn = tables.draw_file(path)
    assert "| b | not reached: the run was cut off |" in drawn and "| c | not reached" in drawn
    assert os.listdir(tmp_path) == ["a.json"]


def test_numbers_that_are_not_finite_are_seen_in_a_file_that_is_json(tmp_path):
    items = [Item("bad", 1, lambda: Times(float("nan"), float("-inf")))]
    assert run(items, tmp_path / "a.json")["items"] == {"bad": {"ms": "nan", "host_ms": "-inf"}}


def test_calls_are_timed_once_at_least_and_not_beyond_the_limit():
    calls = []
    assert time_calls(lambda: calls.append(1), longest=0.0).ms >= 0
    assert len(calls) == 3
    time_calls(lambda: calls.append(1), longest=60.0, repeats=4, warm_up=1)
    assert len(calls) == 8


# ---- the command -----------------------------------------------------------------------


def refusal(*arguments):
    """The one line with which the command ends."""
    ending = call(command.main, *arguments)
    assert ending.code == 2 and ending.errors.count("\n") == 1, ending.errors
    return ending.errors


@pytest.mark.parametrize("earlier", ["file", "empty file", "link", "folder"])
def test_an_earlier_file_is_not_overwritten(earlier, tmp_path):
    path = tmp_path / "a.json"
    if earlier == "link":
        path.symlink_to(tmp_path / "elsewhere.json")
    elif earlier == "folder":
        path.mkdir()
    else:
        path.write_text("" if earlier == "empty file" else "{}")
    before = sorted(os.listdir(tmp_path))
    assert "is there already" in refusal("--out", path, "--device", "cpu", "--quick")
    assert sorted(os.listdir(tmp_path)) == before
    assert earlier != "file" or path.read_text() == "{}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cpu"], "add --quick"),
        (["--device", "cuda:x"], "is unknown"),
        (["--device", "cpu", "--quick", "--budget", "0"], "positive"),
        (["--device", "cpu", "--quick", "--budget", "nan"], "positive"),
        (["--device", "cpu", "--quick", "--budget", "inf"], "positive"),
        (["--device", "cpu", "--quick", "--budget", "ten"], "ten"),
        (["--device", "cpu", "--quick", "--only", "rerakn/bf16"], "did you mean 'rerank/bf16"),
        (["--device", "cpu", "--quick", "--only", ""], "no item"),
        (["--show", "other.json"], "not allowed with"),
    ],
)
def test_a_wrong_call_ends_before_anything_is_written(arguments, said, tmp_path):
    assert said in refusal("--out", tmp_path / "a.json", *arguments)
    assert os.listdir(tmp_path) == []


def test_a_gpu_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device is visible" in refusal("--out", tmp_path / "a.json")
    assert "one of the arguments --out --show is required" in refusal()


def test_a_budget_too_small_for_anything_leaves_all_out(tmp_path):
    path = tmp_path / "a.json"
    ending = call(command.main, "--out", path, "--device", "cpu", "--quick", "--budget", "0.5", "--commit", "1a2b3c")
    found = strictly(path.read_text())
    assert found["about"]["commit"] == "1a2b3c" and found["about"]["budget"] == 0.5
    assert ending.code == 0 and found["items"] == {} and set(found["left_out"]) == set(found["planned"])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"kind": "benchmarks.gpu"}',
        '{"kind": "benchmarks.gpu", "about": {}, "planned": [], "more": 1}',
        '{"kind": "benchmarks.gpu", "about": [], "planned": []}',
        '{"kind": "benchmarks.gpu", "about": {}, "planned": 3}',
        '{"kind": "benchmarks.gpu", "about": {}, "planned": [], "items": {"step/bf16/8": 3}}',
        '{"kind": "benchmarks.gpu", "about": {}, "planned": [], "items": {"step/bf16/8": {"batch": 8}}}',
        '{"kind": "benchmarks.gpu", "about": {}, "planned": [], "items": []}',
        '{"about": {}, "planned": []}',
    ],
)
def test_a_file_of_another_kind_is_refused(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(content)
    assert str(path) in refusal("--show", path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert "does not exist" in refusal("--show", tmp_path / "a.json")


def test_a_new_file_in_a_new_folder_is_fine_but_not_below_a_file(tmp_path):
    record.require_new(tmp_path / "folder" / "a.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        record.require_new(tmp_path / "file" / "a.json")
