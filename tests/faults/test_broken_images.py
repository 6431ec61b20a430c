"""Every image file is shown as a viewer shows it, or refused by name; nothing dies, hangs or fills the memory.

FAULTS=full damages files 5,000 times instead of 700.
"""

import contextlib
import io
import multiprocessing
import os
import re
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_pictures import DAMAGES, bombs, damage, refused_contents
from pictures import COLOURS, HEIGHT, WIDTH, Picture, good_pictures, saved
from PIL import Image, ImageFile
from torch.utils.data import DataLoader

from dataset import decoding
from dataset.annotations import Entry
from dataset.decoding import _webp_size
from dataset.digests import blake2_of
from dataset.evaluation_split import ImageBlocks, make_split
from dataset.image_files import missing_images, read_images
from dataset.images import load_image
from dataset.tokens import CaptionTokenizer
from utils.errors import UserError
from utils.memory import keep_freed_memory

pytestmark = pytest.mark.promise("Images")

SIZE = (HEIGHT, WIDTH)  # files are as large, so that nothing is resized
FULL = os.environ.get("FAULTS") == "full"
DAMAGED = 5000 if FULL else 700
TOKENIZER = CaptionTokenizer.train(["a man in a red coat"], 100, 1)
MIB = 2**20


@pytest.fixture(scope="module")
def good() -> dict[str, Picture]:
    return good_pictures()


def write(folder: Path, contents: dict[str, bytes]) -> list[str]:
    """Files named by number: a name says nothing about a format."""
    for number, content in enumerate(contents.values()):
        (folder / f"{number}.jpg").write_bytes(content)
    return [f"{number}.jpg" for number in range(len(contents))]


def load_all(folder: Path, names: list[str], digests: list[str] | None = None) -> list[torch.Tensor | UserError]:
    """What the loader of an evaluation makes of each file, in two worker processes that may not hang."""
    known = dict(zip(names, digests or [], strict=False))
    split = make_split([Entry(name, 1, ("a man",)) for name in names], folder, TOKENIZER, 9, known)
    blocks = ImageBlocks(split, [[place] for place in range(len(names))], SIZE)
    return list(DataLoader(blocks, batch_size=None, num_workers=2, timeout=60))


def pixels(image: torch.Tensor) -> np.ndarray:
    """[H, W, 3] of a block of one."""
    return image[0].permute(1, 2, 0).numpy().astype(float)


def difference(image: torch.Tensor, shown: np.ndarray) -> float:
    return float(np.abs(pixels(image) - shown).max())


def check_refusal(error: object, path: Path, part: str = "") -> None:
    """One line that begins with the file's name and says what to do."""
    assert isinstance(error, UserError), f"{path} was loaded"
    message = str(error)
    assert message.startswith(f"image {path} ") and part in message, message
    assert re.search(r"; (replace it or remove its annotation|restore it or prepare the data set again)$", message)
    assert "\n" not in message and len(message) < 400


def check_agreement(folder: Path, names: list[str], loaded: list[torch.Tensor | UserError]) -> None:
    """Preparation in full finds what loading finds, in its words; a quick look finds nothing else."""
    full, quick = (read_images(names, folder, full=full) for full in (True, False))
    for name, image, (fault, digest), (quick_fault, quick_digest) in zip(names, loaded, full, quick, strict=True):
        content = (folder / name).read_bytes()
        if isinstance(image, UserError):
            assert fault and f"image {folder / name} {fault}; " in str(image)
            assert quick_fault in (fault, None)
            # only what shows in nothing but the coded pixels
            assert quick_fault or content[:2] == b"\xff\xd8" or content[:4] == b"\x89PNG"
        else:
            assert (fault, digest) == (quick_fault, quick_digest) == (None, blake2_of(content))


# ---- whole files -----------------------------------------------------------------------


def test_every_kind_of_picture_is_shown_as_it_is(good, tmp_path, trials):
    trial = trials("kind of picture shown as it is", len(good))
    names = write(tmp_path, {name: picture.content for name, picture in good.items()})
    loaded = load_all(tmp_path, names)
    wrong = {}
    for (name, picture), image in zip(good.items(), loaded, strict=True):
        if isinstance(image, UserError):
            wrong[name] = str(image)
        elif (off := difference(image, picture.shown)) > picture.tolerance:
            wrong[name] = f"differs by {off}"
    assert not wrong
    trial.survive(len(loaded))
    check_agreement(tmp_path, names, loaded)


def test_what_is_no_usable_image_is_refused_by_name(tmp_path, trials):
    cases = refused_contents() | bombs()
    trial = trials("bomb or no usable image refused by name", len(cases))
    names = write(tmp_path, {name: content for name, (content, _) in cases.items()})
    loaded = load_all(tmp_path, names)
    for name, error, (_, part) in zip(names, loaded, cases.values(), strict=True):
        check_refusal(error, tmp_path / name, part)
        trial.survive()
    full = read_images(names, tmp_path, full=True)
    assert all(fault and digest is None for fault, digest in full)


def test_the_largest_picture_is_one_below_the_threshold_of_warnings(tmp_path, recwarn):
    assert decoding.LARGEST_PICTURE == Image.MAX_IMAGE_PIXELS
    Image.new("1", (9_459, 9_459)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", (2, 2)).max() == 0
    assert not recwarn.list


def test_a_file_is_refused_where_pillow_was_told_to_fill_in_what_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = saved(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8), "BMP")
    (tmp_path / "a.bmp").write_bytes(content[:-300])
    with pytest.raises(UserError, match="truncated"):
        load_image(tmp_path / "a.bmp", SIZE)
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    assert "truncated" in read_images(["a.bmp"], tmp_path, full=False)[0][0]


# ---- damaged files ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(good, tmp_path_factory) -> tuple[Path, list[str], list[tuple[str, str]]]:
    """(folder, files, (picture, kind of damage) of each) of whole files after all kinds of accidents."""
    random, folder, contents = np.random.default_rng(1), tmp_path_factory.mktemp("damaged"), {}
    pictures = list(good)
    while len(contents) < DAMAGED:
        name, kind = pictures[random.integers(len(pictures))], DAMAGES[len(contents) % len(DAMAGES)]
        content = damage(kind, good[name].content, random)
        if content != good[name].content:
            contents[name, kind, len(contents)] = content
    return folder, write(folder, contents), [(name, kind) for name, kind, _ in contents]


def test_damaged_files_end_no_process_and_are_judged_alike_everywhere(good, damaged, trials):
    trial = trials("damaged file refused by name or harmless, no worker dies", DAMAGED)
    folder, names, causes = damaged
    loaded = load_all(folder, names)
    for name, image, (picture, kind) in zip(names, loaded, causes, strict=True):
        if isinstance(image, UserError):
            check_refusal(image, folder / name)
        elif kind == "cut" or picture.startswith("PNG"):  # nobody needs those bytes, or its checksums tell
            assert difference(image, good[picture].shown) <= good[picture].tolerance, (picture, kind)
    refused = sum(isinstance(image, UserError) for image in loaded)
    assert DAMAGED / 2 < refused < DAMAGED  # a flipped bit within the pixels of a BMP is another picture
    check_agreement(folder, names, loaded)
    trial.survive(len(loaded))


def test_a_digest_tells_every_damage(good, damaged, trials):
    trial = trials("damage told by the digest of preparation", DAMAGED)
    folder, names, causes = damaged
    loaded = load_all(folder, names, [blake2_of(good[picture].content) for picture, _ in causes])
    for name, error in zip(names, loaded, strict=True):
        check_refusal(error, folder / name)
        trial.survive()
    changed = sum("changed since it was prepared; restore it" in str(error) for error in loaded)
    assert changed > DAMAGED / 20  # the others do not even decode


@pytest.mark.filterwarnings("ignore")  # Pillow's remarks
def test_every_cut_of_every_format_is_noticed_or_does_no_harm(good):
    for name, picture in good.items():
        for length in range(0, len(picture.content) - 1, max(1, len(picture.content) // (300 if FULL else 30))):
            try:
                shown = np.asarray(decoding.decode(picture.content[:length]), float)
            except decoding.Unusable:
                continue
            assert np.abs(shown - picture.shown).max() <= picture.tolerance, (name, length)


# ---- things that are no files ----------------------------------------------------------


@contextlib.contextmanager
def nobody():
    """Without the rights of root, to whom every file is open."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def make_things(folder: Path) -> dict[str, str]:
    """Name -> part of the message, for what stands in a folder in place of images."""
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "circle.jpg").symlink_to(folder / "circle.jpg")
    (folder / "nowhere.jpg").symlink_to(folder / "gone.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.jpg"))
    with open(folder / "huge.jpg", "wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    return {
        "folder.jpg": "is a folder",
        "pipe.jpg": "is a pipe or device",
        "circle.jpg": "symbolic links",
        "nowhere.jpg": "does not exist",
        "device.jpg": "is a pipe or device",
        "socket.jpg": "cannot be read",
        "huge.jpg": "1,099,511,627,776 bytes, more than 268,435,456",
        "none.jpg": "does not exist",
        "folder.jpg/none.jpg": "does not exist",
    }


def test_what_is_no_file_is_refused_and_does_not_block(tmp_path):
    things = make_things(tmp_path)
    (tmp_path / "good.jpg").write_bytes(saved(COLOURS, "PNG"))
    (tmp_path / "link.jpg").symlink_to("good.jpg")
    began = time.monotonic()
    loaded = load_all(tmp_path, [*things, "link.jpg"])
    assert time.monotonic() - began < 30
    for (name, part), error in zip(things.items(), loaded, strict=False):
        check_refusal(error, tmp_path / name, part)
    assert difference(loaded[-1], COLOURS) == 0
    # names are looked up before files are read; a thing beside an image does not hide it
    missing = missing_images([*things, "link.jpg", "good.jpg"], tmp_path)
    assert set(missing) == set(things) - {"huge.jpg"}
    assert missing["folder.jpg"] == "a folder, not a file" and missing["pipe.jpg"] == "a pipe or device, not a file"
    assert "Too many levels" in missing["circle.jpg"] and "No such file" in missing["nowhere.jpg"]


def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(saved(COLOURS, "PNG"))
    path.chmod(0)
    with nobody(), pytest.raises(UserError) as caught:
        load_image(path, SIZE)
    check_refusal(caught.value, path, "cannot be read: Permission denied")


# ---- memory ----------------------------------------------------------------------------


def peak_of_loading(path: Path) -> int:
    """Bytes that a fresh process needs beyond what it has, to load or refuse a file."""
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()

    def measure() -> None:
        torch.set_num_threads(1)
        keep_freed_memory()  # as in training, where memory that a decoder wants cleared may be touched for that
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = memory("VmRSS")
        with contextlib.suppress(UserError):
            load_image(path, (384, 384))
        found.put(memory("VmHWM") - before)

    process = context.Process(target=measure)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return found.get()


def memory(key: str) -> int:
    return 1024 * int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.mark.parametrize("how", [{"lossless": True}, {"quality": 50}, {"lossless": True, "exif": b"Exif\0\0"}])
def test_a_webp_picture_tells_its_size_before_it_is_opened(how):
    for width, height in ((1, 1), (300, 7), (5, 4000)):
        content = saved(np.zeros((height, width, 3), np.uint8), "WEBP", **how)
        assert _webp_size(content) == (width, height) == Image.open(io.BytesIO(content)).size
    assert _webp_size(b"RIFF\0\0\0\0WEBPVP8L") == (1, 1) and _webp_size(b"RIFF\0\0\0\0WEBP") == (0, 0)


def test_bombs_need_little_memory(tmp_path):
    make_things(tmp_path)
    cases = {f"{name.replace(' ', '-')}.jpg": content for name, (content, _) in bombs().items()}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    needed = {name: peak_of_loading(tmp_path / name) for name in [*cases, "huge.jpg", "device.jpg"]}
    assert max(needed.values()) < 40 * MIB, needed


@pytest.mark.skipif(not FULL, reason="takes a gigabyte of memory")
@pytest.mark.parametrize("kind", ["baseline", "progressive", "RGBA", "palette"])
def test_the_largest_pictures_need_a_known_amount_of_memory(tmp_path, kind):
    sides = (9_459, 9_459)
    if kind == "RGBA":
        Image.new("RGBA", sides, (9, 9, 9, 9)).save(tmp_path / "a.png", compress_level=1)
    elif kind == "palette":
        Image.new("P", sides, 3).save(tmp_path / "a.png", transparency=3)
    else:
        Image.new("RGB", sides).save(tmp_path / "a.png", "JPEG", progressive=kind == "progressive")
    needed = peak_of_loading(tmp_path / "a.png")
    print(f"{kind}: {needed / MIB:.0f} MiB")
    assert needed < 1100 * MIB
