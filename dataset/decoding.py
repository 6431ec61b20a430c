"""Bytes of an image file to the picture that a viewer shows, or the reason why there is none.

Preparation, training, evaluation and search all decide here what a usable image is. One picture
per file: animations and documents of several pages are refused, of a phone's MPO the first picture
counts. Colour profiles are not applied.
"""

import functools
import importlib
import io
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from PIL import Image, ImageFile, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile

ENDINGS: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif", ".heics", ".heifs"),
}
"""Formats whose decoders notice that a file was cut off, and how their files end, the usual ending first.

A phone's MPO is opened as JPEG. `known_formats` says which of them can be read here.
"""

LARGEST_FILE = 2**28
"""Bytes; a larger file is not read."""

LARGEST_PICTURE = 89_478_485
"""Pixels; from here on Pillow warns of decompression bombs. A larger picture is not decoded."""

LARGEST_SIDE = 65_535
"""Pixels, as in JPEG; resizing needs memory by the length of a side, whatever the other one is."""

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16L", "I;16B")
"""Kinds of pixels with a known black and white, unlike floats and integers of 32 bits."""

STRUCTURED = ("JPEG", "MPO", "PNG")
"""Formats whose completeness shows without decoding."""

START_OF_SCAN = 0xDA
END_OF_IMAGE = b"\xff\xd9"
ORIENTATION = 0x0112
HDR_CURVES = (16, 18)  # PQ and HLG, as PNG, AVIF and HEIF number them: shown as if they were sRGB, they are dull
HDR = "has the brightness curve of an HDR screen"

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unusable(ValueError):
    """Why a file is no usable image, as the rest of a sentence that begins with its name."""


class Unreadable(Unusable):
    """The system did not hand out the file, now: nothing is known of what is in it."""


@functools.cache
def known_formats() -> tuple[str, ...]:
    """The formats that can be read here: AVIF where Pillow was built with it, HEIF with the package pillow-heif."""
    missing = set() if features.check("avif") else {"AVIF"}
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except (ImportError, OSError):
        missing.add("HEIF")
    return tuple(name for name in ENDINGS if name not in missing)


def load_decoders() -> None:
    """Load all decoders, before several threads do so at once."""
    Image.init()
    known_formats()


def known_endings() -> frozenset[str]:
    """How image files end that can be read here, in lower case, with their dot."""
    return frozenset(ending for name in known_formats() for ending in ENDINGS[name])


def usual_ending(image_format: str | None) -> str:
    """The ending for a file of a format that Pillow names."""
    return ENDINGS["JPEG" if image_format == "MPO" else image_format or ""][0]


def read_content(path: str | os.PathLike) -> bytes:
    """The bytes of an image file. Raises Unusable when it is no ordinary file or too large, Unreadable when it cannot
    be read or is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for its writer
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unusable("is a folder" if stat.S_ISDIR(status.st_mode) else "is a pipe or device, not a file")
            if status.st_size > LARGEST_FILE:
                raise Unusable(f"has {status.st_size:,} bytes, more than {LARGEST_FILE:,}")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise Unreadable("does not exist") from None
    except UnicodeEncodeError as error:
        raise Unreadable(f"has a name that {error.encoding} has no letters for; set PYTHONUTF8=1") from None
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from None


def decode(content: bytes) -> Image.Image:
    """The picture in the bytes of a file: RGB, upright. Raises Unusable."""
    with explained():
        return as_rgb(examine(content))


def image_fault(content: bytes, full: bool = False) -> str | None:
    """Why the bytes of a file are no usable image, or None.

    `full` decodes as training does. Otherwise a PNG needs right checksums to its end, a JPEG its
    end marker after the start of its scan, and only other formats are decoded: whatever that
    refuses, `full` refuses too, which also finds damage within the coded pixels of those two.
    """
    try:
        with explained():
            image = examine(content)
            if full or image.format not in STRUCTURED:
                as_rgb(image)
    except Unusable as fault:
        return str(fault)
    return None


@contextmanager
def explained() -> Iterator[None]:
    """Whatever a decoder raises, as Unusable."""
    try:
        yield
    except Unusable:
        raise
    except UnidentifiedImageError:
        known = ", ".join(known_formats())
        raise Unusable(f"is no image of a known format ({known}), or is cut off in its header") from None
    except Image.DecompressionBombError:
        raise Unusable(f"has far more than {LARGEST_PICTURE:,} pixels") from None
    except Exception as error:  # broken files make decoders raise nearly any type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Unusable(f"is damaged: {reason}") from None


def examine(content: bytes) -> Image.Image:
    """The opened picture, checked in all that shows before decoding.

    Raises Unusable, and whatever Pillow raises for a broken header.
    """
    if not content:
        raise Unusable("is no image: the file is empty")
    # a switch for the whole program: where another library turned it on, what was cut off would be grey
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    if content[8:12] == b"WEBP" and (fault := _size_fault(_webp_size(content))):
        raise Unusable(fault)  # Pillow asks for the memory of the whole picture before it tells the size
    image = Image.open(io.BytesIO(content), formats=known_formats())
    fault = _size_fault(image.size) or _frame_fault(image) or _kind_fault(image)
    if fault is None and image.format in STRUCTURED:
        fault = _png_fault(content) if image.format == "PNG" else _jpeg_fault(content)
    if fault is None and image.format in ("AVIF", "HEIF"):
        fault = _curve_fault(content)
    if fault:
        raise Unusable(fault)
    return image


def as_rgb(image: Image.Image) -> Image.Image:
    """RGB of any picture, upright: turned as its EXIF says, 16-bit grey scaled, transparency over white."""
    image.load()
    image = _upright(image)
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        paper = Image.new("RGB", image.size, "white")
        paper.paste(image, mask=image)
        return paper
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says; EXIF that cannot be read says nothing, as in a viewer."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # its parser raises nearly any type
        turn = None
    return image if turn is None else image.transpose(turn)


def _size_fault(size: tuple[int, int]) -> str | None:
    """A picture of too many pixels, or too long a side; size: width and height."""
    width, height = size
    if width * height > LARGEST_PICTURE:
        return f"has {width} x {height} pixels, more than {LARGEST_PICTURE:,}"
    if max(size) > LARGEST_SIDE:
        return f"has a side of {max(size)} pixels, more than {LARGEST_SIDE:,}"
    return None


def _webp_size(content: bytes) -> tuple[int, int]:
    """Width and height that the first chunk of a WebP file announces; (0, 0) where it announces none."""
    kind, data = content[12:16], content[20:30].ljust(10, b"\0")
    if kind == b"VP8X":  # a canvas: 24 bits each, less one
        return 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
    if kind == b"VP8L":  # 14 bits each, less one, after a byte
        bits = int.from_bytes(data[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":  # 14 bits of 16 each, after tag and start code
        return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF
    return 0, 0


def _frame_fault(image: Image.Image) -> str | None:
    """More than one picture, or one that does not fill its canvas (what is around it, viewers show unlike Pillow)."""
    if getattr(image, "is_animated", False) and image.format != "MPO":
        return f"holds {getattr(image, 'n_frames', 2)} pictures (an animation or several pages), not one"
    if (
        isinstance(image, ImageFile.ImageFile)
        and image.format == "GIF"
        and image.tile[0].extents != (0, 0, *image.size)
    ):
        return "is a GIF whose picture does not fill its canvas"
    return None


def _kind_fault(image: Image.Image) -> str | None:
    """Pixels whose black and white nobody knows, or that Pillow would show inverted."""
    if image.mode not in MODES:
        return f"has pixels of kind {image.mode}, which have no fixed black and white"
    if isinstance(image, TiffImageFile) and image.mode.startswith("I;16") and image.tag_v2.get(262) == 0:
        return "is a TIFF of 16 bits in which 0 is white"
    if image.mode == "CMYK" and image.format in STRUCTURED and "adobe" not in image.info:
        return "is a CMYK JPEG that does not say whether 0 is ink or paper (no Adobe marker)"
    return None


def _png_fault(content: bytes) -> str | None:
    """The first wrong checksum of a PNG, a missing end, or a chunk that Pillow would misread."""
    depth, colour = content[24], content[25]
    view, position = memoryview(content), 8
    while position + 12 <= len(content):
        end = position + 12 + int.from_bytes(view[position : position + 4], "big")
        kind = bytes(view[position + 4 : position + 8])
        if end > len(content):
            break
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return f"is damaged: the checksum of its {kind.decode('latin-1')} chunk is wrong"
        if kind == b"IEND":
            return None
        if kind == b"tRNS" and colour in (0, 2) and depth != 8:
            return f"has a transparent colour of {depth} bits"
        if kind == b"cICP" and content[position + 9] in HDR_CURVES:
            return HDR
        position = end
    return "is truncated: it ends before its last chunk"


def _curve_fault(content: bytes) -> str | None:
    """An AVIF or HEIF whose colour box (ISO 23091-2: primaries, curve, matrix) names a curve of HDR."""
    box = content.find(b"colrnclx")
    return HDR if box >= 0 and int.from_bytes(content[box + 10 : box + 12], "big") in HDR_CURVES else None


def _jpeg_fault(content: bytes) -> str | None:
    """Zeros in place of the end of a file would decode without an error."""
    return None if has_jpeg_end(content) else "is truncated: it has no end marker"


def has_jpeg_end(content: bytes) -> bool:
    """Whether an end marker follows the first scan, thumbnails in the header left out."""
    position = 2
    while 0 <= position <= len(content) - 4:
        marker = content[position + 1]
        if content[position] != 0xFF or marker == 0xFF:  # between segments, or a fill byte
            position = content.find(b"\xff", position + 1)
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # these have no length
            position += 2
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
            if marker == START_OF_SCAN:
                return content.rfind(END_OF_IMAGE, position) >= 0
    return False
