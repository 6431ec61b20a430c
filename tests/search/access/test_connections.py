"""A real server under attack: bodies and headers in drips, a thousand connections, smuggled requests, and TLS."""

import asyncio
import socket
import ssl
import threading
import time
from contextlib import contextmanager

import pytest
from search_access import PASSWORD

pytest.importorskip("uvicorn")

import uvicorn

from search.access import connections, routes
from search.access.addresses import open_sockets
from search.access.connections import TimeoutServer, protocol_of


def server_of(gate, proxies=(), **settings):
    more = {"ws": "none", "proxy_headers": False, "server_header": False, "lifespan": "off", "log_level": "critical"}
    return TimeoutServer(uvicorn.Config(gate, http=protocol_of(proxies), **more, **settings))


@contextmanager
def running(gate, proxies=(), **settings):
    """The port of a server of the gate, in a thread."""
    (listening,) = open_sockets("127.0.0.1", 0)
    server = server_of(gate, proxies, **settings)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)


@pytest.fixture
def port(guarded):
    with running(guarded.gate) as port:
        yield port


def connect(port, address="127.0.0.1"):
    """A connection from one of the addresses that this machine has for itself."""
    return socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(address, 0))


def all_of(connection):
    """What a server sends until it closes a connection; what it has sent when it is cut off."""
    content = b""
    try:
        while part := connection.recv(65536):
            content += part
    except ConnectionError:
        pass
    return content


def ask(port, request, address="127.0.0.1"):
    with connect(port, address) as connection:
        connection.sendall(request)
        return all_of(connection)


LOGIN = b"GET /login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
POST = b"POST /login HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nContent-Length: 60\r\n\r\nuser="


def test_a_thousand_connections_shut_nobody_else_out(port):
    held = []
    for _ in range(1000):
        try:
            held.append(connect(port))
        except OSError:
            break
    started = time.monotonic()
    answer = ask(port, LOGIN, "127.0.0.2")  # another machine
    assert answer.startswith(b"HTTP/1.1 200") and time.monotonic() - started < 10
    for one in held:
        one.close()
    for _ in range(50):
        if ask(port, LOGIN).startswith(b"HTTP/1.1 200"):  # and the same one, once it lets go
            return
        time.sleep(0.1)
    raise AssertionError("the address stays shut out")


def test_connections_that_are_refused_count_for_nobody(guarded, monkeypatch):
    """Also before they are lost: the server finds all of them, and another machine's, waiting at once."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(connections, "MAX_PER_ADDRESS", 5)

    async def attack():
        (listening,) = open_sockets("127.0.0.1", 0)
        port, server = listening.getsockname()[1], server_of(guarded.gate)
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        held = [connect(port) for _ in range(100)]  # the system answers; the server is not asked before the next await
        with connect(port, "127.0.0.2") as another:
            another.sendall(LOGIN)
            answer = await asyncio.to_thread(all_of, another)
        for one in held:
            one.close()
        server.should_exit = server.force_exit = True
        await serving
        return answer

    assert asyncio.run(attack()).startswith(b"HTTP/1.1 200")


def test_a_connection_without_a_request_is_closed(port, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1)
    started = time.monotonic()
    with connect(port) as silent, connect(port) as slow:
        slow.sendall(b"GET /login HTTP/1.1\r\nHost: loc")
        for _ in range(8):  # a header in drips
            time.sleep(0.2)
            try:
                slow.sendall(b"a")
            except ConnectionError:
                break
        assert all_of(slow) == b"" and all_of(silent) == b""
    assert time.monotonic() - started < 10


def test_a_connection_that_is_kept_open_is_closed_too(port, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1)
    with connect(port) as kept:
        for _ in range(3):  # in use
            kept.sendall(LOGIN.replace(b"Connection: close\r\n", b""))
            answer = b""
            while b"</html>" not in answer:
                answer += kept.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(0.5)
        kept.sendall(b"GET /lo")
        started = time.monotonic()
        assert all_of(kept) == b"" and time.monotonic() - started < 5


def test_a_body_in_drips_is_cut_off(port, guarded, monkeypatch):
    for route in routes.ROUTES:
        monkeypatch.setitem(route.__dict__, "seconds", 1)
    started = time.monotonic()
    answer = ask(port, POST)  # and nothing more
    assert b" 408 " in answer and b"did not arrive within 1 seconds" in answer and time.monotonic() - started < 8
    bearer = b"Authorization: Bearer " + guarded.camera.encode() + b"\r\n"
    answer = ask(port, b"POST /api/images HTTP/1.1\r\nHost: localhost\r\n" + bearer + b"Content-Length: 900\r\n\r\nx")
    assert b" 408 " in answer, answer


def test_a_body_that_is_announced_too_large_is_not_read(port, guarded):
    bearer = b"Authorization: Bearer " + guarded.camera.encode() + b"\r\n"
    head = b"POST /api/images HTTP/1.1\r\nHost: localhost\r\n" + bearer + b"Content-Length: 99999999999\r\n\r\n"
    answer = ask(port, head)
    assert b" 413 " in answer and b"at most 20 MiB" in answer


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET /login HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /login HTTP/1.1\r\n\r\n",
        b"GET /login HTTP/1.1\r\nHost: localhost\r\n X: y\r\nX\x00Y: z\r\n\r\n",
        b"GET http://evil.example/login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /api/gallery HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\nConnection: close\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_requests_that_are_none_are_refused(port, request_):
    with connect(port) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        answer = all_of(connection)
    statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert set(statuses) <= {b"400", b"401", b"403", b"404"} and b"Sign in" not in answer, answer[:200]


def test_a_request_after_a_refused_one_is_not_smuggled(port):
    """What follows a body that is refused is not read as another request in its name."""
    inner = b"GET /login HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"POST /login HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nContent-Length: %d\r\n\r\n"
    answer = ask(port, head % 9000 + inner * 20)
    assert b" 413 " in answer and b" 200 " not in answer


def test_a_websocket_is_not_opened(port):
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    with connect(port) as connection:
        connection.sendall(
            b"GET /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\n"
            + upgrade
            + b"Sec-WebSocket-Version: 13\r\n\r\n"
        )
        connection.shutdown(socket.SHUT_WR)
        assert b" 401 " in connection.recv(65536)


def test_many_guesses_at_once_are_no_more_than_one_after_the_other(port, guarded):
    body = b"user=anna&password=" + b"x" * 20
    head = b"POST /login HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nConnection: close\r\n"
    request = head + b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ask(port, request))) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = [answer.split(b" ")[1] for answer in answers]
    assert statuses.count(b"401") <= 10 and statuses.count(b"429") >= 30 and len(statuses) == 40


# ---- TLS -------------------------------------------------------------------------------


def test_a_password_goes_over_tls(guarded, certificate):
    import httpx

    cert, key = certificate
    with running(guarded.gate, ssl_certfile=str(cert), ssl_keyfile=str(key)) as port:
        here = f"https://localhost:{port}"
        with httpx.Client(base_url=here, verify=ssl.create_default_context(cafile=cert)) as client:
            form = {"user": "anna", "password": PASSWORD}
            answer = client.post("/login", data=form, headers={"Origin": here})
            assert answer.status_code == 303 and "; Secure" in answer.headers["set-cookie"]
            assert client.get("/api/gallery").json()["who"] == "anna"
            assert "server" not in answer.headers
        assert not ask(port, LOGIN).startswith(b"HTTP/1.1 200")  # in plain text there is nothing


def test_a_handshake_that_is_not_finished_is_cut_off(guarded, certificate, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1)
    cert, key = certificate
    server = running(guarded.gate, ssl_certfile=str(cert), ssl_keyfile=str(key))
    with server as port, connect(port) as silent, connect(port) as begun:
        started = time.monotonic()
        begun.sendall(b"\x16\x03\x01\x02\x00")
        assert all_of(silent) == b"" and all_of(begun) == b"" and time.monotonic() - started < 10
