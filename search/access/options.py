"""What the options of `python -m search serve` about who may use it add up to (search/access/arguments.py)."""

import argparse
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from search.access.action_guard import ActionGuard
from search.access.addresses import bare, is_this_machine, serves_this_machine_alone, url_of
from search.access.arguments import DAYS
from search.access.audit import AuditLog
from search.access.callers import ROLES
from search.access.connections import TimeoutServer, protocol_of
from search.access.ending import GRACE_SECONDS, Ending
from search.access.gate import Gate
from search.access.logins import Logins
from search.access.origins import Origins, require_addresses
from search.access.passwords import read_users
from search.access.private_files import ReloadingFile
from search.access.tokens import read_tokens
from utils.errors import UserError
from utils.files import require_writable_file
from utils.paths import is_text, not_a_file

MADE = "made by: python -m search password FILE USER --role " + " ".join(ROLES)


@dataclass(frozen=True)
class Access:
    """Who may use what is served. protected: one must sign in; prefix: where a proxy serves it; tls: for uvicorn."""

    options: argparse.Namespace
    protected: bool
    audit: AuditLog | None
    logins: Logins | None
    prefix: str = ""
    tls: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, options: argparse.Namespace, gallery: Path) -> "Access":
        """gallery: the folder of its plain files. Raises UserError when options do not go together, or are unsafe."""
        by_others = options.trusted_proxy or options.trusted_host
        alone = serves_this_machine_alone(options.host) and not by_others
        protected = options.password_file is not None or options.token_file is not None
        require_password(options, alone, protected)
        prefix, tls = prefix_of(options), tls_of(options)
        require_encryption(options, alone, bool(tls))
        require_addresses(options.trusted_proxy)
        audit = audit_of(options, gallery, protected)
        users = ReloadingFile(options.password_file, read_users) if options.password_file else None
        tokens = ReloadingFile(options.token_file, read_tokens) if options.token_file else None
        require_somebody(options, users, tokens)
        logins = Logins(users, tokens, audit) if protected else None
        return cls(options, protected, audit, logins, prefix, tls)

    @property
    def authorize(self) -> ActionGuard:
        """What everything passes that shows or changes the gallery."""
        return ActionGuard(self.protected, self.audit)

    def site_settings(self) -> dict[str, Any]:
        """Arguments of `search.site.build_site`: which names the site itself checks, none where the gate does so."""
        host = "" if self.protected else self.options.host
        return {"host": host, "root_path": self.prefix, "accounts": self.options.password_file is not None}

    def guard(self, site: ASGIApp) -> ASGIApp:
        """The site behind the gate; the site itself where nobody has to sign in."""
        if self.logins is None:
            return site
        hosts = [*self.options.trusted_host, *own_name(self.options.host)]
        encrypted = not self.options.without_tls
        return Gate(site, self.logins, Origins(hosts, self.options.trusted_proxy, encrypted), self.prefix)

    def server(self, site: ASGIApp) -> uvicorn.Server:
        """What serves the site, behind the gate where one must sign in."""
        settings: dict[str, Any] = {"log_level": "warning", "timeout_graceful_shutdown": GRACE_SECONDS, **self.tls}
        if not self.protected:
            return uvicorn.Server(uvicorn.Config(Ending(site), **settings))
        settings |= {"ws": "none", "proxy_headers": False, "server_header": False}
        protocol = protocol_of(self.options.trusted_proxy)
        return TimeoutServer(uvicorn.Config(Ending(self.guard(site)), http=protocol, **settings))

    def url_of(self, port: int) -> str:
        """The address to tell; that of a proxy is not known."""
        plain = url_of(self.options.host, port)
        return plain.replace("http://", "https://", 1) if self.tls else plain


# ---- what goes together ----------------------------------------------------------------


def require_password(options: argparse.Namespace, alone: bool, protected: bool) -> None:
    """Raises UserError when other machines are served, and nobody would have to sign in."""
    if alone or protected:
        return
    why = f"other machines reach --host {options.host}"
    if serves_this_machine_alone(options.host):
        why = "others come by --trusted_proxy and --trusted_host"
    raise UserError(f"{why}: give --password_file FILE ({MADE}), --token_file FILE, or both")


def require_encryption(options: argparse.Namespace, alone: bool, tls: bool) -> None:
    """Raises UserError when passwords would cross a network in plain text and nobody has said that this is meant."""
    if options.without_tls and (alone or tls):
        raise UserError("--without_tls: nothing crosses a network without encryption here; leave it out")
    if not (alone or tls or options.trusted_proxy or options.without_tls):
        raise UserError(
            "passwords and images would cross the network unencrypted: give --tls_cert FILE and --tls_key FILE, name a"
            " proxy that has them by --trusted_proxy, or accept it by --without_tls"
        )


def require_somebody(options: argparse.Namespace, users: ReloadingFile | None, tokens: ReloadingFile | None) -> None:
    """Raises UserError when the files hold nobody who could sign in."""
    if (users or tokens) and not any(held and held.content for held in (users, tokens)):
        given = options.password_file or options.token_file
        raise UserError(f"{given} holds nobody: add a user by python -m search password, or a token by ... token")


def audit_of(options: argparse.Namespace, gallery: Path, protected: bool) -> AuditLog | None:
    """The log that was asked for, or that there must be. Raises UserError."""
    if options.audit_days is not None and not 1 <= options.audit_days <= 36_500:
        raise UserError(f"--audit_days {options.audit_days}: give a number of days from 1 to 36500")
    if options.audit_log is None and not protected:
        if options.audit_days is not None:
            raise UserError("--audit_days: no log is written here; name one by --audit_log")
        return None
    path = options.audit_log or gallery.absolute().with_name(f"{gallery.absolute().name}-audit.jsonl")
    if not is_text(str(path)) or path.suffix != ".jsonl":
        raise UserError(f"--audit_log {path}: it is a file of lines of JSON; let its name end in .jsonl")
    require_writable_file(path, "--audit_log")
    return AuditLog(path, options.audit_days or DAYS)


def prefix_of(options: argparse.Namespace) -> str:
    """--root_path without a slash at its end. Raises UserError."""
    path = options.root_path.rstrip("/")
    if not path:
        return ""
    if not options.trusted_proxy:
        raise UserError("--root_path is where a proxy serves this: name it by --trusted_proxy")
    parts = path.split("/")
    if parts[0] or not all(part.replace("-", "").replace("_", "").isalnum() and part.isascii() for part in parts[1:]):
        raise UserError(f"--root_path {options.root_path}: give a path of letters, digits, - and _, such as /people")
    return path


def own_name(host: str) -> list[str]:
    """The name that is served, if it is one; an address is known as such."""
    return [] if is_this_machine(host) or not any(sign.isalpha() for sign in bare(host)) else [host]


# ---- TLS -------------------------------------------------------------------------------


def tls_of(options: argparse.Namespace) -> dict[str, str]:
    """Arguments of uvicorn for https; none where it is not asked for. Raises UserError."""
    cert, key = options.tls_cert, options.tls_key
    if cert is None and key is None:
        return {}
    if cert is None or key is None:
        raise UserError("--tls_cert and --tls_key go together: a certificate, and its private key")
    for path, what in ((cert, "--tls_cert"), (key, "--tls_key")):
        if not path.is_file():
            raise UserError(f"{what} {path} {not_a_file(path)}")
    if key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise UserError(f"--tls_key {key} can be used by others: chmod 600 {key}, and make a new one")
    require_pair(cert, key)
    return {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}


def require_pair(cert: Path, key: Path) -> None:
    """Raises UserError unless these are a certificate and its private key, without a passphrase."""

    def no_passphrase() -> str:
        raise UserError(f"--tls_key {key} has a passphrase, which nobody can type when a server starts: remove it")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, no_passphrase)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise UserError(f"--tls_cert {cert} and --tls_key {key} are no certificate and its key: {reason}") from None
    except OSError as error:
        raise UserError(f"--tls_cert {cert} or --tls_key {key} cannot be read: {error.strerror or error}") from None
