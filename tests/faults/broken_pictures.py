"""Image files that are refused, and ways to damage good ones."""

import struct
import zlib

import numpy as np
from pictures import COLOURS, GREY, chunk, cmyk_jpeg, png, png_header, saved, tiff, without_adobe
from PIL import Image

# ---- refused ---------------------------------------------------------------------------


def patched(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


def bombs() -> dict[str, tuple[bytes, str]]:
    """Small files that announce huge pictures; name -> (content, part of the message)."""
    jpeg, gif, bmp = (saved(COLOURS, kind) for kind in ("JPEG", "GIF", "BMP"))
    webp = saved(COLOURS, "WEBP", lossless=True)
    lossless_size = (16382 | 16382 << 14).to_bytes(4, "little")  # 14 bits each, less one
    idat = chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")
    text = zlib.compress(bytes(200_000_000), 9)
    return {
        "PNG of 400 million pixels": (png_header(20_000, 20_000, 1, 0) + idat, "pixels"),
        "PNG of 100 million pixels": (png_header(10_000, 10_000, 8, 2) + idat, "10000 x 10000 pixels"),
        "PNG just above the limit": (png_header(9_460, 9_459, 8, 2) + idat, "9460 x 9459 pixels, more than 89,478,485"),
        "PNG of one long row": (png_header(65_536, 1, 8, 0) + idat, "a side of 65536 pixels"),
        "JPEG": (patched(jpeg, jpeg.index(b"\xff\xc0") + 5, b"\xff\xdc\xff\xdc"), "pixels"),
        "GIF": (patched(gif, 6, b"\xff\xff\xff\xff"), "pixels"),
        "BMP": (patched(bmp, 18, struct.pack("<ii", 60_000, 60_000)), "pixels"),
        "TIFF": (tiff(b"\0" * 999, 8, 1, 1, shape=(65_000, 65_000)), "pixels"),
        "WebP": (patched(webp, 21, lossless_size), ""),
        "PNG text": (png(COLOURS, 8, 2, chunk(b"zTXt", b"Comment\0\0" + text)), "damaged"),
        "PNG profile": (png(COLOURS, 8, 2, chunk(b"iCCP", b"profile\0\0" + text)), "damaged"),
    }


def refused_contents() -> dict[str, tuple[bytes, str]]:
    """Name -> (content of a file that is no usable image, part of the message)."""
    jpeg, frames = saved(COLOURS, "JPEG"), [Image.fromarray(255 - COLOURS), Image.fromarray(COLOURS // 2)]
    many = {"save_all": True, "append_images": frames}
    floats, words = GREY.astype("<f4") / 255, GREY.astype("<u2") * 257
    gif, webp = saved(COLOURS, "GIF"), saved(COLOURS, "WEBP")
    return {
        "empty": (b"", "is no image: the file is empty"),
        "text": (b"Not an image but a note.\n", "is no image of a known format"),
        "zeros": (bytes(5000), "is no image"),
        "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", "is no image"),
        "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is no image"),
        "PostScript": (saved(COLOURS, "EPS"), "is no image of a known format"),
        "JPEG 2000": (saved(COLOURS, "JPEG2000"), "is no image of a known format"),
        "portable pixmap": (saved(COLOURS, "PPM"), "is no image of a known format"),
        "Radiance": (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2 +X 2\n" + bytes(16), "is no image"),
        "zip": (b"PK\3\4" + bytes(60), "is no image"),
        "PNG of width 0": (png_header(0, 5, 8, 2) + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "is no image"),
        "JPEG of height 0": (patched(jpeg, jpeg.index(b"\xff\xc0") + 5, b"\0\0"), "is no image"),
        "GIF of width 0": (patched(gif, gif.index(b"\x2c") + 5, b"\0\0"), ""),
        "animated GIF": (saved(COLOURS, "GIF", **many), "holds 3 pictures"),
        "animated WebP": (saved(COLOURS, "WEBP", **many), "holds 3 pictures"),
        "animated PNG": (saved(COLOURS, "PNG", **many), "holds 3 pictures"),
        "PNG with a picture beside its animation": (saved(COLOURS, "PNG", default_image=True, **many), "holds"),
        "TIFF of three pages": (saved(COLOURS, "TIFF", **many), "holds 3 pictures"),
        "GIF smaller than its canvas": (patched(gif, 6, struct.pack("<HH", 40, 40)), "does not fill its canvas"),
        "TIFF of floats": (tiff(floats.tobytes(), 32, 1, 1, t339=[3]), "pixels of kind F"),
        "TIFF of signed integers": (tiff(words.tobytes(), 16, 1, 1, t339=[2]), "pixels of kind I"),
        "TIFF of 32 bits": (tiff(GREY.astype("<u4").tobytes(), 32, 1, 1), "pixels of kind I"),
        "TIFF in Lab": (tiff(COLOURS.tobytes(), 8, 3, 8), "pixels of kind LAB"),
        "TIFF 16, 0 is white": (tiff(words.tobytes(), 16, 1, 0), "0 is white"),
        "CMYK without Adobe": (without_adobe(cmyk_jpeg(np.zeros((8, 8, 4), np.uint8), 0)), "no Adobe marker"),
        "PNG 16, transparent colour": (
            png(words[..., None], 16, 0, chunk(b"tRNS", struct.pack(">H", words[0, 0]))),
            "transparent colour of 16",
        ),
        "PNG 4, transparent colour": (
            png(GREY[..., None] // 16, 4, 0, chunk(b"tRNS", struct.pack(">H", 3))),
            "transparent colour of 4",
        ),
        "HDR PNG": (png(COLOURS, 8, 2, chunk(b"cICP", bytes([9, 16, 0, 1]))), "HDR"),
        "PNG with a wrong checksum": (
            png(COLOURS, 8, 2).replace(chunk(b"IEND", b"")[-4:], b"\1\2\3\4"),
            "checksum of its IEND chunk",
        ),
        "PNG without end": (png(COLOURS, 8, 2)[:-12], "is truncated"),
        "JPEG without end": (jpeg[:-2], "is truncated: it has no end marker"),
        "JPEG with zeros for its end": (jpeg[:-40] + bytes(40), "is truncated: it has no end marker"),
        "half a JPEG": (jpeg[: len(jpeg) // 2], "runcated"),
        "half a WebP": (webp[: len(webp) // 2], "is "),
    }


# ---- damage ----------------------------------------------------------------------------

DAMAGES = ("cut", "flip", "zeros to the end", "hole of zeros", "noise", "lost bytes", "doubled bytes", "swapped halves")


def damage(kind: str, content: bytes, random: np.random.Generator) -> bytes:
    """The bytes after an accident, at a random place."""
    first, last = sorted(random.integers(0, len(content), 2).tolist())
    few = slice(first, min(first + 1 + int(random.integers(64)), len(content)))
    found = bytearray(content)
    if kind == "cut":
        del found[first:]
    elif kind == "flip":
        found[first] ^= 1 << int(random.integers(8))
    elif kind == "zeros to the end":
        found[first:] = bytes(len(content) - first)
    elif kind == "hole of zeros":
        found[few] = bytes(len(found[few]))
    elif kind == "noise":
        found[few] = random.bytes(len(found[few]))
    elif kind == "lost bytes":
        del found[few]
    elif kind == "doubled bytes":
        found[few] = found[few] * 2
    else:
        found = found[last:] + found[first:last] + found[:first]
    return bytes(found)
