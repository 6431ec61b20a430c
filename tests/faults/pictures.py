"""Image files of every kind that somebody meets, with the picture that a viewer shows for each.

The picture is known beforehand: blocks of plain colours, drawn here with numpy. PNG and TIFF are written
here too, byte by byte, so that Pillow is not checked against itself where it is easily wrong.
"""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 16
BLOCKS = [[(220, 30, 40), (30, 200, 60)], [(40, 60, 210), (200, 120, 40)], [(240, 240, 240), (20, 20, 60)]]
COLOURS = np.kron(np.array(BLOCKS), np.ones((8, 8, 1))).astype(np.uint8)  # [HEIGHT, WIDTH, 3]; JPEG has blocks of 8
GREY = COLOURS[..., 1]  # [HEIGHT, WIDTH]
RANDOM = np.random.default_rng(0)


@dataclass(frozen=True)
class Picture:
    """A file's bytes, what a viewer shows [HEIGHT, WIDTH, 3], and how far an honest decoder may be from it."""

    content: bytes
    shown: np.ndarray
    tolerance: float = 1.5


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """rgb [H, W, 3] of 0..255 seen through alpha [H, W] of 0..1 on white paper."""
    return rgb * alpha[..., None] + 255 * (1 - alpha[..., None])


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey, float)[..., None], 3, -1)


def stored(orientation: int, picture: np.ndarray) -> np.ndarray:
    """The picture as it lies in a file with this orientation.

    EXIF 2.3, section 4.6.4: which sides the first row and the first column of the file are, from 1 on
    top left, top right, bottom right, bottom left, left top, right top, right bottom, left bottom.
    """
    if orientation >= 5:  # rows of the file are columns of the picture
        picture = picture.swapaxes(0, 1)
    rows, columns = orientation in (3, 4, 6, 7), orientation in (2, 3, 7, 8)
    return picture[:: -1 if rows else 1, :: -1 if columns else 1]


def saved(picture: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    """Encoded by Pillow."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.ascontiguousarray(picture))
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


# ---- PNG -------------------------------------------------------------------------------

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, bits: int, colour: int, interlaced: bool = False) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))


def packed_rows(samples: np.ndarray, bits: int) -> bytes:
    """samples [H, W, C] as rows of a PNG without filter."""
    rows = []
    for row in samples.reshape(len(samples), -1):
        if bits >= 8:
            rows.append(b"\0" + row.astype(f">u{bits // 8}").tobytes())
        else:
            digits = row[:, None] >> np.arange(bits - 1, -1, -1) & 1
            rows.append(b"\0" + np.packbits(digits.astype(np.uint8)).tobytes())
    return b"".join(rows)


def png(samples: np.ndarray, bits: int, colour: int, before: bytes = b"", interlaced: bool = False) -> bytes:
    """samples [H, W, C] of 0 .. 2^bits - 1; `before`: chunks that stand before the pixels."""
    height, width = samples.shape[:2]
    passes = [samples[y::down, x::right] for y, x, down, right in ADAM7] if interlaced else [samples]
    data = zlib.compress(b"".join(packed_rows(part, bits) for part in passes if part.size))
    return png_header(width, height, bits, colour, interlaced) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def png_pictures() -> dict[str, Picture]:
    """Every kind of pixel that the format has."""
    found = {}
    for bits in (1, 2, 4, 8, 16):
        most = 2**bits - 1
        grey = np.rint(GREY / 255 * most).astype(int)[..., None]
        found[f"PNG grey {bits}"] = Picture(png(grey, bits, 0), three(grey[..., 0] / most * 255))
        if bits < 16:
            palette = RANDOM.integers(0, 256, (most + 1, 3))
            alpha = RANDOM.integers(0, 256, most + 1)
            entries = chunk(b"PLTE", palette.astype(np.uint8).tobytes())
            opacity = chunk(b"tRNS", alpha.astype(np.uint8).tobytes())
            places = RANDOM.integers(0, most + 1, (HEIGHT, WIDTH, 1))
            colours, seen = palette[places[..., 0]], alpha[places[..., 0]] / 255
            found[f"PNG palette {bits}"] = Picture(png(places, bits, 3, entries), colours)
            found[f"PNG palette {bits} transparent"] = Picture(
                png(places, bits, 3, entries + opacity), over_white(colours, seen)
            )
        if bits >= 8:
            fine = RANDOM.integers(0, most + 1, (HEIGHT, WIDTH, 4))
            shown = fine / most * 255
            found[f"PNG colour {bits}"] = Picture(png(fine[..., :3], bits, 2), shown[..., :3])
            found[f"PNG colour and alpha {bits}"] = Picture(
                png(fine, bits, 6), over_white(shown[..., :3], shown[..., 3] / 255), 2
            )
            found[f"PNG grey and alpha {bits}"] = Picture(
                png(fine[..., 2:], bits, 4), over_white(three(shown[..., 2]), shown[..., 3] / 255), 2
            )
    found["PNG interlaced"] = Picture(png(COLOURS, 8, 2, interlaced=True), COLOURS)
    key = np.equal(GREY, GREY[0, 0])
    transparent = chunk(b"tRNS", struct.pack(">H", GREY[0, 0]))
    found["PNG transparent grey"] = Picture(png(GREY[..., None], 8, 0, transparent), over_white(three(GREY), ~key))
    transparent = chunk(b"tRNS", struct.pack(">HHH", *BLOCKS[0][0]))
    found["PNG transparent colour"] = Picture(png(COLOURS, 8, 2, transparent), over_white(COLOURS, ~key))
    for name, extra in {
        "broken profile": chunk(b"iCCP", b"profile\0\0" + b"no zlib stream"),
        "profile of nonsense": chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"nonsense")),
        "long text": chunk(b"tEXt", b"Comment\0" + b"x" * 900_000),
        "unknown chunk": chunk(b"zzZz", b"whatever"),
        "broken EXIF": chunk(b"eXIf", b"nonsense"),
        "EXIF that is cut off": chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    }.items():
        found[f"PNG with {name}"] = Picture(png(COLOURS, 8, 2, extra), COLOURS)
    return found


# ---- TIFF ------------------------------------------------------------------------------

SHORT, LONG = 3, 4


def tiff(
    data: bytes, bits: int, samples: int, photometric: int, order: str = "<", shape=(HEIGHT, WIDTH), **more
) -> bytes:
    """One uncompressed strip; `more`: further tags such as t339=[3], all of 16-bit integers."""
    tags = {
        256: (SHORT, [shape[1]]),
        257: (SHORT, [shape[0]]),
        258: (SHORT, [bits] * samples),
        259: (SHORT, [1]),
        262: (SHORT, [photometric]),
        273: (LONG, [0]),
        277: (SHORT, [samples]),
        278: (SHORT, [shape[0]]),
        279: (LONG, [len(data)]),
        **{int(tag[1:]): (SHORT, values) for tag, values in more.items()},
    }
    blob_at, blob, fields = 8 + 2 + 12 * len(tags) + 4, b"", {}
    for tag, (kind, values) in sorted(tags.items()):
        value = struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values)
        if len(value) > 4:
            value, blob = struct.pack(order + "I", blob_at + len(blob)), blob + value
        fields[tag] = struct.pack(order + "HHI", tag, kind, len(values)) + value.ljust(4, b"\0")
    fields[273] = fields[273][:8] + struct.pack(order + "I", blob_at + len(blob))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return head + b"".join(fields.values()) + struct.pack(order + "I", 0) + blob + data


def tiff_pictures() -> dict[str, Picture]:
    found = {}
    for order in "<>":
        wide = RANDOM.integers(0, 2**16, (HEIGHT, WIDTH, 4))
        words, octets = wide.astype(order + "u2"), (wide // 257).astype(np.uint8)
        fine, ink = wide / 257, octets / 255
        alpha = ink[..., 3]
        bits = np.packbits((GREY > 128).astype(np.uint8), axis=1).tobytes()
        found |= {
            f"TIFF {order} grey": Picture(tiff(GREY.tobytes(), 8, 1, 1, order), three(GREY)),
            f"TIFF {order} grey, 0 is white": Picture(tiff((255 - GREY).tobytes(), 8, 1, 0, order), three(GREY)),
            f"TIFF {order} black": Picture(tiff(bits, 1, 1, 1, order), three((GREY > 128) * 255)),
            f"TIFF {order} black, 0 is white": Picture(tiff(bits, 1, 1, 0, order), three((GREY <= 128) * 255)),
            f"TIFF {order} grey 16": Picture(tiff(words[..., 0].tobytes(), 16, 1, 1, order), three(fine[..., 0])),
            f"TIFF {order} colour": Picture(tiff(COLOURS.tobytes(), 8, 3, 2, order), COLOURS),
            f"TIFF {order} colour 16": Picture(tiff(words[..., :3].tobytes(), 16, 3, 2, order), fine[..., :3]),
            f"TIFF {order} alpha": Picture(
                tiff(octets.tobytes(), 8, 4, 2, order, t338=[2]), over_white(octets[..., :3], alpha)
            ),
            f"TIFF {order} not alpha": Picture(tiff(octets.tobytes(), 8, 4, 2, order, t338=[0]), octets[..., :3]),
            f"TIFF {order} CMYK": Picture(
                tiff(octets.tobytes(), 8, 4, 5, order), 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
            ),
            f"TIFF {order} palette": Picture(
                tiff(GREY.tobytes(), 8, 1, 3, order, t320=[257 * (255 - n) for n in range(256)] * 3), three(255 - GREY)
            ),
        }
    for orientation in range(1, 9):
        turned = stored(orientation, COLOURS)
        found[f"TIFF orientation {orientation}"] = Picture(
            tiff(turned.tobytes(), 8, 3, 2, shape=turned.shape[:2], t274=[orientation]), COLOURS
        )
    for compression in ("tiff_lzw", "tiff_deflate", "packbits"):
        found[f"TIFF {compression}"] = Picture(saved(COLOURS, "TIFF", compression=compression), COLOURS)
    return found


# ---- JPEG and others -------------------------------------------------------------------


def cmyk_jpeg(planes: np.ndarray, transform: int) -> bytes:
    """planes [H, W, 4] as they stand in the file, with Adobe's marker; transform 0: CMYK, 2: YCCK."""
    content = bytearray(saved(Image.fromarray(255 - planes, "CMYK"), "JPEG", quality=98))  # Pillow inverts
    content[content.index(b"Adobe") + 11] = transform
    return bytes(content)


def without_adobe(content: bytes) -> bytes:
    """The JPEG without its Adobe segment of 16 bytes."""
    start = content.index(b"Adobe") - 4
    return content[:start] + content[start + 16 :]


def ycc(rgb: np.ndarray) -> np.ndarray:
    """JFIF's luminance and colour differences of rgb [..., 3]."""
    red, green, blue = (rgb[..., band].astype(float) for band in range(3))
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = luminance, 128 + (blue - luminance) / 1.772, 128 + (red - luminance) / 1.402
    return np.stack(planes, -1).round().clip(0, 255).astype(np.uint8)


def exif(orientation: int) -> bytes:
    return b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, SHORT, 1, orientation, 0, 0)


def jpeg_pictures() -> dict[str, Picture]:
    plain = {"quality": 98, "subsampling": 0}
    ink = np.concatenate([255 - COLOURS, np.full((HEIGHT, WIDTH, 1), 60, np.uint8)], -1)  # 255 = full ink
    printed = (255 - ink[..., :3].astype(float)) * (255 - 60) / 255
    ycck = np.concatenate([ycc(ink[..., :3]), np.full((HEIGHT, WIDTH, 1), 195, np.uint8)], -1)
    pictures = {
        "JPEG": saved(COLOURS, "JPEG", **plain),
        "JPEG progressive": saved(COLOURS, "JPEG", progressive=True, **plain),
        "JPEG of RGB": saved(COLOURS, "JPEG", keep_rgb=True, **plain),
        "JPEG with restarts": saved(COLOURS, "JPEG", restart_marker_blocks=1, **plain),
        "JPEG with a broken profile": saved(COLOURS, "JPEG", icc_profile=b"nonsense", **plain),
        "JPEG with a long comment": saved(COLOURS, "JPEG", comment=b"x" * 60_000, **plain),
        "JPEG with broken EXIF": saved(COLOURS, "JPEG", exif=b"Exif\0\0nonsense", **plain),
        "JPEG with EXIF in a circle": saved(
            COLOURS, "JPEG", exif=b"Exif\0\0MM\0*" + struct.pack(">IHHHIII", 8, 1, 0x8769, LONG, 1, 8, 8), **plain
        ),
        "JPEG, orientation 9": saved(COLOURS, "JPEG", exif=exif(9), **plain),
        "MPO": saved(COLOURS, "MPO", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))], **plain),
        "JPEG with bytes after its end": saved(COLOURS, "JPEG", **plain) + b"trailer",
    }
    found = {name: Picture(content, COLOURS, 5) for name, content in pictures.items()}
    found["JPEG grey"] = Picture(saved(GREY, "JPEG", quality=98), three(GREY), 5)
    found["JPEG CMYK"] = Picture(cmyk_jpeg(255 - ink, 0), printed, 6)
    found["JPEG YCCK"] = Picture(cmyk_jpeg(ycck, 2), printed, 6)
    for orientation in range(1, 9):
        turned = stored(orientation, COLOURS)
        found[f"JPEG orientation {orientation}"] = Picture(
            saved(turned, "JPEG", exif=exif(orientation), **plain), COLOURS, 5
        )
    return found


def other_pictures() -> dict[str, Picture]:
    paletted = Image.fromarray(COLOURS).quantize(8)
    places = np.asarray(paletted)
    gif_seen = over_white(COLOURS, places != places[0, 0])
    rgba = np.concatenate([COLOURS, (GREY // 2 + 64)[..., None]], -1)
    return {
        "GIF": Picture(saved(paletted, "GIF"), COLOURS),
        "GIF transparent": Picture(saved(paletted, "GIF", transparency=int(places[0, 0])), gif_seen),
        "WebP": Picture(saved(COLOURS, "WEBP", lossless=True), COLOURS),
        "WebP with loss": Picture(saved(three(GREY).astype(np.uint8), "WEBP", quality=100), three(GREY), 12),
        "WebP with alpha": Picture(
            saved(rgba, "WEBP", lossless=True, exact=True), over_white(COLOURS, rgba[..., 3] / 255)
        ),
        "BMP": Picture(saved(COLOURS, "BMP"), COLOURS),
        "BMP grey": Picture(saved(GREY, "BMP"), three(GREY)),
        "BMP black": Picture(saved(Image.fromarray(GREY > 128), "BMP"), three((GREY > 128) * 255)),
        "BMP palette": Picture(saved(paletted, "BMP"), COLOURS),
        "BMP of run lengths": Picture(run_length_bmp(), three(GREY)),
    }


def run_length_bmp() -> bytes:
    """Eight bits, each row two runs, from the lowest row up."""
    rows = b"".join(bytes([8, row[0], 8, row[8], 0, 0]) for row in GREY[::-1]) + b"\0\1"
    palette = b"".join(bytes([n, n, n, 0]) for n in range(256))
    head = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(rows), 0, 0, 256, 0)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + palette + rows


def good_pictures() -> dict[str, Picture]:
    """Name -> a file that must be shown."""
    return {**png_pictures(), **tiff_pictures(), **jpeg_pictures(), **other_pictures()}


def red_png(size=(30, 60), **more):
    """The content of a red PNG."""
    content = io.BytesIO()
    Image.new("RGB", size, "red").save(content, "PNG", **more)
    return content.getvalue()
