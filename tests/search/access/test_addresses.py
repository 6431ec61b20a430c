"""A gallery is served on IPv4, IPv6 or both, and on one port."""

import socket

import pytest

from search.access import addresses
from search.access.addresses import open_sockets, serves_this_machine_alone, url_of
from utils.errors import UserError

BOTH = [(socket.AF_INET, ("0.0.0.0", 0)), (socket.AF_INET6, ("::", 0, 0, 0))]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")


def reached(host: str, *names: str) -> list[str]:
    """Those of the names by which a server on `host` is reached."""
    sockets = open_sockets(host, 0)
    (port,) = {one.getsockname()[1] for one in sockets}
    found = []
    for name in names:
        try:
            socket.create_connection((name, port), timeout=5).close()
            found.append(name)
        except OSError:
            pass
    for one in sockets:
        one.close()
    return found


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        pytest.param("::1", ["::1"], marks=ipv6),
        pytest.param("[::1]", ["::1"], marks=ipv6),
        pytest.param("::", ["127.0.0.1", "::1"], marks=ipv6),
        pytest.param("::ffff:127.0.0.1", ["127.0.0.1"], marks=ipv6),
    ],
)
def test_it_listens_where_it_is_told(host, expected):
    assert reached(host, "127.0.0.1", "::1") == expected


@ipv6
def test_a_name_of_both_families_is_served_on_both(monkeypatch):
    both = [(socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]
    monkeypatch.setattr(addresses, "resolve", lambda host, port: both)
    assert reached("localhost", "127.0.0.1", "::1") == ["127.0.0.1", "::1"]


@ipv6
def test_a_free_port_is_one_that_is_free_on_all_addresses(monkeypatch):
    both = [(socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]
    monkeypatch.setattr(addresses, "resolve", lambda host, port: both)
    taken = []
    listen = addresses.listen

    def half_taken(family, address, port):  # others take the first two ports of IPv6 on IPv4
        if family == socket.AF_INET and len(taken) < 2:
            taken.append(listen(family, address, port))
        return listen(family, address, port)

    monkeypatch.setattr(addresses, "listen", half_taken)
    assert reached("localhost", "127.0.0.1", "::1") == ["127.0.0.1", "::1"]
    assert len(taken) == 2
    for one in taken:
        one.close()


def test_a_family_that_is_switched_off_is_left_out(monkeypatch):
    absent = (socket.AF_INET, ("203.0.113.1", 0))  # an address for documentation, of no machine
    monkeypatch.setattr(addresses, "resolve", lambda host, port: [absent, (socket.AF_INET, ("127.0.0.1", 0))])
    assert reached("localhost", "127.0.0.1") == ["127.0.0.1"]
    monkeypatch.setattr(addresses, "resolve", lambda host, port: [absent])
    with pytest.raises(UserError, match="cannot serve on 'localhost' port 0: Cannot assign requested address"):
        open_sockets("localhost", 0)


def test_a_port_in_use_and_wrong_addresses_are_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for host, port in (
            ("127.0.0.1", taken.getsockname()[1]),
            ("no such host", 0),
            ("", 0),
            ("[::1]:8000", 0),
            ("http://127.0.0.1", 0),
            ("a..example", 0),
            ("::zz", 0),
            ("x" * 80 + ".example", 0),
        ):
            with pytest.raises(UserError, match=r"^cannot serve on '[^(]*; choose others by --host and --port$"):
                open_sockets(host, port)
    for port in (65_536, 99_999, -1):
        with pytest.raises(UserError, match=f"cannot serve on port {port}: a port is a number from 0 to 65535"):
            open_sockets("127.0.0.1", port)


@ipv6
def test_all_addresses_of_both_families_are_one_socket(monkeypatch):
    """As some systems resolve `*`: the socket of IPv6 takes IPv4 too, and a second one would find the port in use."""
    everything = [(family, 1, 6, "", address) for family, address in BOTH]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: everything)
    assert [family for family, _ in addresses.resolve("*", 0)] == [socket.AF_INET6]


def test_a_browser_is_told_an_address_with_brackets():
    assert url_of("::1", 7860) == url_of("[::1]", 7860) == "http://[::1]:7860"
    assert url_of("localhost", 80) == "http://localhost:80"


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_only_a_loopback_address_is_of_this_machine_alone(host, alone):
    assert serves_this_machine_alone(host) is alone


def test_a_name_of_a_loopback_address_is_of_this_machine_alone(monkeypatch):
    monkeypatch.setattr(addresses, "resolve", lambda host, port: [(socket.AF_INET, ("127.0.1.1", 0))])
    assert serves_this_machine_alone("my-laptop")
