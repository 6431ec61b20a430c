"""Numbers in the bodies of requests."""

from typing import Annotated

from pydantic import BeforeValidator


def as_whole(value: object) -> object:
    """Numbers such as 10.0, which some programs write for 10."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(as_whole)]
