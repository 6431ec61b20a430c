"""Text files that users have written or exported: how their bytes are read."""

import codecs
import os
from collections.abc import Callable
from pathlib import Path

from utils.errors import UserError

MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32-LE"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "UTF-32-BE"),
    (codecs.BOM_UTF16_LE, "UTF-16-LE"),
    (codecs.BOM_UTF16_BE, "UTF-16-BE"),
)
"""Byte order marks, and the encodings that they stand for."""

OTHER_FILES = (
    (b"PK\x03\x04", "a spreadsheet (xlsx, ods) or ZIP file"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet (xls)"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PAR1", "a Parquet file"),
    (b"%PDF", "a PDF"),
)
"""How files begin that may be given in place of the text that they hold."""


def read_text(path: str | os.PathLike, source: str, position_after: Callable[[str], str] | None = None) -> str:
    """The text of a UTF-8 file, or of one in the encoding that its byte order mark names; without the mark.

    source: what messages call the file. `position_after` names the position that follows a piece of text from the
    beginning of the file, for the message when something there cannot be decoded; without it the byte is named.

    Raises UserError when the file is missing, unreadable, no text or in another encoding.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{source} does not exist") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{source} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    other = next((name for beginning, name in OTHER_FILES if content.startswith(beginning)), None)
    if other:
        raise UserError(f"{source} is {other}, not text; save or unpack it as text in UTF-8")
    mark, encoding = next((pair for pair in MARKS if content.startswith(pair[0])), (b"", "UTF-8"))

    def position(before: bytes) -> str:
        if position_after is None:
            return f"byte {len(mark) + len(before)}"
        return position_after(before.decode(encoding, "ignore"))

    rest = content[len(mark) :]
    try:
        text = rest.decode(encoding).lstrip("\ufeff")  # some programs write the mark twice
    except UnicodeDecodeError as error:
        where = position(rest[: error.start])
        raise UserError(f"{source} is not {encoding} ({where}); save it again as UTF-8") from None
    if "\0" in text[:4]:
        raise UserError(f"{source} is not UTF-8 but UTF-16 or UTF-32 without a byte order mark; save it again as UTF-8")
    if "\0" in text:
        where = position(text.partition("\0")[0].encode(encoding))
        raise UserError(f"{source} holds a zero byte ({where}): it is damaged, or no text; save it again as UTF-8")
    return text
