"""How a Milvus server is signed in to: by a private file or by the environment, never by an address or an option.

Addresses and options stand in the list of processes, in the history of the shell and in error messages.

    MILVUS_LOGIN=FILE    {"user": "...", "password": "..."} or {"token": "..."}, which nobody else may read
    or MILVUS_USER and MILVUS_PASSWORD, or MILVUS_TOKEN
    MILVUS_CERTIFICATE   a PEM file with the certificate of the server, or of who has signed it, for https://
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from search.access.addresses import is_this_machine
from search.access.private_files import read_private_json
from utils.errors import UserError
from utils.paths import not_a_file

logger = logging.getLogger(__name__)

FILE, CERTIFICATE = "MILVUS_LOGIN", "MILVUS_CERTIFICATE"
VARIABLES = {"user": "MILVUS_USER", "password": "MILVUS_PASSWORD", "token": "MILVUS_TOKEN"}
COMPLETE = ({"user", "password"}, {"token"})


def milvus_login(uri: str) -> dict[str, Any]:
    """Arguments of a client that signs in to the server at `uri`; none of a login where none is given.

    Raises UserError when a login is incomplete, or its file can be read by others.
    """
    login: dict[str, Any] = dict(given_login())
    parts = urlsplit(uri)
    if parts.scheme == "https":
        login["secure"] = True
        if certificate := os.environ.get(CERTIFICATE):
            if not Path(certificate).is_file():
                raise UserError(f"{CERTIFICATE} {certificate} {not_a_file(certificate)}")
            login["server_pem_path"] = certificate
    elif login and not is_this_machine(parts.hostname or ""):
        logger.warning("the login of %s crosses the network unencrypted; give https:// where the server has it", uri)
    return login


def given_login() -> Mapping[str, str]:
    """User and password, or a token; empty where none is given. Raises UserError."""
    told = {name: os.environ[variable] for name, variable in VARIABLES.items() if os.environ.get(variable)}
    file = os.environ.get(FILE)
    if file and told:
        raise UserError(f"{FILE} and {' and '.join(VARIABLES[name] for name in told)} are both set: which one is it?")
    where = f"{FILE} {file}" if file else "the environment"
    login = read_private_json(Path(file), FILE) if file else told
    if not login and not file:
        return {}
    if not isinstance(login, dict) or not all(isinstance(value, str) and value for value in login.values()):
        raise UserError(f'{where}: {{"user": "...", "password": "..."}} or {{"token": "..."}} is expected')
    if set(login) not in COMPLETE:
        raise UserError(
            f"{where} has {', '.join(sorted(map(str, login)))}: a user and a password, or a token, is needed"
        )
    return login


def require_no_login(parts: SplitResult) -> None:
    """Raises UserError when the address of a server holds more than that; what it holds is not repeated."""
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            "--gallery: an address of a server holds no user, password or query, which logs and lists of processes"
            f" would show: give http://host:port, and the login by {FILE}=FILE or by {' and '.join(VARIABLES.values())}"
        )


def without_secrets(text: str, login: Mapping[str, Any]) -> str:
    """A message without the user, password or token that it may repeat."""
    for name in VARIABLES:
        if login.get(name):
            text = text.replace(str(login[name]), "***")
    return text
