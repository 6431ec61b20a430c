"""Text in any script: fonts are found for it, or a warning says which script has none."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from evaluation.drawing import fonts
from evaluation.drawing.figures import new_figure, save_figure, tidy
from evaluation.drawing.fonts import OWN_FONT, draw_text, font, fonts_for, runs_of, text_width
from evaluation.drawing.sheet import SheetRow, ranking_sheet

OTHER = OWN_FONT.parent / "STIXGeneral.ttf"  # has one Japanese letter, which OWN_FONT lacks
JAPANESE, CHINESE, KOREAN, THAI, HAIR = "の", "外", "외", "ผ", "\U0001f9b0"


@pytest.fixture
def installed(monkeypatch):
    """Lets these fonts be all that is installed."""

    def forget():
        for cached in (fonts.installed_fonts, fonts.fonts_with, fonts.warned_scripts):
            cached.cache_clear()

    def install(*files):
        forget()
        monkeypatch.setattr(fonts, "findSystemFonts", lambda: list(map(str, files)))

    yield install
    forget()


@pytest.fixture
def crop(tmp_path):
    path = tmp_path / "crop.png"
    Image.new("RGB", (20, 50)).save(path)
    return path


def drawn(text, size=24):
    picture = Image.new("RGB", (300, 80), "white")
    draw_text(ImageDraw.Draw(picture), (4, 2), text, (0, 0, 0), size, spacing=5)
    return np.asarray(picture)


def test_plain_text_is_drawn_as_by_pillow(installed):
    installed(OTHER)
    text, picture = "a coat,\n\u043f\u0430\u043b\u044c\u0442\u043e", Image.new("RGB", (300, 80), "white")
    ImageDraw.Draw(picture).multiline_text((4, 2), text, fill=(0, 0, 0), font=font(24), spacing=5)
    assert np.array_equal(drawn(text), np.asarray(picture))
    assert text_width("a coat", 24) == font(24).getlength("a coat")


def test_what_a_font_lacks_is_taken_from_another(installed, caplog):
    installed(OTHER)
    text = f"a {JAPANESE} coat"
    assert runs_of(text) == [("a ", OWN_FONT), (f"{JAPANESE} ", OTHER), ("coat", OWN_FONT)]
    assert text_width(text, 24) == sum(font(24, path).getlength(run) for run, path in runs_of(text))
    with_font = drawn(text)
    installed()
    assert not np.array_equal(with_font, drawn(text))  # a box, now
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"a {CHINESE}{KOREAN}\uff0c\u3002", "(Chinese, Japanese, Korean)"),
        (f"{THAI} and {THAI}", "(Thai)"),
        (f"a {HAIR} coat", "(emoji)"),
    ],
)
def test_a_script_without_a_font_is_named_once(installed, crop, tmp_path, caplog, text, said):
    installed(OTHER)
    for _ in range(2):
        ranking_sheet([SheetRow(text, text, [crop], [True])], tmp_path / "sheet.png", title=text)
    (record,) = caplog.records
    assert said in record.message and "install a font for them" in record.message


def test_fonts_that_cannot_be_drawn_are_left_out(installed, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    installed(tmp_path / "broken.ttf", tmp_path / "gone.ttf", tmp_path / "LastResort.ttf", OTHER)
    assert fonts_for(JAPANESE) == [OWN_FONT, OTHER]


def test_diagrams_have_other_scripts_too(installed, tmp_path, caplog, recwarn):
    def draw(name):
        figure = new_figure(4, 3, f"{JAPANESE} title")
        axes = figure.add_subplot()
        axes.barh(range(2), [1, 2])
        axes.set_yticks(range(2), [f"coat {JAPANESE}", "hat"], parse_math=False)
        tidy(axes, "words", "x", "y")
        save_figure(figure, tmp_path / name)
        return np.asarray(Image.open(tmp_path / name))

    installed()
    boxes = draw("boxes.png")
    assert len(caplog.records) == 1 and "(Chinese, Japanese, Korean)" in caplog.text
    installed(OTHER)
    assert not np.array_equal(draw("letters.png"), boxes)
    assert len(caplog.records) == 1 and not recwarn.list
