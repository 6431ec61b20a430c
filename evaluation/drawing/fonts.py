"""Fonts for text in any script: the one that comes with matplotlib, then installed ones for what it lacks."""

import functools
import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

OWN_FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")  # on every machine the same
EMPTY_FONTS = ("adobeblank", "lastresort")  # have every character, as a box
UNUSUAL = ("bold", "black", "condensed", "italic", "light", "mono", "oblique", "serif", "thin")
SOME = 20  # characters that a warning shows
EAST_ASIA = "Chinese, Japanese, Korean"
# The script of a character by the first word of its name, where that is another one.
SCRIPTS = dict.fromkeys(("BOPOMOFO", "CJK", "FULLWIDTH", "HANGUL", "HIRAGANA", "IDEOGRAPHIC", "KATAKANA"), EAST_ASIA)
PACKAGES = {EAST_ASIA: "fonts-noto-cjk", "emoji": "fonts-symbola"}  # of Debian and Ubuntu; fonts-noto-core for others

logger = logging.getLogger(__name__)


@functools.cache
def font(size: int, path: Path = OWN_FONT) -> ImageFont.FreeTypeFont:
    """A font whose letters have so many pixels. Raises OSError when it has no outlines."""
    return ImageFont.truetype(path, size)


@functools.cache
def characters_of(path: Path) -> frozenset[str]:
    """The characters that a font can draw; none when it cannot be read, or not be drawn in any size."""
    try:
        font(17, path)
        return frozenset(map(chr, FT2Font(str(path)).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@functools.cache
def installed_fonts() -> tuple[Path, ...]:
    """The fonts of this machine, plain ones first."""
    found = [Path(file) for file in findSystemFonts()]
    named = [(path.name.lower(), path) for path in found]
    kept = [(name, path) for name, path in named if not any(empty in name for empty in EMPTY_FONTS)]
    return tuple(path for _, path in sorted(kept, key=lambda pair: (is_unusual(pair[0]), pair[0], pair[1])))


def is_unusual(name: str) -> bool:
    """Whether a font is another than the plain one of its family, by the name of its file."""
    return any(word in name.replace("sansserif", "") for word in UNUSUAL)


def fonts_for(text: str) -> list[Path]:
    """The font of matplotlib, and as few installed ones as have what it lacks, as far as any has.

    Warns, once for each script, of characters that no font has.
    """
    missing = {character for character in text if is_drawn(character)} - characters_of(OWN_FONT)
    chosen = [OWN_FONT, *fonts_with("".join(sorted(missing)))] if missing else [OWN_FONT]
    lost = missing.difference(*map(characters_of, chosen))
    for script in dict.fromkeys(script_of(character) for character in sorted(lost)):
        warn_of(script, "".join(sorted(character for character in lost if script_of(character) == script))[:SOME])
    return chosen


@functools.lru_cache(maxsize=1024)
def fonts_with(characters: str) -> tuple[Path, ...]:
    """Installed fonts that together have as many of these characters as can be: one if that is possible."""
    left, chosen = set(characters), list[Path]()
    while left:
        whole = (path for path in installed_fonts() if left <= characters_of(path))
        best = next(whole, None) or max(
            installed_fonts(), key=lambda path: len(left & characters_of(path)), default=None
        )
        if best is None or not left & characters_of(best):
            break
        chosen.append(best)
        left -= characters_of(best)
    return tuple(chosen)


def is_drawn(character: str) -> bool:
    """Whether a character has a form of its own to be drawn."""
    return not character.isspace() and unicodedata.category(character) not in ("Cc", "Cf", "Cn", "Co", "Cs")


def script_of(character: str) -> str:
    """The script of a character: Arabic, Thai, emoji, ..."""
    if unicodedata.category(character) == "So" and ord(character) >= 0x2600:
        return "emoji"
    first = unicodedata.name(character, "unnamed").replace("-", " ").split()[0]
    return SCRIPTS.get(first, first.capitalize())


@functools.cache
def warned_scripts() -> set[str]:
    return set()


def warn_of(script: str, characters: str) -> None:
    """Log, once for each script, that its characters are drawn as boxes."""
    if script not in warned_scripts():
        warned_scripts().add(script)
        logger.warning(
            "no installed font has the characters %s (%s): they are drawn as boxes; install a font for them, such as"
            " the package %s of Debian and Ubuntu",
            characters,
            script,
            PACKAGES.get(script, "fonts-noto-core"),
        )


# ---- pictures ----


def runs_of(text: str) -> list[tuple[str, Path]]:
    """A line as runs of characters that one font has; a character that fits the run before it stays there."""
    fonts = fonts_for(text)
    if len(fonts) == 1:
        return [(text, OWN_FONT)]
    runs: list[tuple[str, Path]] = []
    for character in text:
        path = next((path for path in fonts if character in characters_of(path)), OWN_FONT)
        stays = (
            not character.isalnum() and runs and (not is_drawn(character) or character in characters_of(runs[-1][1]))
        )
        if runs and (stays or runs[-1][1] == path):
            runs[-1] = (runs[-1][0] + character, runs[-1][1])
        else:
            runs.append((character, path))
    return runs


def text_width(text: str, size: int) -> float:
    """The width of a line, in pixels."""
    return sum(font(size, path).getlength(run) for run, path in runs_of(text))


def draw_text(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    fill: tuple[int, int, int],
    size: int,
    spacing: float = 4,
) -> None:
    """Draw lines of text whose upper left corner is given; spacing: pixels between them."""
    left, top = corner
    height = font(size).getbbox("A")[3] + spacing  # as in multi-line text of PIL
    for line in text.split("\n"):
        runs = runs_of(line)
        if len(runs) == 1 and runs[0][1] == OWN_FONT:
            draw.text((left, top), line, fill=fill, font=font(size))
        else:
            x, baseline = left, top + font(size).getmetrics()[0]
            for run, path in runs:
                draw.text((x, baseline), run, fill=fill, font=font(size, path), anchor="ls")
                x += font(size, path).getlength(run)
        top += height


# ---- diagrams ----


def families_for(texts: Iterable[str]) -> list[str]:
    """Names of fonts, for matplotlib, that together have the characters of some texts; the usual one first."""
    names = []
    for path in fonts_for("".join(texts)):
        name = FT2Font(str(path)).family_name
        if name not in {known.name for known in matplotlib.font_manager.fontManager.ttflist}:
            matplotlib.font_manager.fontManager.addfont(str(path))
        names.append(name)
    return names
