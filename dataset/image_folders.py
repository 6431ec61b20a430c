"""One walk of a folder of images: the files that are there, and what was left out.

Links to files and to folders are followed. A linked folder that the walk has already come through, or that contains
the folder itself, is not entered again; a folder's own subfolders are entered before the linked ones. Left out are
hidden files and folders (`.name`), folders of the system (`SYSTEM_FOLDERS`), and those that the caller names.
"""

import contextlib
import os
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dataset.decoding import ENDINGS, known_endings
from utils.errors import UserError

SYSTEM_FOLDERS = ("lost+found", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX")
"""Bins and thumbnails that file systems and storage devices keep among the files of their users."""

OTHER_IMAGES = (
    "3fr arw avci bpg cr2 cr3 crw cur dcm dcr dds dib djvu dng emf eps erf exr fit fits flif hdr icns ico iff iiq j2c"
    " j2k jls jng jp2 jpc jpf jpm jps jpx jxl jxr k25 kdc mef mng mrw nef nrw orf pam pbm pcx pef pfm pgm pic pict pnm"
    " ppm psb psd qoi raf ras raw rgb rle rw2 rwl sgi sr2 srf srw svg svgz targa tga wbmp wdp wmf x3f xbm xcf xpm"
)
VIDEOS = (
    "3g2 3gp amv asf avi divx dv f4v flv gifv h264 h265 hevc insv m1v m2ts m2v m4v mjpeg mkv mov mp4 mpe mpeg mpg mpv"
    " mts mxf ogm ogv qt rm rmvb vob webm wmv y4m"
)
LOOK_LIKE_IMAGES = frozenset(f".{ending}" for ending in f"{OTHER_IMAGES} {VIDEOS}".split())

LeaveOut = Callable[[Path, Collection[str]], bool]


@dataclass
class FolderOfImages:
    """What is below a folder; all paths start from it and have / between their parts.

    images: files that end as images do that can be read here, sorted; a link that leads nowhere is one of them.
    left_out: how many files of each other ending look like images or videos.
    folders_left_out: those of the system, and those that the caller named.
    unreachable: what is neither known to be a file nor a folder, and why.
    """

    images: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    folders_left_out: list[str] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)

    def describe_left_out(self, before: str = "") -> str:
        """`5 files of other kinds are left out: mp4 4, heic 1`, with `before` in front of it, or nothing."""
        if not self.left_out:
            return ""
        kinds = sorted(self.left_out.items(), key=lambda kind: (-kind[1], kind[0]))
        total, listed = (
            self.left_out.total(),
            ", ".join(f"{ending if ending.isprintable() else ascii(ending)} {count}" for ending, count in kinds),
        )
        hint = "; HEIC can be read with the package pillow-heif" if "heic" in self.left_out else ""
        plural = "files of other kinds are" if total > 1 else "file of another kind is"
        return f"{before}{total} {plural} left out: {listed}{hint}"


def walk_images(folder: str | os.PathLike, leave_out: LeaveOut = lambda path, names: False) -> FolderOfImages:
    """All images below `folder`. leave_out(path, names in it): whether a folder below it is not entered.

    Raises UserError when it is not a folder, or when one below it cannot be listed: what is in there is not known.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder of images")
    walk = _Walk(Path(folder), leave_out)
    walk.through("", linked=False)
    while walk.links:
        walk.through(walk.links.popleft(), linked=True)
    walk.found.images.sort()
    return walk.found


class _Walk:
    """The state of one walk."""

    def __init__(self, root: Path, leave_out: LeaveOut):
        self.root, self.leave_out = root, leave_out
        self.found, self.endings = FolderOfImages(), known_endings()
        self.links: deque[str] = deque()
        self.entered: set[tuple[int, int] | str] = set()
        for parent in Path(os.path.realpath(root)).parents:
            with contextlib.suppress(OSError):
                self.entered.add(_identity(parent))

    def through(self, start: str, linked: bool) -> None:
        """Look at all below one folder. linked: it, and what is below it, may have been entered under another name."""
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            try:
                identity = _identity(self.root / folder)
                if linked and identity in self.entered:
                    continue
                entries = list_folder(self.root / folder)
            except OSError as error:
                raise _cannot_list(self.root / folder, error) from None
            self.entered.add(identity)
            if folder and self.leave_out(self.root / folder, [entry.name for entry in entries]):
                self.found.folders_left_out.append(folder)
                continue
            inside = [self.look_at(entry, f"{folder}/{entry.name}" if folder else entry.name) for entry in entries]
            waiting += [path for path in reversed(inside) if path]

    def look_at(self, entry: os.DirEntry, path: str) -> str:
        """Note a file, or a link to a folder; the path of a folder that is to be entered next, else nothing."""
        ending = ending_of(entry.name)
        if entry.name in SYSTEM_FOLDERS:
            self.found.folders_left_out.append(path)
        if is_left_out(entry.name):
            return ""
        try:
            is_folder, is_link = entry.is_dir(), entry.is_symlink()
            if is_link and not is_folder and ending not in self.endings:
                entry.stat()
        except OSError as error:
            is_folder = is_link = False
            if ending not in self.endings:
                self.found.unreachable[path] = f"cannot be followed: {error.strerror or error}"
        if is_folder and not is_link:
            return path
        if is_folder:
            self.links.append(path)
        else:
            note_file(self.found, path, self.endings)
        return ""


def is_left_out(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or the system's own."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def ending_of(path: str) -> str:
    """How a file's name ends, in lower case, with its dot."""
    return os.path.splitext(path)[1].strip().lower()


def note_file(found: FolderOfImages, path: str, endings: Collection[str]) -> None:
    """Take a file for an image, or count it as left out, by how its name ends. endings: of images."""
    ending = ending_of(path)
    if ending in endings:
        found.images.append(path)
    elif looks_like_image(ending):
        found.left_out[ending[1:]] += 1


def looks_like_image(ending: str) -> bool:
    """Whether files that end so are pictures or videos; `.jpg_large`, `.png~` and `.webp?w=9` too."""
    plain = re.match(r"(\.[a-z0-9]+)[^a-z0-9]|", ending)
    names = {ending, plain[1] if plain else None}
    return not names.isdisjoint(LOOK_LIKE_IMAGES) or any(not names.isdisjoint(known) for known in ENDINGS.values())


def list_folder(folder: str | os.PathLike[str]) -> list[os.DirEntry]:
    """All that is in a folder, sorted by name. Raises OSError, also when the listing breaks off."""
    with os.scandir(os.fspath(folder)) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _identity(folder: str | os.PathLike) -> tuple[int, int] | str:
    """What tells a folder from others whatever it is called; its real path where the file system does not number."""
    status = os.stat(folder)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def _cannot_list(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"the folder {folder} cannot be listed: {error.strerror or error}; nothing was changed: is its disk there, and"
        " may you read it?"
    )


# ---- Unicode forms of names ------------------------------------------------------------


def composed(name: str) -> str:
    """A name in the form NFC: `ü` may also be written as `u` with a mark, as macOS does, and looks the same."""
    return unicodedata.normalize("NFC", name)


def names_by_form(names: Iterable[str]) -> dict[str, list[str]]:
    """Form NFC -> the names that look like it."""
    by_form: dict[str, list[str]] = {}
    for name in names:
        by_form.setdefault(composed(name), []).append(name)
    return by_form


def match_forms(names: Iterable[str], there: Collection[str]) -> Mapping[str, str]:
    """Name -> the only one that is `there` and differs from it in its Unicode form alone, for those that have one.

    Names that are there as they are written are not among them, nor are two names for the same one.
    """
    exact = set(there)
    absent = [name for name in names if name not in exact]
    if not absent:
        return {}
    by_form = names_by_form(there)
    forms = Counter(composed(name) for name in names)
    return {
        name: by_form[composed(name)][0]
        for name in absent
        if len(by_form.get(composed(name), ())) == 1 and forms[composed(name)] == 1
    }
