"""A file of users: what each may do, and a hash of the password (scrypt, RFC 7914) from which nobody can tell it.

{"format": 1, "users": {"anna": {"roles": ["search"], "password": {"n", "r", "p", "salt", "hash"}}}}
"""

import hashlib
import hmac
import re
import secrets
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from search.access.callers import ROLES
from search.access.private_files import changing, read_private_json, write_private_json
from utils.errors import UserError

WHAT = "--password_file"
FORMAT = 1
N, R, P = 2**15, 8, 3  # 32 MiB and some 0.2 s of a core for each guess
SHORTEST, LONGEST = 12, 1024  # characters of a password
NAME = re.compile(r"[\w.@-]{1,64}")


def as_roles(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Roles = Annotated[tuple[Literal["search", "upload", "forget"], ...], BeforeValidator(as_roles), Field(min_length=1)]


class Hash(BaseModel):
    """A password as scrypt leaves it: its cost (n, r, p), salt and key, both in hexadecimal digits."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    n: int = Field(gt=1, le=2**20)
    r: int = Field(ge=1, le=32)
    p: int = Field(ge=1, le=16)
    salt: str = Field(pattern="^[0-9a-f]{16,}$")
    hash: str = Field(pattern="^[0-9a-f]{64}$")

    @classmethod
    def of(cls, password: str) -> "Hash":
        """The hash of a new password."""
        cost, salt = {"n": N, "r": R, "p": P}, secrets.token_hex(16)
        return cls(**cost, salt=salt, hash=derive(password, salt=bytes.fromhex(salt), **cost).hex())

    @classmethod
    def of_nobody(cls) -> "Hash":
        """One that no password has, and that takes as long to compare as that of a user."""
        return cls(n=N, r=R, p=P, salt=secrets.token_hex(16), hash=secrets.token_hex(32))

    def matches(self, password: str) -> bool:
        """Whether this is the password; takes as long whether it is or not."""
        found = derive(password, salt=bytes.fromhex(self.salt), n=self.n, r=self.r, p=self.p)
        return hmac.compare_digest(found, bytes.fromhex(self.hash))


class User(BaseModel):
    """What a user may do, and the hash of the password."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    roles: Roles
    password: Hash


class PasswordFile(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1]
    users: dict[str, User]


def derive(password: str, *, salt: bytes, n: int, r: int, p: int) -> bytes:
    """The 32 bytes that scrypt makes of a password, which keyboards may write in several Unicode forms."""
    typed = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(typed, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r + 2**20, dklen=32)


def read_users(path: Path) -> Mapping[str, User]:
    """Users by name. Raises UserError when the file is another one, or others can read it."""
    try:
        return PasswordFile.model_validate(read_private_json(path, WHAT)).users
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{WHAT} {path} was not written by `python -m search password` ({where})") from None


def check_password(users: Mapping[str, User], name: str, password: str) -> User | None:
    """The user of this name and password, or None; takes as long for a name that nobody has."""
    user = users.get(name)
    right = (user.password if user else Hash.of_nobody()).matches(password[: LONGEST + 1])
    return user if right else None


def set_password(path: Path, name: str, password: str, roles: Sequence[str]) -> bool:
    """Add a user to the file, which is made if it is not there, or change one; returns whether the user is new.

    Raises UserError for a name or password that is none.
    """
    require_name(name)
    require_password(name, password)
    name, user = unicodedata.normalize("NFC", name), User(roles=ordered(roles), password=Hash.of(password))
    with changing(path, WHAT):
        users = dict(read_users(path)) if path.exists() else {}
        new = name not in users
        write_users(path, {**users, name: user})
    return new


def remove_user(path: Path, name: str) -> None:
    """Remove a user from the file. Raises UserError when there is none of this name."""
    read_users(path)  # or a lock would be left beside a file that is not there
    with changing(path, WHAT):
        users, name = dict(read_users(path)), unicodedata.normalize("NFC", name)
        if users.pop(name, None) is None:
            raise UserError(f"{path} has no user {name!r}; it has {', '.join(users) or 'none'}")
        write_users(path, users)


def write_users(path: Path, users: Mapping[str, User]) -> None:
    write_private_json(path, {"format": FORMAT, "users": {name: user.model_dump() for name, user in users.items()}})


def ordered(roles: Sequence[str]) -> Roles:
    """Each role once, in the order of the table."""
    return tuple(role for role in ROLES if role in roles)  # type: ignore[misc]


def require_name(name: str) -> None:
    """Raises UserError unless a text can be the name of a user or a token."""
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be a name: write 1 to 64 letters, digits and . _ @ -")


def require_password(name: str, password: str) -> None:
    """Raises UserError unless a text can be a password; it is not repeated."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise UserError(
            f"a password has {SHORTEST} to {LONGEST} characters, this one {len(password)}; take a longer one"
        )
    if password.strip().casefold() == name.casefold() or len(set(password)) < 4:
        raise UserError("this password would be guessed; take another, such as four words drawn at random")
