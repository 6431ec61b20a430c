"""Image tokens of candidates: each file is read once, by several threads, and again where it must be."""

import threading
import time

import pytest
import torch
from PIL import Image

from search.batching.image_tokens import CACHE_BYTES, ImageTokens
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index


@pytest.fixture
def gallery(encoder, photos, tmp_path):
    """Six images more, of which two are equal."""
    for number in range(5):
        Image.new("RGB", (48, 96), (40 * number, 90, 200 - 40 * number)).save(photos / f"plain_{number}.png")
    (photos / "plain_5.png").write_bytes((photos / "plain_0.png").read_bytes())
    with open_gallery(str(tmp_path / "gallery"), encoder, photos) as gallery:
        index(gallery, encoder)
        yield gallery


def counted_reads(gallery, monkeypatch):
    """The paths that are read from now on; a read takes a while."""
    read, real = [], gallery.image_source.read

    def slow(path):
        read.append(path)
        time.sleep(0.02)
        return real(path)

    monkeypatch.setattr(gallery.image_source, "read", slow)
    return read


def test_files_are_read_once_and_only_where_they_changed(gallery, encoder, monkeypatch):
    tokens, images = ImageTokens(gallery, encoder, CACHE_BYTES), list(gallery.records)
    read = counted_reads(gallery, monkeypatch)
    first, missing = tokens.of(images)
    assert sorted(read) == sorted(image.file for image in images) and not missing
    assert first.keys() == {image.content_key for image in images}
    read.clear()
    again, _ = tokens.of(images)
    assert not read and all(torch.equal(again[content], one) for content, one in first.items())
    touched = images[0]
    (gallery.image_source.path / touched.file).touch()
    tokens.of(images)
    assert read == [touched.file]


def test_files_are_read_at_once(gallery, encoder, monkeypatch):
    running, most, lock, real = 0, [0], threading.Lock(), gallery.image_source.read

    def slow(path):
        nonlocal running
        with lock:
            running += 1
            most[0] = max(most[0], running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return real(path)

    monkeypatch.setattr(gallery.image_source, "read", slow)
    monkeypatch.setattr(gallery.image_source, "threads", 4)
    found, _ = ImageTokens(gallery, encoder, CACHE_BYTES).of(gallery.records)
    assert most[0] == 4 and len(found) > 4


def test_where_one_of_two_equal_files_is_damaged_the_other_is_read(gallery, encoder):
    tokens, folder = ImageTokens(gallery, encoder, 0), gallery.image_source.path  # nothing is kept in memory
    equal = [gallery.records.by_path[name] for name in ("plain_0.png", "plain_5.png")]
    whole, _ = tokens.of(equal)
    (folder / "plain_0.png").write_bytes(b"no image")
    found, missing = tokens.of(equal)
    assert missing == {"plain_0.png": "has changed since it was indexed; index the folder again"}
    assert torch.equal(found[equal[0].content_key], whole[equal[0].content_key])
    (folder / "plain_5.png").unlink()
    assert tokens.of(equal)[1].keys() == {"plain_0.png", "plain_5.png"}
