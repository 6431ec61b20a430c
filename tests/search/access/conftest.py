"""Users, tokens and a gate before a site that has no model."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi")

from benchmark_data import run
from search_access import PASSWORD, client_of, sign_in, stub_site

from search.access import passwords
from search.access.audit import AuditLog
from search.access.gate import Gate
from search.access.logins import Logins
from search.access.origins import Origins
from search.access.private_files import ReloadingFile
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
    logins = Logins(ReloadingFile(users, passwords.read_users), ReloadingFile(tokens, read_tokens), log)
    gate = Gate(stub_site(), logins, Origins(["photos.example"]))
    return SimpleNamespace(
        gate=gate, logins=logins, users=users, tokens=tokens, camera=camera, log=log, audit=tmp_path / "audit.jsonl"
    )


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate of localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    try:
        subprocess.run(
            [*command.split(), "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs openssl")
    (folder / "key.pem").chmod(0o600)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="session")
def indexed(benchmark, trained, tmp_path_factory):
    """A folder with an indexed gallery, users, and a certificate."""
    folder = tmp_path_factory.mktemp("others")
    shutil.copytree(benchmark / "imgs" / "test", folder / "photos")
    index = ["index", folder / "photos", "--gallery", folder / "gallery", "--checkpoint", trained]
    run(sys.executable, "-m", "search", *index)
    passwords.set_password(folder / "people.json", "anna", PASSWORD, ["search"])
    passwords.set_password(folder / "people.json", "otto", PASSWORD, ["search", "upload", "forget"])
    return folder


@pytest.fixture
def client(guarded):
    return client_of(guarded.gate)


@pytest.fixture
def anna(client):
    assert sign_in(client).status_code == 303
    return client
