"""Which descriptions of open_clip (`model_cfg`) its library can build here, without a download.

What is not OpenAI's architecture is built by `models.clip.library_towers`; that of OpenAI is our own
(`models.clip.open_clip`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from utils.text import shorten

TOWERS = ("vision_cfg", "text_cfg")
LARGEST = 1_000_000  # of a size, so that a damaged file does not fill the memory
DEEPEST = 1_000  # layers of a tower
CLEANED = ("canonicalize", "lower", "whitespace")  # how open_clip cleans captions for a tokenizer of transformers
SIZES = {  # key: the largest that it may be
    "embed_dim": LARGEST,
    "vision_cfg.width": LARGEST,
    "vision_cfg.patch_size": LARGEST,
    "vision_cfg.head_width": LARGEST,
    "vision_cfg.layers": DEEPEST,
    "text_cfg.context_length": LARGEST,
    "text_cfg.vocab_size": 10 * LARGEST,
    "text_cfg.width": LARGEST,
    "text_cfg.heads": LARGEST,
    "text_cfg.layers": DEEPEST,
}
REFUSED = {  # key, when it has a value: why
    "multimodal_cfg": "a model that writes captions (CoCa) has towers of another form",
    "text_cfg.hf_model_name": "a text tower of transformers would be downloaded; one of open_clip itself fits",
    "text_cfg.embed_cls": "a caption has a token of its own there (CoCa); one that ends in its feature fits",
    "text_cfg.tokenizer_mode": "captions are read in one way alone; leave it out",
}
POOLED = {  # key: the values that give one feature
    "vision_cfg.pool_type": ("tok", "avg"),
    "text_cfg.pool_type": ("first", "last", "argmax", "eos"),
}


def flattened(model: Mapping[str, Any]) -> dict[str, Any]:
    """A `model_cfg` as key.path -> value. Raises ValueError when it has no part for a tower."""
    flat = {key: value for key, value in model.items() if key not in TOWERS}
    for tower in TOWERS:
        if not isinstance(model.get(tower), Mapping):
            raise ValueError(f"has no {tower}")
        flat |= {f"{tower}.{key}": value for key, value in model[tower].items()}
    return flat


def require_possible(model: Mapping[str, Any]) -> None:
    """Raises ValueError for the first key of a model that cannot be had."""
    flat = flattened(model)
    if "embed_dim" not in flat:
        raise ValueError("has no embed_dim")
    for key, most in SIZES.items():
        value = flat.get(key, 1)
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"{key} is {brief(value)}, not a whole number from 1 to {most}, as of two transformers")
    for key, why in REFUSED.items():
        if flat.get(key):
            raise ValueError(f"{key} is {brief(flat[key])}: {why}")
    for key, known in POOLED.items():
        if not is_among(flat.get(key, known[0]), known):
            raise ValueError(f"{key} is {brief(flat[key])}; {' or '.join(known)} give one feature")
    require_readable(flat)


def require_readable(flat: Mapping[str, Any]) -> None:
    """Raises ValueError when captions are to be read in a way that is not known."""
    name, options = flat.get("text_cfg.hf_tokenizer_name"), flat.get("text_cfg.tokenizer_kwargs") or {}
    if name is not None and not isinstance(name, str):
        raise ValueError(f"text_cfg.hf_tokenizer_name is {brief(name)}, not a name")
    if not isinstance(options, Mapping):
        raise ValueError(f"text_cfg.tokenizer_kwargs is {brief(options)}, which holds no keys")
    known = {"clean": CLEANED if name else ("lower",), "strip_sep_token": (True, False) if name else (False,)}
    for key, value in options.items():
        if not is_among(value, known.get(key, ())):
            raise ValueError(f"text_cfg.tokenizer_kwargs.{key} is {brief(value)}, which is not offered")


def is_among(value: Any, known: Sequence[Any]) -> bool:
    """Whether it is one of these, and of its type."""
    return any(type(value) is type(one) and value == one for one in known)


def brief(value: Any) -> str:
    """For messages: a value of a file, of any length."""
    return shorten(repr(value), 40)


def in_order(value: Any) -> Any:
    """The same with the keys of all mappings in alphabetical order, whichever file they come from."""
    if isinstance(value, Mapping):
        return {key: in_order(value[key]) for key in sorted(value, key=str)}
    return value
