"""A file of bearer tokens for programs: what each may do, and a hash from which nobody can tell the token.

    {"format": 1, "tokens": {"camera": {"roles": ["upload"], "sha256": "..."}}}

A token is 256 random bits, which nobody can guess: one round of SHA-256 hides it as well as a slow hash would.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from search.access.passwords import Roles, ordered, require_name
from search.access.private_files import changing, read_private_json, write_private_json
from utils.errors import UserError

WHAT = "--token_file"
FORMAT = 1
PREFIX = "search_"  # by which scanners of source code find one that was left there


class Token(BaseModel):
    """What the program that has the token may do, and the token's hash."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    roles: Roles
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class TokenFile(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1]
    tokens: dict[str, Token]


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def read_tokens(path: Path) -> Mapping[str, Token]:
    """Tokens by name. Raises UserError when the file is another one, or others can read it."""
    try:
        return TokenFile.model_validate(read_private_json(path, WHAT)).tokens
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{WHAT} {path} was not written by `python -m search token` ({where})") from None


def check_token(tokens: Mapping[str, Token], token: str) -> tuple[str, Token] | None:
    """Name and entry of a token, or None; all are compared, however early one fits."""
    given, found = hash_of(token), None
    for name, one in tokens.items():
        if hmac.compare_digest(given, one.sha256):
            found = name, one
    return found


def new_token(path: Path, name: str, roles: Sequence[str]) -> str:
    """Make a token and keep its hash in the file, which is made if it is not there; one of this name is replaced."""
    require_name(name)
    token = PREFIX + secrets.token_urlsafe(32)
    with changing(path, WHAT):
        tokens = dict(read_tokens(path)) if path.exists() else {}
        write_tokens(path, {**tokens, name: Token(roles=ordered(roles), sha256=hash_of(token))})
    return token


def remove_token(path: Path, name: str) -> None:
    """Remove a token from the file. Raises UserError when there is none of this name."""
    read_tokens(path)  # or a lock would be left beside a file that is not there
    with changing(path, WHAT):
        tokens = dict(read_tokens(path))
        if tokens.pop(name, None) is None:
            raise UserError(f"{path} has no token {name!r}; it has {', '.join(tokens) or 'none'}")
        write_tokens(path, tokens)


def write_tokens(path: Path, tokens: Mapping[str, Token]) -> None:
    write_private_json(path, {"format": FORMAT, "tokens": {name: one.model_dump() for name, one in tokens.items()}})
