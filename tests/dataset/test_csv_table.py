"""Annotations and metadata are read from the same tables, with the same words for the same faults."""

import codecs
import gzip

import pytest

from dataset.annotations import Entry, load_annotations
from search.files.metadata import read_metadata
from utils.errors import UserError

ROWS = (("image", "identity", "caption"), ("cam1/a.jpg", "anna", "a man, tall"), ("b.jpg", "bob", "a girl in red"))
ENTRIES = [Entry("cam1/a.jpg", "anna", ("a man, tall",)), Entry("b.jpg", "bob", ("a girl in red",))]
METADATA = {image: {"identity": identity, "caption": caption} for image, identity, caption in ROWS[1:]}


def text_of(rows, delimiter=","):
    """A CSV file with every cell in quotes."""
    return "".join(delimiter.join(f'"{cell}"' for cell in row) + "\r\n" for row in rows)


PLAIN = text_of(ROWS)
WRITTEN = {
    "commas": PLAIN,
    "semicolons": text_of(ROWS, ";"),
    "tabs": text_of(ROWS, "\t"),
    "bars": text_of(ROWS, "|"),
    "semicolons without quotes": "\n".join(";".join(row) for row in ROWS),
    "line breaks of old Macs": PLAIN.replace("\r\n", "\r"),
    "Excel's first line": "sep=;\r\n" + text_of(ROWS, ";"),
    "Excel's first line in capitals and quotes": '"SEP=|"\n' + text_of(ROWS, "|"),
    "Excel's first line with a tab": "sep=\t\n" + text_of(ROWS, "\t"),
    "Excel's first line with the other columns": "sep=,,,\n" + PLAIN,
    "a delimiter of its own": "sep=^\n" + text_of(ROWS, "^"),
    "capitals": PLAIN.replace("image", "Image", 1),
    "all capitals": PLAIN.replace("image", "IMAGE", 1),
    "spaces": "\n".join(" , ".join(row).replace("a man, tall", '"a man, tall"') for row in ROWS),
    "spaces in quotes": text_of([[f" {cell} " for cell in row] for row in ROWS]),
    "a mark before quotes": "\ufeff" + PLAIN,
    "two marks": "\ufeff\ufeff" + PLAIN,
    "a mark of no width": "\u200b" + "\n".join(";".join(row) for row in ROWS),
    "marks of direction": PLAIN.replace('"image"', '"\u200eimage\u202c"', 1),
    "blank rows": "\n \n" + PLAIN.replace("\r\n", "\r\n,,\r\n\r\n"),
    "empty cells at the end": PLAIN.replace("\r\n", ",,\r\n"),
    "empty cells at the end of rows alone": PLAIN.replace("\r\n", ",,\r\n").replace(",,", "", 1),
    "another order": text_of([(caption, image, identity) for image, identity, caption in ROWS]),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_a_table_is_read_however_it_is_written(tmp_path, case):
    path = tmp_path / "table.csv"
    path.write_text(WRITTEN[case], encoding="utf-8", newline="")
    assert load_annotations(path) == ENTRIES
    assert read_metadata(path) == METADATA


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_a_byte_order_mark_names_the_encoding(tmp_path, mark, encoding):
    path = tmp_path / "table.csv"
    path.write_bytes(mark + text_of(ROWS, "\t").replace("anna", "änna").encode(encoding))
    assert load_annotations(path)[0].identity == "änna"
    assert read_metadata(path)["cam1/a.jpg"]["identity"] == "änna"


WRONG = {
    "nothing": ("", "is empty; its first row must be image,"),
    "blank rows alone": ("\n , \n", "is empty; its first row must be image,"),
    "no image": ("picture;identity;caption\n", "row 1: the header has no column 'image'"),
    "another name of image": ("imgae;identity;caption\n", "'image' (did you mean 'imgae'?)"),
    "two images": ("image,identity,caption,Image\n", "row 1: the header names 'image' twice"),
    "too few cells": ("image,identity,caption\n\na.jpg,1\n", "row 3: has 2 cells, the header has 3"),
    "too many cells": ("image,identity,caption\na.jpg,1,a,b\n", "row 2: has 4 cells, the header has 3; put cells"),
    "an open quote": ('image,identity,caption\na.jpg,1,"a man\nb.jpg,1,a\n', "row 2: unexpected end of data; a cell"),
    "a quote within": ('image,identity,caption\na.jpg,1,"a" man\n', "row 2: ',' expected after '\"'"),
    "Latin-1": ("image,identity,caption\na.jpg,1,caf\xe9\n".encode("latin-1"), "is not UTF-8 (row 2); save it again"),
    "Latin-1 after sep=": (b"sep=;\nimage;identity;caption\na.jpg;1;caf\xe9\n", "is not UTF-8 (row 2); save it again"),
    "UTF-16 without a mark": (PLAIN.encode("utf-16-le"), "is not UTF-8 but UTF-16 or UTF-32 without a byte order mark"),
    "half of UTF-16": (PLAIN.encode("utf-16")[:-3], "is not UTF-16-LE (row 3); save it again as UTF-8"),
    "zeros at the end": (PLAIN + "\0" * 9, "holds a zero byte (row 4): it is damaged"),
    "a zero in a cell of UTF-16": ("image,identity,caption\na.jpg,1,x\0\n".encode("utf-16"), "a zero byte (row 2)"),
    "a spreadsheet": (b"PK\x03\x04\x14\x00\x06\x00", "is a spreadsheet (xlsx, ods) or ZIP file, not text; save"),
    "an old spreadsheet": (b"\xd0\xcf\x11\xe0\xa1\xb1", "is a spreadsheet (xls), not text"),
    "a packed table": (gzip.compress(PLAIN.encode()), "is a gzip file, not text; save or unpack it"),
    "a wrong delimiter": ("sep=a\n" + PLAIN, "first line 'sep=a' names no delimiter"),
    "an absolute path": ("image,identity,caption\n/a.jpg,1,x\n", "row 2: the image path '/a.jpg' is absolute"),
    "a path of Windows": ("image,identity,caption\nx\\a.jpg,1,x\n", "has \\ between folders; write /"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_fault_is_told_in_the_same_words(tmp_path, case):
    path, (content, words) = tmp_path / "table.csv", WRONG[case]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read, source in ((load_annotations, "annotation file"), (read_metadata, "metadata")):
        with pytest.raises(UserError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(f"{source} {path}") and words in message and "\n" not in message


def test_a_file_that_is_not_there_is_told_in_the_same_words(tmp_path):
    for read in (load_annotations, read_metadata):
        with pytest.raises(UserError, match=r"none\.csv does not exist"):
            read(tmp_path / "none.csv")


def test_images_of_metadata_have_one_spelling(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("Zone, IMAGE \n1,./a.jpg\n2,cam1//b.jpg\n3,x/../c.jpg\n")
    assert read_metadata(path) == {"a.jpg": {"Zone": 1}, "cam1/b.jpg": {"Zone": 2}, "c.jpg": {"Zone": 3}}
