"""Milvus servers are signed in to by a private file or the environment, and what signs in is never shown."""

import base64
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from in_process import call

from search.__main__ import main
from search.gallery.address import Address
from search.milvus.login import VARIABLES, milvus_login
from utils.errors import UserError

SECRET = "s3cret-of-milvus"


@pytest.fixture(autouse=True)
def no_login(monkeypatch):
    for name in ("MILVUS_LOGIN", "MILVUS_CERTIFICATE", *VARIABLES.values()):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "milvus.json"
    path.write_text(json.dumps({"user": "anna", "password": SECRET}))
    path.chmod(0o600)
    return path


def test_a_login_comes_from_a_file_or_the_environment(file, monkeypatch):
    assert milvus_login("http://127.0.0.1:19530") == {}
    monkeypatch.setenv("MILVUS_LOGIN", str(file))
    assert milvus_login("http://127.0.0.1:19530") == {"user": "anna", "password": SECRET}
    assert milvus_login("https://milvus.example") == {"user": "anna", "password": SECRET, "secure": True}
    monkeypatch.delenv("MILVUS_LOGIN")
    monkeypatch.setenv("MILVUS_TOKEN", SECRET)
    assert milvus_login("http://127.0.0.1:19530") == {"token": SECRET}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is expected"),
        ("{}", "is needed"),
        ('{"user": "anna"}', "has user: a user and a password, or a token, is needed"),
        ('{"user": "anna", "password": ""}', "is expected"),
        ('{"token": 7}', "is expected"),
        (f'{{"token": "x", "password": "{SECRET}"}}', "has password, token"),
        (f'{{"pasword": "{SECRET}"}}', "has pasword"),
    ],
)
def test_a_file_that_is_no_login_is_told(file, monkeypatch, content, words):
    file.write_text(content)
    monkeypatch.setenv("MILVUS_LOGIN", str(file))
    with pytest.raises(UserError, match=words) as told:
        milvus_login("http://127.0.0.1:19530")
    assert SECRET not in str(told.value) and "\n" not in str(told.value)


def test_what_does_not_go_together_is_told(file, monkeypatch):
    monkeypatch.setenv("MILVUS_LOGIN", str(file))
    monkeypatch.setenv("MILVUS_TOKEN", SECRET)
    with pytest.raises(UserError, match="MILVUS_LOGIN and MILVUS_TOKEN are both set"):
        milvus_login("http://127.0.0.1:19530")
    monkeypatch.delenv("MILVUS_TOKEN")
    file.chmod(0o644)
    with pytest.raises(UserError, match="can be used by others: chmod 600"):
        milvus_login("http://127.0.0.1:19530")
    monkeypatch.delenv("MILVUS_LOGIN")
    monkeypatch.setenv("MILVUS_USER", "anna")
    with pytest.raises(UserError, match="the environment has user"):
        milvus_login("http://127.0.0.1:19530")
    monkeypatch.setenv("MILVUS_CERTIFICATE", "nothing.pem")
    monkeypatch.setenv("MILVUS_PASSWORD", SECRET)
    with pytest.raises(UserError, match=r"MILVUS_CERTIFICATE nothing.pem does not exist"):
        milvus_login("https://127.0.0.1:19530")
    monkeypatch.setenv("MILVUS_CERTIFICATE", "/")
    with pytest.raises(UserError, match=r"MILVUS_CERTIFICATE / is a folder"):
        milvus_login("https://127.0.0.1:19530")


def test_a_login_in_plain_text_is_warned_of(monkeypatch, caplog):
    monkeypatch.setenv("MILVUS_TOKEN", SECRET)
    with caplog.at_level(logging.WARNING):
        milvus_login("http://127.0.0.1:19530")
        assert not caplog.records
        milvus_login("http://milvus.example:19530")
    assert "crosses the network unencrypted" in caplog.text and SECRET not in caplog.text


@pytest.mark.parametrize(
    "address",
    [
        f"http://anna:{SECRET}@127.0.0.1:19530",
        f"https://{SECRET}@127.0.0.1:19530/mine",
        f"http://127.0.0.1:19530/?token={SECRET}",
        f"http://127.0.0.1:19530#{SECRET}",
    ],
)
def test_an_address_with_a_login_is_refused_and_not_repeated(address):
    with pytest.raises(UserError, match="holds no user, password or query"):
        Address.parse(address)
    for command in (["serve"], ["query", "a man"], ["index", "."], ["rebuild"]):
        done = call(main, *command, "--gallery", address)
        assert done.code == 2 and SECRET not in done.errors + done.output and len(done.errors.splitlines()) == 1


@pytest.mark.parametrize("address", ["http://host:99999", "http://[::1", f"http://anna:{SECRET}/2@127.0.0.1:19530"])
def test_an_address_that_cannot_be_read_is_refused_and_not_repeated(address):
    done = call(main, "rebuild", "--gallery", address)
    assert (done.code, done.errors.count("\n")) == (2, 1) and SECRET not in done.errors
    assert "--gallery: the host or the port of this URL cannot be read" in done.errors


@contextmanager
def recording(credentials=None):
    """The port of a server of gRPC that answers nothing, and what it was signed in with."""
    grpc = pytest.importorskip("grpc")
    seen = []

    class Refuses(grpc.GenericRpcHandler):
        def service(self, details):
            seen.append(dict(details.invocation_metadata).get("authorization"))

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Refuses()])
    port = (
        server.add_secure_port("127.0.0.1:0", credentials) if credentials else server.add_insecure_port("127.0.0.1:0")
    )
    server.start()
    yield port, seen
    server.stop(None)


@pytest.mark.parametrize("encrypted", [False, True])
def test_the_server_is_signed_in_to(file, certificate, monkeypatch, encrypted):
    pytest.importorskip("pymilvus")
    import grpc

    from search.milvus.store import Store

    cert, key = certificate
    monkeypatch.setenv("MILVUS_LOGIN", str(file))
    monkeypatch.setenv("MILVUS_CERTIFICATE", str(cert))
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())]) if encrypted else None
    with recording(credentials) as (port, seen):
        uri = f"https://localhost:{port}" if encrypted else f"http://127.0.0.1:{port}"
        with pytest.raises(UserError) as told:
            Store(uri, "gallery", 16)
    assert base64.b64encode(f"anna:{SECRET}".encode()).decode() in seen
    assert SECRET not in str(told.value)
