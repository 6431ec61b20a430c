"""Texts in messages: numbers of things, and long texts."""


def counted(number: int, singular: str, plural: str = "") -> str:
    """`1 image`, `2 images`; plural: where it is not the singular with an s, such as identities."""
    return f"{number} {singular if number == 1 else plural or f'{singular}s'}"


def agreeing(number: int, singular: str, plural: str) -> str:
    """The word that fits a number, such as `is` or `are`."""
    return singular if number == 1 else plural


def shorten(text: str, most: int = 80) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
