"""The sentences in which a file of unknown origin is refused."""

NOT_PLAIN = "it is not a checkpoint of tensors and plain values, and nothing else is ever loaded"
TOO_MANY = "it holds more values than any checkpoint"
SPECIAL = "it holds a sparse, quantized or other special tensor, and only plain ones are read"


class Refused(Exception):
    """Why a file is not read; ends the sentence "checkpoint X cannot be read: ..."."""


def damaged(detail: str) -> Refused:
    """The refusal of a file that no program can have written so."""
    return Refused(f"it is damaged, cut off, or not a checkpoint ({detail})")
