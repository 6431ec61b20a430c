"""Values as filters of Milvus write them."""

import json
from collections.abc import Sequence
from typing import Any

# What may not stand within quotes as it is. All else does, control codes too: Milvus Lite knows no \u0001 of JSON.
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


def literal(value: Any) -> str:
    """A value, text or a number, as a filter compares with it."""
    return f'"{value.translate(ESCAPES)}"' if isinstance(value, str) else json.dumps(value)


def literals(values: Sequence[Any]) -> str:
    """Values as the list that stands after `in`."""
    return f"[{', '.join(map(literal, values))}]"
