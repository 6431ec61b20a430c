"""Texts in messages and pictures: numbers of things, and long texts."""

from collections.abc import Callable, Iterable


def counted(number: int, singular: str, plural: str = "") -> str:
    """`1 image`, `2 images`; plural: where it is not the singular with an s, such as identities."""
    return f"{number} {singular if number == 1 else plural or f'{singular}s'}"


def agreeing(number: int, singular: str, plural: str) -> str:
    """The word that fits a number, such as `is` or `are`."""
    return singular if number == 1 else plural


def shorten(text: str, most: int = 80) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def fill_lines(words: Iterable[str], fits: Callable[[str], bool]) -> list[str]:
    """Lines of as many words as fit into each; a word that does not has a line of its own."""
    lines: list[str] = []
    for word in words:
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
