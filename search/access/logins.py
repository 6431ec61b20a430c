"""Signing in, signing out, and who a request is of: by its session or by its token."""

import asyncio
import unicodedata
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import parse_qs

from search.access.attempts import LoginRateLimiter, network_of
from search.access.audit import AuditLog
from search.access.callers import Caller
from search.access.origins import Headers, Origin, Refused, values_of
from search.access.passwords import User, check_password
from search.access.private_files import ReloadingFile
from search.access.sessions import Session, Sessions
from search.access.tokens import Token, check_token
from utils.errors import Unavailable

WRONG = "the user or the password is wrong"
MAX_WAITING = 20  # attempts to sign in at one moment: each takes some 0.2 s, one after the other
COOKIE = "person-search"
COOKIE_UNDER_TLS = "__Host-person-search"  # browsers take it from this very host alone, and only by https


class TooMany(Refused):
    """Too many attempts. seconds: after which the next one may be made."""

    def __init__(self, seconds: float):
        super().__init__(429, f"too many attempts to sign in: wait {seconds:.0f} seconds")
        self.seconds = seconds


@dataclass(frozen=True)
class Authenticated:
    """Who a request is of. session_id: of the session, empty when it came with a token."""

    caller: Caller
    session_id: str = ""


class Logins:
    """The users and tokens of a served gallery."""

    def __init__(
        self,
        users: ReloadingFile[Mapping[str, User]] | None,
        tokens: ReloadingFile[Mapping[str, Token]] | None,
        audit: AuditLog | None,
    ):
        """users, tokens: the files that were given; at least one of them."""
        self.users, self.tokens, self.audit = users, tokens, audit
        self.sessions, self.attempts = Sessions(), LoginRateLimiter()
        self.hashing, self.waiting = ThreadPoolExecutor(1, "password"), 0

    # ---- who a request is of -----------------------------------------------------------

    async def authenticate(self, origin: Origin, headers: Headers) -> Authenticated | None:
        """Who a request is of, or None. Raises Refused for a wrong token, and when there were too many."""
        given = values_of(headers, b"authorization")
        if given:
            return await self.authenticate_token(origin, given)
        session_id = session_in(headers, origin)
        session = self.sessions.find(session_id) if session_id else None
        user = self.still_user(session) if session else None
        if session is None or user is None:
            self.sessions.end(session_id)
            return None
        return Authenticated(Caller(session.name, frozenset(user.roles), "password", origin.address), session_id)

    def still_user(self, session: Session) -> User | None:
        """The user of a session as the file has it now; None when the user is gone or has another password."""
        user = self.users.current().get(session.name) if self.users else None
        return user if user and user.password == session.user.password else None

    def is_alive(self, known: Authenticated) -> bool:
        """Whether a session goes on, for what is still being sent in it."""
        if not known.session_id:
            return True
        session = self.sessions.find(known.session_id, used=False)
        try:
            return session is not None and self.still_user(session) is not None
        except Unavailable:
            return False

    async def authenticate_token(self, origin: Origin, given: list[str]) -> Authenticated:
        """Who has a token. Raises Refused."""
        scheme, _, token = given[0].partition(" ")
        if len(given) > 1 or scheme.lower() != "bearer":
            raise Refused(401, "the header Authorization is: Bearer TOKEN")
        found = check_token(self.tokens.current(), token.strip()) if self.tokens else None
        if found is None:  # a right one always gets in: nobody can guess one, or keep a program out by trying
            await self.count_attempt({"address": network_of(origin.address)}, origin)
            await self.record("login refused", origin, by="token")
            raise Refused(401, "the token is wrong")
        name, entry = found
        return Authenticated(Caller(name, frozenset(entry.roles), "token", origin.address))

    # ---- signing in and out ------------------------------------------------------------

    async def sign_in(self, origin: Origin, form: bytes, before: str) -> str:
        """A new session for the form of the login page, in place of that of the id `before`; returns its id.

        Raises Refused.
        """
        name, password = fields_of(form)
        names = {"address": network_of(origin.address), "user": name}
        names["address and user"] = f"{names['address']} {name}"
        await self.count_attempt(names, origin)
        try:
            user = await self.verify_password(name, password)
        except (TooMany, Unavailable):  # nobody has looked at the password: this was no guess
            self.attempts.refund(names)
            raise
        if user is None:
            known = self.users is not None and name in self.users.current()
            await self.record("login refused", origin, who=name if known else None, by="password")
            raise Refused(401, WRONG)
        self.attempts.refund(names)
        await self.record("login", origin, who=name, by="password")
        self.sessions.end(before)
        return self.sessions.begin(name, user)

    async def verify_password(self, name: str, password: str) -> User | None:
        """The user of this name and password, found out in a thread that does nothing else.

        Raises TooMany when many others wait for it, and Unavailable while the file of users cannot be used.
        """
        if self.waiting >= MAX_WAITING:
            raise TooMany(5)
        self.waiting += 1
        try:
            users = self.users.current() if self.users else {}
            return await asyncio.get_running_loop().run_in_executor(self.hashing, check_password, users, name, password)
        finally:
            self.waiting -= 1

    async def sign_out(self, known: Authenticated, origin: Origin) -> None:
        self.sessions.end(known.session_id)
        await self.record("logout", origin, who=known.caller.name, by=known.caller.by)

    async def count_attempt(self, names: Mapping[str, str], origin: Origin) -> None:
        """Count an attempt to sign in, or with a token, against its limits. Raises TooMany when one is reached."""
        seconds = self.attempts.try_acquire(names)
        if seconds:
            count = self.attempts.pop_refused_count(names)
            if count:
                await self.record("logins refused unseen", origin, count=count)
            raise TooMany(seconds)

    async def record(self, action: str, origin: Origin, **details: object) -> None:
        """Write a line to the audit log. Raises Unavailable when that fails."""
        if self.audit:
            line = {"who": None, "address": origin.address, **details}
            await asyncio.to_thread(self.audit.write, action, None, **line)


def fields_of(form: bytes) -> tuple[str, str]:
    """User and password of a form; the name as files have it, whatever keyboard it is from.

    Raises Refused when it is another form.
    """
    try:
        fields = parse_qs(form.decode("ascii"), keep_blank_values=True, max_num_fields=4, errors="strict")
        (name,), (password,) = fields["user"], fields["password"]
    except (ValueError, KeyError):
        raise Refused(400, "the form has a user and a password") from None
    return unicodedata.normalize("NFC", name), password


def cookie_name(origin: Origin) -> str:
    return COOKIE_UNDER_TLS if origin.scheme == "https" else COOKIE


def session_in(headers: Headers, origin: Origin) -> str:
    """The id of the session that a request names; empty without one, or with several, of which one is planted."""
    wanted = cookie_name(origin)
    pairs = [part.strip() for value in values_of(headers, b"cookie") for part in value.split(";")]
    found = [value for name, _, value in (pair.partition("=") for pair in pairs) if name.strip() == wanted]
    return found[0].strip() if len(found) == 1 else ""


def cookie_of(session_id: str, origin: Origin) -> str:
    """The Set-Cookie header of a session; of one that has ended when `session_id` is empty."""
    secure = "; Secure" if origin.scheme == "https" else ""
    ended = "" if session_id else "; Max-Age=0"
    return f"{cookie_name(origin)}={session_id}; Path=/; HttpOnly; SameSite=Strict{secure}{ended}"
