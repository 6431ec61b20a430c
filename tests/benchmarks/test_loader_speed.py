"""The benchmark of the loader: its parts add up, and waiting is measured."""

import time
from dataclasses import fields
from itertools import product

import pytest
import torch
from PIL import Image

from benchmarks import loading_ways
from benchmarks.loader import (
    SHAPES,
    SPANS,
    compare_ways,
    draw_training_set,
    measure_parts,
    show_parts,
    show_waits,
    waits,
)
from benchmarks.loading_ways import RandomPlan
from dataset.batch import TextTokens


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_training_set(tmp_path_factory.mktemp("images"), 5, (48, 32))


def test_files_have_the_sizes_of_real_ones(data):
    sizes = [Image.open(data.image_root / f"{number}.jpg").size[::-1] for number in range(5)]
    assert sizes == SHAPES
    assert len(data) == 10 and all(data.table.attributes(caption).any() for caption in data.caption)


def test_the_parts_add_up_to_the_loader(data, capsys):
    parts = measure_parts(data, 1, batch=2)
    assert parts.decoding > 0 and parts.whole > parts.decoding
    show_parts(parts)
    printed = capsys.readouterr().out
    assert printed.count(" ms per sample") == 6
    assert "decoding alone" in printed


def test_all_ways_make_the_same_batches(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loading_ways, "BATCH", 3)
    data.weak_probability = 0.6
    sets = loading_ways.ways(data, dict.fromkeys(data.captions(), SPANS), tmp_path)
    for request in RandomPlan(len(data), 7, 5).requests(2):
        first, *others = (way[request].to(torch.device("cpu")) for way in sets.values())
        for other, part in product(others, fields(first)):
            one, two = (getattr(batch, part.name) for batch in (first, other))
            if isinstance(one, TextTokens):
                assert torch.equal(one.ids, two.ids) and torch.equal(one.mask, two.mask), part.name
            elif part.name != "noise":
                assert torch.equal(torch.as_tensor(one), torch.as_tensor(two)), part.name
        assert first.size == 3 and first.noise is None and all(other.noise is not None for other in others)


def test_ways_are_compared(data, capsys):
    compare_ways(data, "tiny", (32, 40), 1, 1)
    printed = capsys.readouterr().out
    assert printed.count("samples per second") == 6 and "   40 on all processes image cache" in printed


def test_waiting_is_told(data, capsys):
    show_waits(data, "here", 0.01, time.sleep, made=400, batch=2)
    assert "needs 200 samples per second, a worker makes 400" in capsys.readouterr().out


def test_every_batch_is_waited_for_once(data):
    assert len(waits(data, 1, lambda: None, batch=2)) == 5


def test_a_slow_loader_is_seen(data, monkeypatch):
    make_batch = data.make_batch

    def slowly(request):
        time.sleep(0.05)
        return make_batch(request)

    monkeypatch.setattr(data, "make_batch", slowly)
    assert min(waits(data, 0, lambda: None, batch=5)) >= 0.05
