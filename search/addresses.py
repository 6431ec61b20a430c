"""The addresses that a gallery is served on, and the names that a request may call this machine."""

import errno
import ipaddress
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from utils.errors import UserError

NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # such as ::1 where IPv6 is switched off


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of a host, IPv4 and IPv6, on one port (0: any that is free).

    Raises UserError when nothing can be served there.
    """
    opened: list[socket.socket] = []
    try:
        failure: OSError | None = None
        for family, address in resolve(host, port):
            try:
                opened.append(listen(family, address, opened[0].getsockname()[1] if opened else port))
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                failure = error
        if failure and not opened:
            raise failure
    except (OSError, OverflowError, UnicodeError) as error:
        for one in opened:
            one.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot serve on {host} port {port}: {reason}; choose others by --host and --port") from None
    return opened


def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple]]:
    """Family and address of everything that a name or address stands for. Raises OSError, UnicodeError."""
    found = socket.getaddrinfo(bare(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def listen(family: socket.AddressFamily, address: tuple, port: int) -> socket.socket:
    """A socket that listens on an address; on all of IPv6 (::) it listens on all of IPv4 too."""
    both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
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
