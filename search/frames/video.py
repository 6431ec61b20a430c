"""Writes frames of videos as images that `index` takes, with a table of what camera and second each is from."""

import csv
import io
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from utils.errors import UserError, one_line
from utils.files import atomic_write, read_json, require_writable_folder, write_json
from utils.paths import not_a_file
from utils.text import counted

ABOUT, TABLE = "video.json", "frames.csv"
QUALITY = 92  # of JPEG

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """A frame of a video. number: from 1, as MOT Challenge counts; second: from its beginning."""

    number: int
    second: float
    picture: Image.Image


def write_frames(videos: Sequence[Path], output: Path, every: float = 1.0) -> int:
    """Write one frame for every `every` seconds (0: all) of each video; returns how many there are.

    That of number 42 of hall.mp4 is OUTPUT/hall/000042.jpg, and OUTPUT/frames.csv has its camera (hall) and second.
    What is there already is not written again.

    Raises UserError, before anything is written, when a video cannot be opened or its folder is of another one.
    """
    if not math.isfinite(every) or every < 0:
        raise UserError(f"--every {every}: give seconds, or 0 for all frames")
    require_writable_folder(output, "--output")
    names = [video.stem for video in videos]
    for video in videos:
        if names.count(video.stem) > 1:
            raise UserError(f"two videos are called {video.stem}; their frames would have the same names")
        with_video(video).close()
        require_same_video(video, output / video.stem, every)
    rows: list[tuple[str, str, float]] = []
    for video in videos:
        rows += write_video(video, output / video.stem, every)
    write_table(rows, output / TABLE, set(names))
    return len(rows)


def write_video(video: Path, folder: Path, every: float) -> list[tuple[str, str, float]]:
    """Rows of frames.csv: image, camera, second. A video that is damaged gives what is before the damage."""
    write_json(folder / ABOUT, video_fingerprint(video, every))
    rows: list[tuple[str, str, float]] = []
    with tqdm(desc=video.name, unit="frame", disable=None) as bar:
        try:
            for frame in frames_of(video, every):
                path = folder / f"{frame.number:06d}.jpg"
                if not path.exists():
                    with atomic_write(path) as temporary:
                        frame.picture.save(temporary, "JPEG", quality=QUALITY)
                rows.append((f"{folder.name}/{path.name}", folder.name, round(frame.second, 3)))
                bar.update()
        except DamagedVideo as damage:
            logger.warning("%s is damaged after %s: %s", video, counted(len(rows), "frame"), damage)
    return rows


class DamagedVideo(Exception):
    """What a video holds from here on cannot be read."""


def frames_of(video: Path, every: float) -> Iterator[Frame]:
    """The first frame of every `every` seconds, upright. Raises DamagedVideo."""
    import av

    with with_video(video) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        start, due = None, 0.0
        try:
            for number, frame in enumerate(container.decode(stream), 1):
                start = frame.time if start is None else start
                second = (frame.time or 0.0) - (start or 0.0)
                if second + 1e-6 < due:
                    continue
                due = (math.floor(second / every + 1e-6) + 1) * every if every else 0.0
                yield Frame(number, second, upright(frame))
        except av.FFmpegError as error:
            raise DamagedVideo(one_line(str(error))) from None


def upright(frame: Any) -> Image.Image:
    """The picture of a frame, turned as the phone noted that filmed it."""
    picture, degrees = frame.to_image(), rotation_of(frame)
    return picture.rotate(degrees, expand=True) if degrees else picture


def rotation_of(frame: Any) -> int:
    """Degrees, counter-clockwise, by which a frame is to be turned."""
    return int(frame.rotation)


def with_video(video: Path) -> Any:
    """A video to read. Raises UserError."""
    try:
        import av
    except ImportError:
        raise UserError("reading videos needs the package av: pip install av") from None
    if not video.is_file():
        raise UserError(f"{video} {not_a_file(video)}; name a video")
    try:
        container = av.open(str(video))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{video} cannot be read as a video: {one_line(str(error))}") from None
    if not container.streams.video:
        container.close()
        raise UserError(f"{video} has no pictures, sound alone")
    return container


def video_fingerprint(video: Path, every: float) -> dict[str, Any]:
    """What tells whether frames are of a video, taken at the same times."""
    return {"video": video.name, "bytes": video.stat().st_size, "every": every}


def require_same_video(video: Path, folder: Path, every: float) -> None:
    """Raises UserError when a folder holds something else than frames of this video."""
    about = folder / ABOUT
    if not folder.exists():
        return
    if not about.is_file() or read_json(about, "file about a video") != video_fingerprint(video, every):
        raise UserError(f"{folder} holds something else than these frames of {video}; name another --output")


def write_table(rows: Sequence[tuple[str, str, float]], path: Path, names: set[str]) -> None:
    """frames.csv, in which rows of other videos stay."""
    others: list[list[str]] = []
    if path.is_file():
        with open(path, encoding="utf-8", newline="") as file:
            others = [row for row in list(csv.reader(file))[1:] if len(row) == 3 and row[1] not in names]
    content = io.StringIO(newline="")
    writer = csv.writer(content)
    writer.writerow(["image", "camera", "second"])
    writer.writerows([*others, *rows])
    with atomic_write(path) as temporary:
        temporary.write_text(content.getvalue(), encoding="utf-8", newline="")
