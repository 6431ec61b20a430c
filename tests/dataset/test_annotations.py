"""Reading of prepared JSON and of CSV, hand-checkable cases."""

import json
import logging

import pytest

from dataset.annotation_entries import RawEntry
from dataset.annotation_json import read_json_entries
from dataset.annotations import (
    Entry,
    check_disjoint,
    check_images,
    fingerprint,
    load_annotations,
    summarise,
)
from utils.errors import UserError

HEADER = "image,identity,caption,split\n"


def json_entry(image="a.jpg", identity=1, captions=("a man",), **others):
    return {"split": "train", "captions": list(captions), "file_path": image, "id": identity, **others}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def error_of(path, **options):
    with pytest.raises(UserError) as caught:
        load_annotations(path, **options)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_json_is_read_in_file_order(tmp_path):
    path = write(tmp_path / "train.json", [json_entry("b.jpg", 2, ["x y", "z"]), json_entry("a.jpg", "k")])
    assert load_annotations(path) == [Entry("b.jpg", 2, ("x y", "z")), Entry("a.jpg", "k", ("a man",))]


def test_json_is_never_filtered_by_split(tmp_path):
    # a published train.json may serve as validation file on purpose
    path = write(tmp_path / "train.json", [json_entry("a.jpg"), json_entry("b.jpg", split="nonsense")])
    assert len(load_annotations(path, split="val")) == 2


def test_json_accepts_img_path_and_needs_no_split(tmp_path):
    path = write(tmp_path / "x.json", [{"img_path": "a.jpg", "id": 3, "captions": ["red coat"]}])
    assert load_annotations(path) == [Entry("a.jpg", 3, ("red coat",))]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_json_with_byte_order_mark_is_read(tmp_path, encoding):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([json_entry()]), encoding=encoding)
    assert len(load_annotations(path)) == 1


def test_first_problem_is_named_and_the_rest_counted(tmp_path):
    entries = [json_entry(), json_entry("b.jpg", True), json_entry("c.jpg", 3, []), json_entry("../d.jpg")]
    message = error_of(write(tmp_path / "x.json", entries))
    assert "entry 2 (b.jpg): 'id' must be an integer" in message and "2 more problems" in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "is empty"),
        ("[{]", "not valid JSON"),
        ("{}", "must hold a list"),
        ("[]", "holds no entries"),
        ("[3]", "must be an object"),
        ('[{"img_path": "a.jpg", "id": NaN, "captions": ["a"]}]', "NaN"),
        ('[{"file_path": "a.jpg", "id": 1, "captions": ["\\ud800 man"]}]', "surrogate"),
        ('[{"file_path": "a\\u0000.jpg", "id": 1, "captions": ["a man"]}]', "NUL"),
        ("[" * 100_000, "not valid JSON"),
        ('[{"file_path": "a.jpg", "id": ' + "9" * 5000 + ', "captions": ["a"]}]', "x.json"),
        ('[{"file_path": "a.jpg", "id": ' + "9" * 30 + ', "captions": ["a"]}]', "64 bits"),
    ],
)
def test_bad_json_is_one_clear_line(tmp_path, content, part):
    assert part in error_of(write(tmp_path / "x.json", content))


def test_bad_files_are_one_clear_line(tmp_path):
    (tmp_path / "x.json").write_bytes(b'["\xff\xfe"]')
    assert "not UTF-8" in error_of(tmp_path / "x.json")
    assert "does not exist" in error_of(tmp_path / "absent.json")
    assert ".json, .csv or .tsv" in error_of(write(tmp_path / "x.txt", "[]"))
    (tmp_path / "folder.json").mkdir()
    assert "cannot be read" in error_of(tmp_path / "folder.json")


def test_identities_that_only_look_alike_are_refused(tmp_path):
    message = error_of(write(tmp_path / "x.json", [json_entry("a.jpg", 1), json_entry("b.jpg", "1")]))
    assert "identity is written 1 in entry 1" in message and "'1' in entry 2" in message


def test_one_image_with_two_identities_is_refused(tmp_path):
    message = error_of(write(tmp_path / "x.json", [json_entry("a.jpg", 1), json_entry("./a.jpg", 2)]))
    assert "identity 2, but 1 in entry 1" in message


def test_repeated_image_is_kept_with_a_warning(tmp_path, caplog):
    path = write(tmp_path / "x.json", [json_entry("a.jpg"), json_entry("a.jpg")])
    with caplog.at_level(logging.WARNING):
        assert len(load_annotations(path)) == 2
    assert "already listed in entry 1" in caplog.text


def test_csv_rows_of_one_image_are_merged_in_file_order(tmp_path):
    rows = 'a.jpg, 7, "a man, tall", train\nb.jpg,8,a girl,train\na.jpg,7,"says ""hi""",train\n'
    entries = load_annotations(write(tmp_path / "x.csv", HEADER + rows))
    assert entries == [Entry("a.jpg", "7", ("a man, tall", 'says "hi"')), Entry("b.jpg", "8", ("a girl",))]


def test_csv_split_selects_rows(tmp_path):
    path = write(tmp_path / "x.csv", HEADER + "a.jpg,1,a man,train\nb.jpg,2,a girl,Test\n")
    assert [entry.image for entry in load_annotations(path, split="test")] == ["b.jpg"]
    assert len(load_annotations(path)) == 2
    assert "no rows of split 'val', only of test, train" in error_of(path, split="val")
    with pytest.raises(UserError, match="did you mean 'train'"):
        load_annotations(path, split="trian")


def test_csv_without_split_column_is_used_whole(tmp_path):
    path = write(tmp_path / "x.csv", "caption,image,identity\na man,a.jpg,1\n")
    assert load_annotations(path, split="test") == [Entry("a.jpg", "1", ("a man",))]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_delimiter_is_taken_from_the_header(tmp_path, delimiter):
    header = delimiter.join(["image", "identity", "caption"])
    row = delimiter.join(["a.jpg", "1", "a man, tall, in red, with a bag"])
    path = tmp_path / "x.csv"
    path.write_bytes(f"\ufeff{header}\r\n{row}\r\n\r\n".encode())
    assert load_annotations(path) == [Entry("a.jpg", "1", ("a man, tall, in red, with a bag",))]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["is empty"]),
        (HEADER, ["holds no entries"]),
        ("image,identity,captions\na,1,x\n", ["row 1", "no column 'caption' (did you mean 'captions'?)"]),
        ("image,image,identity,caption\n", ["names 'image' twice"]),
        (HEADER + "a.jpg,1,a man,train\nb.jpg,2,a man, tall,train\n", ["row 3", "5 cells", "double quotes"]),
        (HEADER + "a.jpg,1,a man\n", ["row 2", "3 cells"]),
        (HEADER + "a.jpg,,a man,train\n", ["row 2", "identity is empty"]),
        (HEADER + ",1,a man,train\n", ["row 2", "image path '' is empty"]),
        (HEADER + "a.jpg,1, ...,train\n", ["row 2", "no words"]),
        (HEADER + "a.jpg,1,a man,tran\n", ["row 2", "did you mean 'train'?"]),
        (HEADER + "C:/a.jpg,1,a man,train\n", ["row 2", "absolute"]),
        (HEADER + "x\\a.jpg,1,a man,train\n", ["row 2", "write /"]),
        (HEADER + "a.jpg,1,x,train\na.jpg,2,y,train\n", ["row 3", "identity '2', row 2 (a.jpg) gives '1'"]),
        (HEADER + "a.jpg,1,x,train\na.jpg,1,y,test\n", ["row 3", "gives split 'test'"]),
        (HEADER + 'a.jpg,1,"a man,train\n', ["row 2", "double quotes"]),
        (HEADER + "a.jpg,1,..,train\n\nb.jpg,2,..,train\n", ["row 2", "1 more problem)"]),
    ],
)
def test_bad_csv_names_file_and_row(tmp_path, content, parts):
    message = error_of(write(tmp_path / "x.csv", content))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "caption", ["nan", "NaN", "NULL", "None", "N/A", "n/a", "#N/A", "<NA>", "NA", " nan. ", "NAN", "#REF!", "\\N"]
)
def test_what_programs_write_for_an_empty_cell_is_no_caption(tmp_path, caption):
    path = write(tmp_path / "x.csv", HEADER + f"a.jpg,1,a man,train\na.jpg,1,{caption},train\n")
    assert "row 3: the caption is not a sentence but what programs write for an empty cell" in error_of(path)
    path = write(tmp_path / "x.json", [json_entry(captions=["a man", caption])])
    assert "entry 1 (a.jpg): caption 2 is not a sentence but what programs write" in error_of(path)


@pytest.mark.parametrize("caption", ["none of them", "NaN Infinity null", "a man, N/A", "nanny", "Nadja"])
def test_captions_that_hold_such_words_are_read(tmp_path, caption):
    path = write(tmp_path / "x.csv", HEADER + f'a.jpg,1,"{caption}",train\n')
    assert load_annotations(path)[0].captions == (caption,)


@pytest.mark.parametrize("identity", ["nan", "NaN", "NULL", "None", "#N/A", "<NA>"])
def test_what_programs_write_for_an_empty_cell_is_no_person(tmp_path, identity):
    path = write(tmp_path / "x.csv", HEADER + f"a.jpg,1,a man,train\nb.jpg,{identity},a girl,train\n")
    assert f"row 3: the identity is '{identity}', which programs write for an empty cell" in error_of(path)


def test_a_person_may_be_called_nan(tmp_path):
    path = write(tmp_path / "x.csv", HEADER + "a.jpg,Nan,a woman,train\nb.jpg,nan-12,a girl,train\n")
    assert [entry.identity for entry in load_annotations(path)] == ["Nan", "nan-12"]


def test_csv_row_numbers_are_those_of_a_spreadsheet(tmp_path):
    # row 2 spans two lines of the file, row 3 is blank
    content = HEADER + 'a.jpg,1,"a man\nin red",train\n\nb.jpg,2,?,train\n'
    assert "row 4" in error_of(write(tmp_path / "x.csv", content))


@pytest.mark.parametrize(
    ("before", "row"),
    [
        (HEADER, 2),
        (HEADER + "a.jpg,1,a man,train\n", 3),
        (HEADER + "a.jpg,1,a m", 2),
        (HEADER + 'a.jpg,1,"a man\nin red",train\n\nb.jpg,2,"two\nlines and ', 4),
        (HEADER.replace(",", ";") + "a.jpg;1;a, man;train\r\nb.jpg;2;", 3),
        ("\ufeff" + HEADER + "ü.jpg,1,é,train\n", 3),
        ("", 1),
        (HEADER + "a.jpg,1,x,train\n" + 'a.jpg,1,"' + "long " * 30_000, 3),
    ],
)
def test_the_row_that_is_not_utf_8_is_named(tmp_path, before, row):
    (tmp_path / "x.csv").write_bytes(before.encode() + b"\xe9.jpg,1,a man,train\nc.jpg,1,a,train\n")
    message = error_of(tmp_path / "x.csv")
    assert f"is not UTF-8 (row {row}); save it again as UTF-8" in message


def test_the_byte_of_a_json_file_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "x.json").write_bytes(b'["caf\xe9"]')
    assert "is not UTF-8 (byte 5)" in error_of(tmp_path / "x.json")


def test_an_endless_cell_is_explained(tmp_path):
    rows = "a.jpg,1,a man,train\nb.jpg,2," + "long " * 30_000 + ",train\n"
    message = error_of(write(tmp_path / "x.csv", HEADER + rows))
    assert "row 3: a cell has more than 131,072 characters; shorten it" in message
    assert "must stand in double quotes" not in message


def test_identities_of_a_csv_file_that_look_alike_are_warned_about(tmp_path, caplog):
    rows = "a.jpg,Anna,x,train\nb.jpg,anna,y,train\nc.jpg,1,z,train\nd.jpg,01,z,test\n"
    path = write(tmp_path / "x.csv", HEADER + rows)
    assert len(load_annotations(path)) == 4
    assert "'Anna' in row 2 (a.jpg) and 'anna' in row 3 (b.jpg) are different people" in caplog.text
    assert "1 more problem" in caplog.text


def table_of(tmp_path, *identities):
    rows = [f"{place}.jpg,{identity},x,{'test' if place else 'train'}\n" for place, identity in enumerate(identities)]
    return write(tmp_path / "x.csv", HEADER + "".join(rows))


@pytest.mark.parametrize("other", ["17.0", "17.00", '"17,0"'])
def test_a_number_that_became_a_decimal_is_the_same_person(tmp_path, other):
    message = error_of(table_of(tmp_path, "17", "5", other))
    written = other.strip('"')
    assert f"identity is written '17' in row 2 (0.jpg) and '{written}' in row 4 (2.jpg); write it one way" in message
    assert "more problem" not in message


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("17", "017"),
        ("017", "17.0"),
        ("1200", "1.2E3"),
        ("1.5", "1.50"),
        ("1234", '"1,234"'),
        ("p_17", "P-17"),
        ("p 17", "p_17"),
        ("anna", "an\u200bna"),
        ("anna b", "anna\u00a0b"),
    ],
)
def test_similar_identities_are_named_across_splits(tmp_path, caplog, one, other):
    assert len(load_annotations(table_of(tmp_path, one, other))) == 2
    written = other.strip('"')
    expected = f"{one!r} in row 2 (0.jpg) and {written!r} in row 3 (1.jpg) are different people"
    assert expected in caplog.text


@pytest.mark.parametrize(
    "identities",
    [("17", "18.0", "1.7"), ("p1", "p10", "1p"), ("a_1", "a1"), ("9" * 30, "9" * 29 + "8"), ("1e9", "1f9")],
)
def test_different_identities_are_no_warning(tmp_path, caplog, identities):
    assert len(load_annotations(table_of(tmp_path, *identities))) == len(identities)
    assert not caplog.text


@pytest.mark.parametrize(
    ("identity", "what"), [("1.23457E+11", "has lost digits"), ("3-Jan", "is a date"), ("Dec-07", "is a date")]
)
def test_an_identity_that_a_table_program_has_changed_is_a_warning(tmp_path, caplog, identity, what):
    assert len(load_annotations(table_of(tmp_path, "b", identity))) == 2
    assert f"row 3 (1.jpg): '{identity}' {what}, several people may have become one" in caplog.text


def fingerprints(tmp_path, root="imgs"):
    """Of two entries after each change of them."""
    folder = tmp_path / root
    (folder / "x").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"12345")
    (folder / "x" / "b.jpg").write_bytes(b"123")
    first, second = Entry("a.jpg", 1, ("a man", "in red")), Entry("x/b.jpg", "k", ("a girl",))
    found = {
        "none": fingerprint([first, second], folder),
        "again": fingerprint([first, second], folder),
        "order": fingerprint([second, first], folder),
        "caption": fingerprint([Entry("a.jpg", 1, ("a man", "in Red")), second], folder),
        "captions joined": fingerprint([Entry("a.jpg", 1, ("a man in red",)), second], folder),
        "order of captions": fingerprint([Entry("a.jpg", 1, ("in red", "a man")), second], folder),
        "identity": fingerprint([Entry("a.jpg", 2, first.captions), second], folder),
        "type of identity": fingerprint([Entry("a.jpg", "1", first.captions), second], folder),
        "image": fingerprint([Entry("x/../a.jpg", 1, first.captions), second], folder),
        "fewer": fingerprint([first], folder),
        "more": fingerprint([first, second, second], folder),
    }
    (folder / "x" / "b.jpg").write_bytes(b"1234")
    found["size"] = fingerprint([first, second], folder)
    (folder / "x" / "b.jpg").unlink()
    found["missing"] = fingerprint([first, second], folder)
    return found


def test_the_fingerprint_changes_with_everything_but_the_folder(tmp_path):
    found = fingerprints(tmp_path)
    assert found["again"] == found["none"]
    assert len(set(found.values())) == len(found) - 1
    assert all(len(digits) == 64 and set(digits) <= set("0123456789abcdef") for digits in found.values())
    assert fingerprints(tmp_path, "elsewhere/images") == found


def test_summary_counts_by_hand():
    entries = [Entry("a", 1, ("one two", "one")), Entry("b", 1, ("one two three",)), Entry("c", 2, ("four",))]
    assert summarise(entries) == {
        "identities": 2,
        "images": 3,
        "captions": 4,
        "captions_per_image": pytest.approx(4 / 3),
        "words_per_caption": pytest.approx(7 / 4),
    }
    assert summarise([])["words_per_caption"] == 0.0


def test_missing_images_are_counted_and_named(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "A.jpg").touch()
    (tmp_path / "b.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    check_images([Entry("./b.jpg", 1, ()), Entry("x/A.jpg", 1, ())], tmp_path)
    entries = [Entry(name, 1, ()) for name in ("b.jpg", "x/a.jpg", "y/c.jpg", "folder.jpg", "no.jpg")]
    with pytest.raises(UserError, match=r"4 of 5 images are missing") as caught:
        check_images(entries, tmp_path)
    assert "x/a.jpg (the file is named 'A.jpg')" in str(caught.value)
    with pytest.raises(UserError, match=r"image folder .* does not exist"):
        check_images(entries, tmp_path / "absent")


def test_shared_identities_and_images_are_warned_about():
    train = [Entry("a", 1, ()), Entry("b", 2, ())]
    assert check_disjoint(train, [Entry("c", 3, ())], ("train", "val")) == []
    warnings = check_disjoint(train, [Entry("a", 2, ())], ("train", "val"))
    assert warnings == [
        "1 of the identities of val also stand in train (2)",
        "1 of the images of val also stand in train (a)",
    ]


def test_identities_of_different_types_are_not_compared():
    assert check_disjoint([Entry("a", 1, ())], [Entry("b", "1", ())]) == []


def test_a_number_that_became_a_decimal_in_another_file_is_the_same_person():
    warnings = check_disjoint([Entry("a", "17", ())], [Entry("b", "17.0", ())])
    assert warnings == ["1 of the identities of test also stand in train (17)"]


def test_a_wrong_field_leaves_the_others_of_its_entry_in_use(tmp_path):
    fields = {"split": "tset", "img_path": "/a.jpg", "id": 7, "captions": ["a man", "...", 3, "in red"]}
    path = write(tmp_path / "x.json", [fields, {"captioms": ["a man"]}])
    entries, problems = read_json_entries(path, split_required=True, image_key="img_path")
    assert entries == [
        RawEntry("entry 1 (/a.jpg)", None, None, 7, ("a man", "in red")),
        RawEntry("entry 2", None, None, None, ()),
    ]
    assert sorted(f"{problem.category}: {problem}" for problem in problems) == [
        "bad image path: entry 1 (/a.jpg): the image path '/a.jpg' is absolute; give it relative to the image folder",
        "empty caption: entry 1 (/a.jpg): caption 2 has no words: '...'",
        "missing key: entry 2: has no 'captions' (did you mean 'captioms'?)",
        "missing key: entry 2: has no 'id'",
        "missing key: entry 2: has no 'img_path'",
        "missing key: entry 2: has no 'split'",
        "unknown split: entry 1 (/a.jpg): split 'tset' is not known (did you mean 'test'?)",
        "wrong type: entry 1 (/a.jpg): caption 3 must be a string, found the number 3",
    ]


def test_two_keys_may_name_one_image_and_not_two(tmp_path):
    assert len(load_annotations(write(tmp_path / "x.json", [json_entry("a.jpg", img_path="a.jpg")]))) == 1
    message = error_of(write(tmp_path / "x.json", [json_entry("a.jpg", img_path="b.jpg")]))
    assert "entry 1 (a.jpg): 'file_path' and 'img_path' name different images; keep one" in message
