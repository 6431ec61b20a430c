"""Finds the images of a gallery in the folder that they were moved to: nothing is encoded again, metadata stay."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tqdm import tqdm

from dataset.decoding import Unusable
from dataset.digests import blake2_of
from search.files.images import ImageSource
from search.gallery.gallery import Gallery
from utils.errors import UserError
from utils.paths import is_text
from utils.text import agreeing, counted


@dataclass(frozen=True)
class Move:
    """How the images of a gallery are found in a folder.

    in_place: those with the same path and content; paths: new path by old one of those whose content is elsewhere;
    changed: those in whose place is another content; unreadable: path -> why what is in their place cannot be read;
    missing: those that are nowhere.
    """

    in_place: list[str]
    paths: dict[str, str]
    changed: list[str]
    unreadable: dict[str, str]
    missing: list[str]

    def __str__(self) -> str:
        elsewhere = f", {len(self.paths)} under another path" if self.paths else ""
        unreadable = f", {len(self.unreadable)} cannot be read" if self.unreadable else ""
        there, changed, missing = len(self.in_place) + len(self.paths), len(self.changed), len(self.missing)
        return (
            f"{counted(there, 'image')} {agreeing(there, 'is', 'are')} there{elsewhere}; {changed}"
            f" {agreeing(changed, 'has', 'have')} another content{unreadable}, {missing}"
            f" {agreeing(missing, 'is', 'are')} not found"
        )


def move_images(gallery: Gallery, images: ImageSource) -> Move:
    """Let a gallery's images be those of another place, each known by its path and the digest of its content.

    An image that is not at its path is found by its content, where no other image of the gallery has that path. What is
    not found, or has another content, stays as it is known: the next `index` decides.

    Raises UserError, before anything is changed, when a folder cannot be listed, or none of the images is there.
    """
    found = find_images(gallery, images)
    if len(gallery.records) and not (found.in_place or found.paths):
        raise UserError(
            f"none of the {len(gallery.records)} images of the gallery is below {images}; nothing was changed"
        )
    gallery.move(images, found.paths)
    return found


def find_images(gallery: Gallery, images: ImageSource) -> Move:
    """Compare the images of a gallery with the files of a place, all of which are read."""
    contents, faults = read_digests(images)
    known = {image.file: image.digest for image in gallery.records}
    in_place = {file for file in known.keys() & contents.keys() if contents[file] == known[file]}
    free = {file: contents[file] for file in sorted(contents.keys() - known.keys())}
    moved = match_paths({file: known[file] for file in sorted(known.keys() - in_place)}, free)
    found = Move([], {}, [], {}, [])
    for path in sorted(gallery.records.by_path):
        file = gallery.records.by_path[path].file
        if file in in_place:
            found.in_place.append(path)
        elif file in moved:
            found.paths[path] = moved[file] + path.removeprefix(file)
        elif file in faults:
            found.unreadable[path] = faults[file]
        else:
            (found.changed if file in contents else found.missing).append(path)
    return found


def match_paths(absent: Mapping[str, str], free: Mapping[str, str]) -> Mapping[str, str]:
    """New path by old one, each used once; absent and free: digest by path.

    Of files with the same content, the one whose path ends in most of the same names is meant.
    """
    found: dict[str, str] = {}
    left = dict(free)
    for names in range(max((path.count("/") + 1 for path in absent), default=0), -1, -1):
        there: dict[tuple[str, str], list[str]] = {}
        for path in sorted(left, reverse=True):
            there.setdefault((left[path], end_of(path, names)), []).append(path)
        for old in sorted(absent.keys() - found.keys()):
            if same := there.get((absent[old], end_of(old, names))):
                found[old] = same.pop()
                del left[found[old]]
    return found


def end_of(path: str, names: int) -> str:
    """The last so many names of a path; all of one that has fewer."""
    parts = path.split("/")
    return "/".join(parts[max(0, len(parts) - names) :])


def read_digests(images: ImageSource) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Digest by path of every image of a place that can be read, and why others cannot."""
    paths = [path for path in images.walk().images if is_text(path)]
    contents: dict[str, str] = {}
    faults: dict[str, str] = {}

    def read(path: str) -> None:
        try:
            contents[path] = blake2_of(images.read(path))
        except Unusable as fault:
            faults[path] = str(fault)

    with ThreadPoolExecutor(images.threads) as pool:
        for _ in tqdm(pool.map(read, paths), total=len(paths), desc="images", unit="image", disable=None):
            pass
    return contents, faults
