"""Users, tokens and a gate before a site that has no model."""

from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi")

from search_access import PASSWORD, stub_site

from search.access import passwords
from search.access.audit import AuditLog
from search.access.gate import Gate
from search.access.logins import Logins
from search.access.origins import Origins
from search.access.private_files import Watched
from search.access.tokens import new_token, read_tokens


@pytest.fixture
def cheap(monkeypatch):
    """Hashes that cost nothing, which files of tests alone may have."""
    monkeypatch.setattr(passwords, "N", 16)
    monkeypatch.setattr(passwords, "P", 1)


@pytest.fixture
def guarded(tmp_path, cheap):
    """Users, a token, a log and the gate: anna may search, otto may do all, the camera uploads."""
    users, tokens = tmp_path / "people.json", tmp_path / "tokens.json"
    passwords.set_password(users, "anna", PASSWORD, ["search"])
    passwords.set_password(users, "otto", PASSWORD, ["search", "upload", "forget"])
    camera = new_token(tokens, "camera", ["upload"])
    log = AuditLog(tmp_path / "audit.jsonl", days=2)
    logins = Logins(Watched(users, passwords.read_users), Watched(tokens, read_tokens), log)
    gate = Gate(stub_site(), logins, Origins(["photos.example"]))
    return SimpleNamespace(
        gate=gate, logins=logins, users=users, tokens=tokens, camera=camera, log=log, audit=tmp_path / "audit.jsonl"
    )
