"""Ranking sheets: what is on the picture, and that nothing odd breaks it."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from dataset.decoding import known_formats
from evaluation.drawing import sheet
from evaluation.drawing.fonts import text_width
from evaluation.drawing.pictures import LINE, RIGHT, WRONG, format_score, load_picture, wrap
from evaluation.drawing.sheet import SheetRow, ranking_sheet
from utils.errors import UserError

BLUE = (10, 20, 200)


@pytest.fixture
def crop(tmp_path):
    path = tmp_path / "crop.png"
    Image.new("RGB", (20, 50), BLUE).save(path)
    return path


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def count(picture, color):
    return int((picture == color).all(axis=-1).sum())


def test_right_and_wrong_images_have_their_frame_and_mark(crop, tmp_path):
    ranking_sheet([SheetRow("a man", "7", [crop, crop], [True, True])], tmp_path / "right.png")
    ranking_sheet([SheetRow("a man", "7", [crop, crop], [False, True])], tmp_path / "mixed.png")
    right, mixed = pixels(tmp_path / "right.png"), pixels(tmp_path / "mixed.png")
    assert count(right, WRONG) == 0
    assert count(mixed, WRONG) > 0 and count(mixed, RIGHT) > 0
    left_wrong = np.argwhere((mixed == WRONG).all(axis=-1))[:, 1].max()
    assert left_wrong < np.argwhere((mixed == RIGHT).all(axis=-1))[:, 1].min()  # rank 1 stands on the left


def test_images_keep_their_aspect(crop, tmp_path):
    ranking_sheet([SheetRow("a man", "7", [crop], [True])], tmp_path / "sheet.png")
    rows, columns = np.nonzero((pixels(tmp_path / "sheet.png") == BLUE).all(axis=-1))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height / width == pytest.approx(50 / 20, rel=0.03)


def test_only_the_first_columns_are_drawn(crop, tmp_path):
    row = SheetRow("a man", "7", [crop] * 5, [True] * 3 + [False] * 2, [0.5] * 5)
    ranking_sheet([row], tmp_path / "sheet.png", columns=3)
    assert count(pixels(tmp_path / "sheet.png"), WRONG) == 0


@pytest.mark.parametrize(
    "caption",
    ["", "word " * 5000, "x" * 5000, "穿红色外套的女人", "\U0001f600 ẞ\n\t\x00\u202e", "\ud800 lone"],
)
def test_any_caption_gives_a_sheet_of_the_same_size(caption, crop, tmp_path):
    rows = [SheetRow(caption, caption, [crop], [True], [float("nan")]), SheetRow("b", "1", [crop], [True])]
    ranking_sheet(rows, tmp_path / "sheet.png", title=caption or None)
    ranking_sheet([SheetRow("a man", "7", [crop], [True])] * 2, tmp_path / "plain.png", title="title")
    size, plain = Image.open(tmp_path / "sheet.png").size, Image.open(tmp_path / "plain.png").size
    assert size[0] == plain[0]
    assert size[1] == plain[1] - (0 if caption else 44)


def test_wrapped_lines_fit_and_keep_every_word():
    text = "a woman wearing a red coat with averyveryveryverylongword_" + "y" * 60 + " end"
    lines = wrap(text, 17, 200, 20).split("\n")
    assert all(text_width(line, 17) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    cut = wrap(text, 17, 200, 2).split("\n")
    assert len(cut) == 2 and cut[1].endswith("...") and text_width(cut[1], 17) <= 200


def test_unreadable_images_become_placeholders(crop, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    whole = crop.read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    paths = [tmp_path / name for name in ("broken.jpg", "cut.png", "missing.jpg", "")]
    assert [load_picture(path, (10, 10)) for path in paths] == [None] * 4
    ranking_sheet([SheetRow("a man", "7", paths, [True] * 4)], tmp_path / "sheet.png")
    assert count(pixels(tmp_path / "sheet.png"), LINE) > 4 * 5000


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "CMYK", "1", "I;16", "F"])
def test_every_image_mode_is_read(mode, tmp_path):
    path = tmp_path / "image.tiff"
    Image.new(mode, (8, 16)).save(path)
    picture = load_picture(path, (20, 20))
    assert (picture.mode, picture.size) == ("RGB", (10, 20))


def test_sixteen_bit_grey_is_scaled_and_transparency_is_white(tmp_path):
    Image.new("I;16", (4, 4), 128 * 256).save(tmp_path / "deep.png")
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert load_picture(tmp_path / "deep.png", (4, 4)).getpixel((1, 1)) == (128, 128, 128)
    assert load_picture(tmp_path / "clear.png", (4, 4)).getpixel((1, 1)) == (255, 255, 255)


def test_formats_that_an_installed_package_decodes_are_shown(crop, monkeypatch):
    def register():
        inside = lambda file, _: PngImageFile(io.BytesIO(file.read()[4:]))  # noqa: E731
        Image.register_open("HEIF", inside, lambda start: start[:4] == b"heic")

    Image.init()  # what is loaded later would be forgotten with the rest
    for name in ("ID", "OPEN"):
        monkeypatch.setattr(Image, name, getattr(Image, name).copy())
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    known_formats.cache_clear()
    picture = load_picture(b"heic" + crop.read_bytes(), (20, 20))
    known_formats.cache_clear()
    assert picture is not None and picture.mode == "RGB"


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1)])
def test_extreme_shapes_fit_their_box(shape, tmp_path):
    Image.new("RGB", shape).save(tmp_path / "odd.png")
    width, height = load_picture(tmp_path / "odd.png", (90, 200)).size
    assert 1 <= width <= 90 and 1 <= height <= 200


def test_the_sheet_is_bounded(crop, tmp_path, monkeypatch):
    monkeypatch.setattr(sheet, "MAX_ROWS", 3)
    monkeypatch.setattr(sheet, "MAX_COLUMNS", 2)
    row = SheetRow("a man", "7", [crop] * 9, [True] * 9)
    ranking_sheet([row] * 5, tmp_path / "many.png", columns=9, title="t")
    ranking_sheet([row] * 3, tmp_path / "few.png", columns=2, title="t")
    assert Image.open(tmp_path / "many.png").size == Image.open(tmp_path / "few.png").size
    assert (pixels(tmp_path / "many.png") != pixels(tmp_path / "few.png")).any()  # the title says 3 of 5


def test_a_failed_sheet_leaves_the_old_one(crop, tmp_path):
    old = tmp_path / "sheet.png"
    old.write_text("kept")
    row = SheetRow("a man", "7", [crop], [True])
    for queries, columns in (([], 10), ([row], 0)):
        with pytest.raises(UserError, match="at least one query"):
            ranking_sheet(queries, old, columns)
    assert old.read_text() == "kept"
    with pytest.raises(UserError, match="cannot write"):
        ranking_sheet([row], tmp_path)  # a folder stands in its place
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crop.png", "sheet.png"]


def test_lists_of_different_length_are_refused(crop):
    with pytest.raises(ValueError, match="same length"):
        SheetRow("a man", "7", [crop, crop], [True])


def test_scores_stay_short():
    values = (0.12345, -3, 123456.0, float("inf"))
    assert [format_score(value) for value in values] == ["0.123", "-3.000", "1.2e+05", "inf"]
