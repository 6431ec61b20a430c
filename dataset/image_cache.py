"""Decoded and resized training images in one file, so that they are decoded once for many epochs and runs.

A file holds all images of a training set, by number, as `load_image` makes them: the same pixels as without it. It is
written once under another name, moved to its own when it is whole, and never changed. What it was made of (names, sizes
and times of the image files, digests where they are known, the size of images, the versions of the decoders) is its
identity; a file of another identity is not used, but replaced.

Layout: a line of JSON padded to PAGE bytes; a checksum of 8 bytes for each image; from the next PAGE on the images,
each padded to a multiple of 8 bytes.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import features
from torch import Tensor
from tqdm import tqdm

from dataset.annotations import Entry
from dataset.decoding import known_formats, load_decoders
from dataset.image_files import normal_path
from dataset.images import Resampling, load_image
from utils.errors import UserError
from utils.files import atomic_write, remove_leftovers, require_writable_folder
from utils.locks import locked
from utils.memory import GIB
from utils.processes.parallel import available_cores

FORMAT = 1  # raised when the layout changes, or what `load_image` makes of a file
PAGE = 4096
LIBRARIES = ("jpg", "libjpeg_turbo", "zlib", "webp", "libtiff")  # that decode, beside Pillow itself

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Image files below a folder, and the (height, width) that they are resized to, and how.

    digests: of image files by normalised name; a file with another one is refused.
    """

    root: Path
    images: Sequence[str]
    size: tuple[int, int]
    digests: Mapping[str, str]
    resampling: Resampling = "bicubic"

    def load(self, number: int) -> Tensor:
        """An image, uint8 [3, H, W], decoded from its file. Raises UserError as `load_image`."""
        name = self.images[number]
        return load_image(self.root / name, self.size, self.digests.get(normal_path(name)), self.resampling)

    def name(self) -> str:
        """One for these files at this size, whatever is in them."""
        how = [] if self.resampling == "bicubic" else [self.resampling]  # caches of earlier versions name none
        return digest([os.path.realpath(self.root), list(self.images), self.size, *how])

    def identity(self) -> str:
        """Changes when a file, its digest, or what decodes it does. Raises UserError when a file is not there."""
        with ThreadPoolExecutor(min(16, 4 * available_cores())) as pool:
            files = list(pool.map(self.state, self.images))
        return digest([FORMAT, versions(), self.name(), files])

    def state(self, image: str) -> list[int | str | None]:
        """What tells whether a file is as it was; its time of change is set by whatever replaces or writes it."""
        try:
            found = os.stat(self.root / image)
        except OSError as error:
            raise UserError(f"image {self.root / image} cannot be read: {error.strerror or error}") from None
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, self.digests.get(normal_path(image))]


def images_of(entries: Iterable[Entry]) -> list[str]:
    """The images of annotations, each once, in order of appearance."""
    return list(dict.fromkeys(entry.image for entry in entries))


class ImageCache:
    """The images of a source from its file, by number. Processes that it is sent to open the file themselves.

    path: of the file, which holds `count` images of `size`, and whose identity was that of the source.
    """

    def __init__(self, path: Path, identity: str, count: int, size: tuple[int, int]):
        self.path, self.identity, self.count, self.size = path, identity, count, size
        self.bytes = 3 * size[0] * size[1]
        self.step = round_up(self.bytes, 8)
        self.first = PAGE + round_up(8 * self.count, PAGE)

    def __getstate__(self) -> dict[str, object]:
        return {name: part for name, part in vars(self).items() if name != "opened"}

    @functools.cached_property
    def opened(self) -> tuple[int, np.ndarray]:
        """The file, open as long as this process lives, and the checksums. Raises UserError when it is another one."""
        try:
            file = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"image cache {self.path} cannot be read: {error.strerror or error}") from None
        if not self.is_in(file):
            os.close(file)
            raise UserError(f"image cache {self.path} was replaced while this run started; start it again")
        return file, np.frombuffer(os.pread(file, 8 * self.count, PAGE), dtype=np.uint64)

    def is_there(self) -> bool:
        """Whether the file is there, whole, and of this identity."""
        try:
            file = os.open(self.path, os.O_RDONLY)
        except OSError:
            return False
        try:
            return self.is_in(file)
        finally:
            os.close(file)

    def is_in(self, file: int) -> bool:
        """Whether an open file is this one, and whole."""
        try:
            whole = os.fstat(file).st_size == self.total
            return whole and os.pread(file, PAGE, 0) == self.header()
        except OSError:
            return False

    @property
    def total(self) -> int:
        """Bytes of the whole file."""
        return self.first + self.count * self.step

    def offset(self, number: int) -> int:
        """Where an image begins, which numpy's short integers have no room for."""
        return self.first + int(number) * self.step

    def header(self) -> bytes:
        """The first PAGE bytes."""
        content = {"format": FORMAT, "identity": self.identity, "images": self.count, "size": self.size}
        return json.dumps({"person-search image cache": content}).encode().ljust(PAGE - 1) + b"\n"

    def load(self, number: int) -> Tensor:
        """An image, uint8 [3, H, W]. Raises UserError when the file cannot be read, or is damaged there.

        Read, not mapped into memory: where a disk fails, a mapped page ends the process without a word.
        """
        file, checksums = self.opened
        content = bytearray(self.step)
        try:
            read = os.preadv(file, [content], self.offset(number))
        except OSError as error:
            raise UserError(f"image cache {self.path} cannot be read: {error.strerror or error}") from None
        pixels = np.frombuffer(content, np.uint8)
        if read != self.step or checksum(pixels) != checksums[number]:
            raise UserError(f"image cache {self.path} is damaged; delete it, and it is made again")
        return torch.from_numpy(pixels[: self.bytes].reshape(3, *self.size))

    # ---- making ----

    def make(self, source: Source) -> None:
        """Decode all images of a source into the file. Raises UserError when one is unusable, or the disk is full."""
        logger.info("decoding %d images into the image cache %s (%s)", self.count, self.path, in_gib(self.total))
        require_room(self.path, self.total)
        with atomic_write(self.path) as temporary, open(temporary, "wb") as opened:
            file = opened.fileno()
            with decoding_threads() as pool:
                found = pool.map(functools.partial(self.write, file, source), range(self.count))
                sums = list(tqdm(found, total=self.count, desc="image cache", unit="image"))
            write_all(file, np.array(sums, np.uint64).tobytes().ljust(self.first - PAGE, b"\0"), PAGE)
            write_all(file, self.header(), 0)

    def write(self, file: int, source: Source, number: int) -> np.uint64:
        """Decode an image into an open file. Returns its checksum."""
        pixels = np.zeros(self.step, np.uint8)
        pixels[: self.bytes] = source.load(number).numpy().reshape(-1)
        write_all(file, pixels.tobytes(), self.offset(number))
        return checksum(pixels)


def open_image_cache(folder: str | os.PathLike, source: Source) -> ImageCache:
    """The images of a source from their file in `folder`, which is made, once for all processes that ask, if need be.

    Raises UserError when an image is unusable, or the folder cannot be written or has no room.
    """
    path = Path(folder) / f"{source.name()}.images"
    cache = ImageCache(path, source.identity(), len(source.images), source.size)
    if cache.is_there():  # perhaps in a folder of others, which this process may not write to
        return cache
    require_writable_folder(folder, "image_cache", ", or leave it out to decode images in every epoch")
    with locked(cache.path.with_suffix(".lock"), f"image cache {cache.path}", "", wait=True):
        if not cache.is_there():
            if cache.path.exists():
                logger.info("image cache %s is of images as they were, or damaged: it is made again", cache.path)
            remove_leftovers(folder)
            cache.make(source)
    return cache


def require_room(path: Path, size: int) -> None:
    """Raises UserError when a disk has no room for a file of so many bytes."""
    free = shutil.disk_usage(path.parent).free
    if free < size:
        old = f", delete {path.name} there, which is out of date" if path.exists() else ""
        raise UserError(
            f"image_cache {path.parent}: the images take {in_gib(size)} and {in_gib(free)} are free; free space"
            f" there{old}, name another folder, or leave image_cache out to decode images in every epoch"
        )


@contextlib.contextmanager
def decoding_threads() -> Iterator[ThreadPoolExecutor]:
    """A thread for each core; when something fails, what they have not begun is dropped."""
    load_decoders()
    pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="image cache")
    with warnings.catch_warnings():  # threads that ignore warnings leave them as the last one found them
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def write_all(file: int, content: bytes, offset: int) -> None:
    """Write all of the bytes into an open file, from `offset` on."""
    left = memoryview(content)
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written


def checksum(pixels: np.ndarray) -> np.uint64:
    """The sum of all words of 8 bytes, which any one changed bit changes."""
    return np.add.reduce(pixels.view(np.uint64))


def versions() -> dict[str, str | None]:
    """Of all that turns a file into pixels."""
    found = {name: features.version(name) for name in LIBRARIES} | {"Pillow": PIL.__version__}
    with contextlib.suppress(metadata.PackageNotFoundError):
        found["pillow-heif"] = metadata.version("pillow-heif")
    return found | {"formats": " ".join(known_formats())}


def digest(value: object) -> str:
    """32 hexadecimal digits that tell values of JSON apart."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def in_gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
