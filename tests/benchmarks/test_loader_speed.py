"""The benchmark of the loader: its parts add up, and waiting is measured."""

import time

import pytest
from PIL import Image

from benchmarks.loader import SHAPES, draw_training_set, measure_parts, show_parts, show_waits, waits


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
