"""Options of benchmarks: numbers without meaning are refused before anything is measured, and none is ignored."""

import multiprocessing
import sys
from argparse import Namespace

import numpy as np
import pytest

from benchmarks import clip_step, gallery, image_size, index_scale, scan, serving, step_profile, train_step
from utils.errors import UserError


@pytest.mark.parametrize(
    ("benchmark", "arguments", "message"),
    [
        (scan, ["--repeats", "0"], "--repeats: must be 1 or more, not 0"),
        (image_size, ["--repeats", "-3"], "--repeats: must be 1 or more, not -3"),
        (image_size, ["--plot", "costs.json"], r"--plot costs.json is not a .png file"),
        (train_step, ["--batch", "4", "1"], "--batch: must be 2 or more, not 1"),
        (train_step, ["--batch", "x"], "--batch: must be a whole number, not 'x'"),
        (clip_step, ["--batch", "0"], "--batch: must be 2 or more, not 0"),
        (step_profile, ["--batch", "1"], "--batch: must be 2 or more, not 1"),
        (gallery, ["--checkpoint", "c.pth", "--queries", "1"], "--queries: must be 2 or more, not 1"),
        (index_scale, ["--images", "0"], "--images: must be 1 or more, not 0"),
        (serving, ["--images", "imgs", "--clients", "8", "0"], "--clients: must be 1 or more, not 0"),
        (serving, ["--images", "imgs", "--candidates", "1001"], "--candidates: must be 1000 or less, not 1001"),
    ],
)
def test_numbers_without_meaning_are_refused(benchmark, arguments, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["name.py", *arguments])
    with pytest.raises(UserError, match=message):
        benchmark.main()


def test_a_quick_measurement_has_the_repeats_that_are_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(image_size, "peak_memory_of", lambda _, *given: (asked.append(given[-1]) or 1.0, 1.0))
    for arguments, repeats in ((["--quick"], 1), (["--quick", "--repeats", "2"], 2)):
        asked.clear()
        image_size.main(arguments)
        assert set(asked) == {repeats}


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [(["--quick"], (10_000, 20)), ([], (100_000, 100)), (["--quick", "--images", "30", "--queries", "3"], (30, 3))],
)
def test_a_quick_index_has_the_images_and_queries_that_are_asked_for(arguments, numbers, monkeypatch):
    asked = []

    def pretend(count: int, queries: int, dimensions: int) -> None:
        asked.append((count, queries, dimensions))
        raise KeyboardInterrupt

    monkeypatch.setattr(index_scale, "draw_embeddings", pretend)
    with pytest.raises(KeyboardInterrupt):
        index_scale.main([*arguments, "--dimensions", "8"])
    assert asked == [(*numbers, 8)]


@pytest.mark.parametrize(
    ("given", "loads"),
    [
        ({"quick": True}, [(1, 17), (8, 24)]),
        ({"quick": True, "clients": [3], "queries": 5}, [(3, 8)]),
        ({"quick": False, "clients": [2], "queries": None}, [(2, 130)]),
    ],
)
def test_a_quick_load_has_the_clients_and_queries_that_are_asked_for(given, loads, monkeypatch):
    asked, answer = [], {"milliseconds": {"search": 1.0}, "hits": []}

    def pretend(port: int, texts: list[str], clients: int, candidates: int) -> serving.Load:
        asked.append((clients, len(texts)))
        return serving.Load([1.0] * len(texts), 1.0, dict.fromkeys(texts, answer))

    monkeypatch.setattr(serving, "send", pretend)
    monkeypatch.setattr(serving, "memory_of", lambda process: 1.0)
    options = Namespace(**{"clients": None, "queries": None, "candidates": 8, **given})
    serving.measure(options, {serving.TOGETHER: 1, serving.ALONE: 2}, 0)
    assert asked[2:] == [load for load in loads for _ in range(2)]  # to warm up at first


def test_a_checkpoint_that_is_not_there_is_told_by_the_server_in_one_line(monkeypatch, capfd):
    forked = multiprocessing.get_context("fork")  # a new process takes seconds to import everything
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: forked)
    with pytest.raises(SystemExit, match="the server ended"):
        serving.main(["--images", "nowhere", "--checkpoint", "missing.pth"])
    errors = capfd.readouterr().err
    assert "error: checkpoint missing.pth does not exist" in errors and "Traceback" not in errors


def test_types_of_index_stand_below_a_heading_whichever_can_be_built(monkeypatch, capsys):
    def pretend(uri: str, collection: str, name: str, embeddings: object, k: int) -> str:
        if name != "FLAT":
            raise UserError(f"no {name} here")
        return name

    monkeypatch.setattr(index_scale, "build_and_measure", pretend)
    monkeypatch.setattr(index_scale, "as_table", lambda rows: "the heading\n" + "\n".join(rows))
    index_scale.main(["--images", "30", "--queries", "3", "--dimensions", "8", "--types", "HNSW", "FLAT", "FLAT"])
    assert capsys.readouterr().out.splitlines()[2:] == ["HNSW: no HNSW here", "the heading", "FLAT", "FLAT"]


@pytest.mark.parametrize("real", [2, 5])
def test_an_index_has_as_many_images_as_it_says(real):
    embeddings = np.eye(5, dtype=np.float32)[:real]
    records = gallery.records_of(embeddings, count=3, seed=0)
    assert [record.path for record in records] == ["000000.jpg", "000001.jpg", "000002.jpg"]
    assert all(np.array_equal(record.embedding, one) for record, one in zip(records, embeddings, strict=False))
