"""What `serve` refuses to serve, and that what it serves to others is closed: the command as a user starts it."""

import http.client
import json
import shutil
import signal
import ssl
import subprocess
import time
import urllib.parse

import pytest
from in_process import call
from search_access import PASSWORD, start

pytest.importorskip("gradio")
pytest.importorskip("pymilvus")

from search.__main__ import main
from search.access.passwords import set_password
from search.access.tokens import new_token


@pytest.fixture
def place(tmp_path, cheap, monkeypatch):
    """A folder with what looks like a gallery, and files of users: nothing of it is opened."""
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "gallery.json").write_text("{}")
    set_password(tmp_path / "people.json", "anna", PASSWORD, ["search"])
    shutil.copy(tmp_path / "people.json", tmp_path / "open.json")
    (tmp_path / "open.json").chmod(0o644)
    (tmp_path / "nobody.json").write_text('{"format": 1, "users": {}}')
    (tmp_path / "nobody.json").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    return tmp_path


OTHERS = ["--host", "0.0.0.0"]
PEOPLE = ["--password_file", "people.json"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (OTHERS, "other machines reach --host 0.0.0.0: give --password_file FILE (made by: python -m search password"),
        (["--host", "::"], "other machines reach --host ::: give --password_file"),
        (["--host", "192.0.2.7"], "other machines reach --host 192.0.2.7"),
        (["--host", ""], "other machines reach"),
        ([*OTHERS, "--without_tls"], "give --password_file"),
        (["--trusted_proxy", "127.0.0.1"], "others come by --trusted_proxy and --trusted_host: give --password_file"),
        (["--trusted_host", "photos.example"], "others come by"),
        ([*OTHERS, *PEOPLE], "would cross the network unencrypted: give --tls_cert FILE and --tls_key FILE"),
        ([*PEOPLE, "--without_tls"], "nothing crosses a network without encryption here"),
        ([*PEOPLE, "--tls_cert", "x"], "--tls_cert and --tls_key go together"),
        ([*PEOPLE, "--tls_cert", "x", "--tls_key", "y"], "--tls_cert x does not exist"),
        ([*PEOPLE, "--tls_cert", "/", "--tls_key", "y"], "--tls_cert / is a folder"),
        ([*PEOPLE, "--tls_cert", "people.json", "--tls_key", "people.json"], "are no certificate and its key"),
        ([*PEOPLE, "--tls_cert", "people.json", "--tls_key", "open.json"], "--tls_key open.json can be used by others"),
        ([*PEOPLE, "--root_path", "/people"], "name it by --trusted_proxy"),
        ([*PEOPLE, "--trusted_proxy", "10.0.0.1", "--root_path", "people"], "give a path of letters"),
        ([*PEOPLE, "--trusted_proxy", "10.0.0.1", "--root_path", "/a//evil.example"], "give a path of letters"),
        ([*PEOPLE, "--trusted_proxy", "10.0.0.1", "--root_path", "https://evil.example"], "give a path of letters"),
        ([*PEOPLE, "--trusted_proxy", "proxy.example"], "give the address of the proxy, such as 127.0.0.1"),
        (["--audit_days", "7"], "no log is written here"),
        ([*PEOPLE, "--audit_days", "0"], "give a number of days from 1"),
        (["--audit_log", "log.txt"], "let its name end in .jsonl"),
        (["--audit_log", "gallery"], "let its name end in .jsonl"),
        (["--audit_log", "people.json/x.jsonl"], "cannot be written"),
        (["--password_file", "open.json"], "chmod 600 open.json"),
        (["--password_file", "nothing.json"], "does not exist"),
        (["--password_file", "nobody.json"], "nobody.json holds nobody"),
        (["--token_file", "people.json"], "was not written by `python -m search token`"),
    ],
)
def test_what_is_unsafe_or_does_not_fit_is_refused_in_a_line(place, options, words):
    done = call(main, "serve", "--gallery", "gallery", *options)
    assert done.code == 2 and words in done.errors, done.errors
    assert len(done.errors.splitlines()) == 1 and PASSWORD not in done.errors


def test_a_key_with_a_passphrase_is_refused(place):
    command = (
        "openssl req -x509 -newkey rsa:2048 -passout pass:secret -days 2 -subj /CN=x -keyout key.pem -out cert.pem"
    )
    try:
        subprocess.run(command.split(), check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl")
    done = call(main, "serve", "--gallery", "gallery", *PEOPLE, "--tls_cert", "cert.pem", "--tls_key", "key.pem")
    assert done.code == 2 and "has a passphrase" in done.errors


# ---- a server for others ---------------------------------------------------------------


def request(port, method, path, body=None, context=None, **headers):
    """Status, headers and content of an answer of a server that may still be starting."""
    for _ in range(100):
        try:
            if context:
                connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
            else:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except ConnectionError:
            time.sleep(0.1)
    raise AssertionError("nothing is served")


def test_a_gallery_for_others_is_searched_by_who_signs_in(indexed, certificate):
    cert, key = certificate
    tls = ["--tls_cert", cert, "--tls_key", key]
    people = ["--password_file", indexed / "people.json"]
    process, scheme, port = start("--gallery", indexed / "gallery", *OTHERS, *people, *tls)
    try:
        context = ssl.create_default_context(cafile=cert)
        context.check_hostname = False
        assert scheme == "https"
        assert request(port, "GET", "/api/gallery", context=context)[0] == 401
        here = {"Origin": f"https://127.0.0.1:{port}"}
        form = urllib.parse.urlencode({"user": "anna", "password": PASSWORD})
        status, headers, _ = request(port, "POST", "/login", form, context=context, **here)
        assert status == 303
        cookie = {"Cookie": headers["set-cookie"].partition(";")[0], **here, "Content-Type": "application/json"}
        status, _, found = request(
            port, "POST", "/api/search", json.dumps({"text": "a man", "top": 2}), context=context, **cookie
        )
        assert status == 200 and len(json.loads(found)["hits"]) == 2
        assert request(port, "POST", "/api/images", b"x", context=context, **cookie)[0] == 403
        assert "server" not in request(port, "GET", "/", context=context, **cookie)[1]
    finally:
        process.terminate()
        process.wait(30)
    log = indexed / "gallery-audit.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["action"] for entry in entries] == ["login", "query"] and entries[1]["hits"] == 2
    assert log.stat().st_mode & 0o777 == 0o600 and b"Traceback" not in process.stdout.read()


def test_without_options_a_gallery_is_served_to_this_machine_as_it_was(indexed):
    process, scheme, port = start("--gallery", indexed / "gallery")
    try:
        assert scheme == "http"
        status, _, about = request(port, "GET", "/api/gallery")
        assert status == 200 and json.loads(about)["images"] > 0
        assert request(port, "GET", "/docs")[0] == 200 and b"/account" not in request(port, "GET", "/")[2]
        assert request(port, "DELETE", "/api/images/1")[0] == 404
    finally:
        process.terminate()
        process.wait(30)
    assert b"Traceback" not in process.stdout.read()


def test_on_this_machine_a_log_may_be_asked_for(indexed):
    log = indexed / "local.jsonl"
    process, _, port = start("--gallery", indexed / "gallery", "--audit_log", log)
    try:
        asked = json.dumps({"text": "a man", "top": 2})
        assert request(port, "POST", "/api/search", asked, **{"Content-Type": "application/json"})[0] == 200
    finally:
        process.terminate()
        process.wait(30)
    (entry,) = map(json.loads, log.read_text().splitlines())
    assert (entry["action"], entry["who"], entry["text"], entry["hits"]) == ("query", None, "a man", 2)


@pytest.mark.parametrize(("number", "signs_in"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_page_that_is_open_does_not_keep_a_server_from_ending(indexed, tmp_path, number, signs_in):
    who, options = {}, []
    if signs_in:
        token = new_token(tmp_path / "tokens.json", "camera", ["search", "upload"])
        who, options = {"Authorization": f"Bearer {token}"}, ["--token_file", tmp_path / "tokens.json"]
    process, _, port = start("--gallery", indexed / "gallery", "--allow_upload", *options)
    try:
        form = {"Content-Type": "multipart/form-data; boundary=xx", **who}
        body = b'--xx\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\na\r\n--xx--\r\n'
        assert request(port, "POST", "/gradio_api/upload", body, **form)[0] == 200
        assert list((indexed / "gallery" / "page").rglob("a.png"))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/gradio_api/heartbeat/abc", headers=who)  # it lasts as long as a page is open
        answer = connection.getresponse()
        assert answer.status == 200 and answer.readline() == b"data: ALIVE\n"
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert b"ALIVE" not in answer.read()  # the answer ends as answers do
    finally:
        process.kill()
    said = process.stdout.read().decode()
    assert "Traceback" not in said and "Exception" not in said, said
    assert not (indexed / "gallery" / "page").exists()
