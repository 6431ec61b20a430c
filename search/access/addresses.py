"""The addresses that a gallery is served on, and the names that a request may call this machine."""

import errno
import ipaddress
import os
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from utils.errors import UserError

HIGHEST_PORT = 65_535
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # such as ::1 where IPv6 is switched off
TRIES = 10  # ports that may be taken on one of several addresses, one after the other


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of a host, IPv4 and IPv6, on one port (0: any that is free on all).

    Raises UserError when nothing can be served there.
    """
    if not 0 <= port <= HIGHEST_PORT:
        raise UserError(
            f"cannot serve on port {port}: a port is a number from 0 to {HIGHEST_PORT}; choose one by --port"
        )
    tries = 1 if port else TRIES  # a port that is free on the first address may be taken on another
    try:
        while True:
            try:
                return sockets_on(resolve(host, port), port)
            except OSError as error:
                tries -= 1
                if error.errno != errno.EADDRINUSE or not tries:
                    raise
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"cannot serve on {host!r} port {port}: {reason_of(error)}; choose others by --host and --port"
        ) from None


def sockets_on(addresses: list[tuple[socket.AddressFamily, tuple]], port: int) -> list[socket.socket]:
    """Sockets that listen on those of the addresses that this machine has, on one port. Raises OSError: no socket."""
    opened: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, address in addresses:
            try:
                opened.append(listen(family, address, opened[0].getsockname()[1] if opened else port))
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                absent = error
        if absent and not opened:
            raise absent
    except OSError:
        for one in opened:
            one.close()
        raise
    return opened


def reason_of(error: OSError | UnicodeError) -> str:
    """Why there is no socket, in the words of the system; a number below 0 is of a name that is not found."""
    if isinstance(error, UnicodeError):
        return "this is no name of a machine"
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple]]:
    """Family and address of everything that a name or address stands for. Raises OSError, UnicodeError."""
    found = socket.getaddrinfo(bare(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
    if any(address[0] == "::" and takes_both(family, "::") for family, address in addresses):
        return [(family, address) for family, address in addresses if address[0] != "0.0.0.0"]
    return list(addresses)


def takes_both(family: socket.AddressFamily, address: str) -> bool:
    """Whether a socket on an address is one of IPv6 that takes IPv4 too: `::`, and IPv4 written as IPv6."""
    if family != socket.AF_INET6 or not socket.has_dualstack_ipv6():
        return False
    return address == "::" or address.startswith("::ffff:")


def listen(family: socket.AddressFamily, address: tuple, port: int) -> socket.socket:
    """A socket that listens on an address; on all of IPv6 (::) it listens on all of IPv4 too."""
    both = takes_both(family, address[0])
    return socket.create_server((address[0], port, *address[2:]), family=family, dualstack_ipv6=both)


def url_of(host: str, port: int) -> str:
    """The address of a browser, in which those of IPv6 have brackets."""
    return f"http://[{bare(host)}]:{port}" if ":" in bare(host) else f"http://{host}:{port}"


def bare(host: str) -> str:
    """A host without the brackets of IPv6."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def host_in(netloc: str) -> str:
    """The host of a Host header, in small letters; empty when it has none."""
    with suppress(ValueError):
        return urlsplit(f"//{netloc}").hostname or ""
    return ""


def is_this_machine(host: str) -> bool:
    """Whether a name or address stands for the machine itself."""
    try:
        address = ipaddress.ip_address(bare(host))
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def serves_this_machine_alone(host: str) -> bool:
    """Whether no other machine reaches a server on this host: all that it stands for is this machine."""
    if not host or is_this_machine(host):
        return bool(host)
    with suppress(OSError, UnicodeError):
        return all(is_this_machine(address[0]) for _, address in resolve(host, 0))
    return False
