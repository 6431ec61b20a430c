"""Training images that are kept decoded: the same pixels, never those of files that have changed, and a whole file."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_data import REPOSITORY, environment
from PIL import Image

from dataset import image_cache
from dataset.digests import blake2_of
from dataset.image_cache import ImageCache, Source, digest, open_image_cache
from dataset.images import load_image
from utils.errors import UserError
from utils.files import TEMPORARY

SIZE = (5, 7)  # of 105 bytes, no multiple of 8
NAMES = ("a.png", "below/b.png", "./below/c.bmp", "größe d.png")


@pytest.fixture
def root(tmp_path) -> Path:
    """Images of noise."""
    folder = tmp_path / "images"
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        draw(folder / name, number)
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "new" / "cache"


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def source(root: Path, names=NAMES, size=SIZE, digests=None) -> Source:
    return Source(root, list(names), size, digests or {})


def holds(cache: ImageCache, root: Path, names=NAMES, size=SIZE) -> bool:
    """Whether each image is what is decoded from its file now."""
    return all(torch.equal(cache.load(number), load_image(root / name, size)) for number, name in enumerate(names))


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of images that are decoded for a cache, as they are."""
    seen, load = [], Source.load

    def noting(self, number):
        seen.append(self.images[number])
        return load(self, number)

    monkeypatch.setattr(Source, "load", noting)
    return seen


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


# ---- what is in it ----


def test_pixels_are_those_of_the_files_and_decoded_once(root, folder, decoded):
    for _ in range(2):
        assert holds(open_image_cache(folder, source(root)), root)
    assert sorted(decoded) == sorted(NAMES)
    assert files(folder) == [".images", ".lock"]


def test_another_size_and_other_images_are_other_files(root, folder, decoded):
    first = open_image_cache(folder, source(root))
    large, fewer = (open_image_cache(folder, other) for other in (source(root, size=(7, 5)), source(root, NAMES[1:])))
    assert holds(large, root, size=(7, 5)) and holds(fewer, root, NAMES[1:]) and holds(first, root)
    assert len(decoded) == 3 * len(NAMES) - 1 and files(folder).count(".images") == 3


def test_images_that_are_resized_in_another_way_are_another_file(root, folder):
    bicubic = source(root)
    bilinear = Source(root, list(NAMES), SIZE, {}, "bilinear")
    first, second = open_image_cache(folder, bicubic), open_image_cache(folder, bilinear)
    assert holds(first, root) and not holds(second, root)
    for number, name in enumerate(NAMES):
        assert second.load(number).equal(load_image(root / name, SIZE, resampling="bilinear"))
    assert digest([os.path.realpath(root), list(NAMES), SIZE]) == bicubic.name()  # as earlier versions named it


def test_a_cache_in_a_folder_of_others_is_only_read(root, folder, decoded, monkeypatch):
    open_image_cache(folder, source(root))
    monkeypatch.setattr(image_cache, "locked", None)
    monkeypatch.setattr(image_cache, "require_writable_folder", None)
    assert holds(open_image_cache(folder, source(root)), root)


def test_images_are_found_far_beyond_four_gibibytes(tmp_path, monkeypatch):
    number, cache = np.int32(34_000), ImageCache(tmp_path / "x.images", "x", 34_054, (384, 384))
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(cache.total)
        file.seek(4096 + 34_054 * 8 // 4096 * 4096 + 4096 + 34_000 * 3 * 384 * 384)
        file.write(bytes([7]))
    with path.open("rb") as file:
        sums = np.zeros(34_054, np.uint64)
        sums[34_000] = 7
        vars(cache)["opened"] = file.fileno(), sums
        image = cache.load(number)
    assert image[0, 0, 0] == 7 and image.sum() == 7


# ---- never stale ----


def same_size_and_time(path: Path) -> None:
    """Another image in place of a BMP, which then has the size and time of before."""
    before = path.stat()
    draw(path, 9)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def moved_over(path: Path) -> None:
    """An image with the time of the old one, written elsewhere and moved to its place."""
    other = path.with_name("other.bmp")
    shutil.copy2(path, other)
    same_size_and_time(other)
    os.replace(other, path)


@pytest.mark.parametrize("change", [same_size_and_time, moved_over, lambda path: draw(path, 9), os.utime])
def test_what_was_made_of_other_files_is_not_used(root, folder, decoded, change):
    old = open_image_cache(folder, source(root))
    assert old.load(0) is not None
    change(root / "below" / "c.bmp")
    new = open_image_cache(folder, source(root))
    assert holds(new, root) and len(decoded) == 2 * len(NAMES)
    assert torch.equal(old.load(0), new.load(0))  # a run that had it open goes on
    assert files(folder) == [".images", ".lock"]


def test_what_another_decoder_or_resampling_made_is_not_used(root, folder, decoded, monkeypatch):
    for name, value in (("FORMAT", 0), ("versions", lambda: {"Pillow": "0.1"})):
        with monkeypatch.context() as patch:
            patch.setattr(image_cache, name, value)
            open_image_cache(folder, source(root))
    assert len(decoded) == 2 * len(NAMES)
    assert holds(open_image_cache(folder, source(root)), root)
    assert len(decoded) == 3 * len(NAMES)


def test_a_file_that_is_not_what_was_prepared_is_refused(root, folder):
    digests = {"a.png": blake2_of((root / "a.png").read_bytes())}
    open_image_cache(folder, source(root, digests=digests))
    draw(root / "a.png", 9)
    with pytest.raises(UserError, match=r"a\.png changed since it was prepared"):
        open_image_cache(folder, source(root, digests=digests))


def test_a_process_does_not_open_what_another_run_has_put_there(root, folder):
    cache = open_image_cache(folder, source(root))
    draw(root / "a.png", 9)
    open_image_cache(folder, source(root))
    with pytest.raises(UserError, match="was replaced while this run started; start it again"):
        cache.load(0)


# ---- whole or not there ----

SLOWLY = """
import sys, time
from pathlib import Path
from dataset.image_cache import Source, open_image_cache
load = Source.load
def slowly(self, number):
    if number == 1:
        print("decoding\\n", end="", flush=True)
        time.sleep(60)
    return load(self, number)
Source.load = slowly
open_image_cache(sys.argv[1], Source(Path(sys.argv[2]), sys.argv[3:], (5, 7), {}))
"""


def test_what_a_killed_process_wrote_is_not_used_and_does_not_stay(root, folder):
    command = [sys.executable, "-c", SLOWLY, str(folder), str(root), *NAMES]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"decoding\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any(TEMPORARY.fullmatch(path.name) for path in folder.iterdir())
    assert holds(open_image_cache(folder, source(root)), root)
    assert files(folder) == [".images", ".lock"]


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def emptied(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [cut_off, emptied, lambda path: path.write_text("an old letter"), os.unlink])
def test_a_file_that_is_not_whole_is_made_again(root, folder, damage):
    damage(open_image_cache(folder, source(root)).path)
    assert holds(open_image_cache(folder, source(root)), root)


def test_changed_pixels_are_noticed(root, folder):
    cache = open_image_cache(folder, source(root))
    content = bytearray(cache.path.read_bytes())
    content[cache.first + cache.step + 3] ^= 8
    cache.path.write_bytes(content)
    again = open_image_cache(folder, source(root))
    assert torch.equal(again.load(0), load_image(root / NAMES[0], SIZE))
    with pytest.raises(UserError, match=r"\.images is damaged; delete it, and it is made again"):
        again.load(1)


def test_two_runs_at_once_make_it_once(root, folder, decoded, monkeypatch):
    load = Source.load
    monkeypatch.setattr(Source, "load", lambda self, number: time.sleep(0.2) or load(self, number))
    found: list[ImageCache] = []
    runs = [threading.Thread(target=lambda: found.append(open_image_cache(folder, source(root)))) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sorted(decoded) == sorted(NAMES)
    assert len(found) == 3 and all(holds(cache, root) for cache in found)


# ---- what goes wrong ----


def test_a_disk_without_room_is_told_before_anything_is_decoded(root, folder, decoded, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**34, 2**34, 2**20))
    wanted = source(root, NAMES, (20000, 20000))
    with pytest.raises(UserError, match=r"^image_cache .*: the images take 4\.5 GiB and 0\.0 GiB are free; free space"):
        open_image_cache(folder, wanted)
    assert decoded == [] and files(folder) == [".lock"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(root, folder, monkeypatch, number):
    write, written = os.pwrite, []

    def full(file, content, offset):
        if written:
            raise OSError(number, os.strerror(number))
        written.append(offset)
        return write(file, content[:50], offset)  # a part, as a disk that is nearly full takes it

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=rf"^cannot write .*\.images: {os.strerror(number)}; "):
        open_image_cache(folder, source(root))
    assert files(folder) == [".lock"]
    monkeypatch.undo()
    assert holds(open_image_cache(folder, source(root)), root)


def test_writes_that_take_a_part_are_continued(root, folder, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: write(file, content[:7], offset))
    assert holds(open_image_cache(folder, source(root)), root)


@pytest.mark.parametrize(("content", "part"), [(b"hello", "is no image"), (None, "cannot be read: No such file")])
def test_an_image_that_cannot_be_used_is_named_and_nothing_is_left(root, folder, content, part):
    path = root / "below" / "b.png"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^image {path} {part}"):
        open_image_cache(folder, source(root))
    assert not folder.exists() or files(folder) == [".lock"]


def test_a_file_in_place_of_the_folder_is_one_line(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"image_cache .*file is not a folder; name another, or leave it out"):
        open_image_cache(tmp_path / "file", source(root))


def test_a_folder_in_place_of_the_file_is_one_line(root, folder):
    path = open_image_cache(folder, source(root)).path
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"^cannot write .*\.images"):
        open_image_cache(folder, source(root))
