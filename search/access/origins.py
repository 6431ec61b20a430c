"""Where a request comes from and what it calls this server, whoever says so: addresses, hosts, proxies, other sites."""

import ipaddress
import re
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from search.access.addresses import bare, host_in
from utils.errors import UserError

Headers = Sequence[tuple[bytes, bytes]]

# what a proxy says of a request, and what frameworks read of it: taken from a named proxy alone, and passed on never
FORWARDED = re.compile(
    rb"forwarded|x-forwarded-.*|x-real-ip|x-client-ip|x-cluster-client-ip|true-client-ip|cf-connecting-ip"
    rb"|x-original-.*|x-rewrite-.*|x-http-method.*|x-method-override|x-host|x-scheme|x-direct-url|x-gradio-.*"
    rb"|front-end-https"
)


@dataclass(frozen=True)
class Origin:
    """Where a request comes from, whatever proxies are in between.

    address: of the client. scheme: http or https, as the browser sees it. host: as the request calls this server.
    """

    address: str
    scheme: str
    host: str

    @property
    def url(self) -> str:
        """As browsers write it in the header Origin."""
        return f"{self.scheme}://{self.host.lower()}"


class Refused(Exception):
    """A request that is not for this server, or not as it must be. status: of HTTP; the message is one line."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Origins:
    """Decides whose word counts about a request, and which names this server answers to."""

    def __init__(self, hosts: Collection[str] = (), proxies: Collection[str] = (), encrypted: bool = True):
        """hosts: names besides addresses and those of this machine; proxies: addresses of those that requests come by.

        encrypted: a proxy must say that the browser came by https.
        """
        machine = socket.gethostname().lower()
        self.hosts = {"localhost", machine, *(bare(host).lower().rstrip(".") for host in hosts)}
        self.proxies, self.encrypted = {plain(one) for one in proxies}, encrypted

    def of(self, client: str, scheme: str, headers: Headers) -> Origin:
        """The origin of a request. Raises Refused."""
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            raise Refused(400, "a request has one header Host")
        address = plain(client)
        if self.proxies:
            address, scheme = self.by_proxy(address, headers)
        if not self.is_own_name(hosts[0]):
            raise Refused(403, f"this server is not called {hosts[0][:200]!a} (see --trusted_host)")
        return Origin(address, scheme, hosts[0])

    def by_proxy(self, client: str, headers: Headers) -> tuple[str, str]:
        """Address and scheme of who asked a proxy: what the named one that is nearest to the browser says."""
        if client not in self.proxies:
            raise Refused(403, "requests are taken from the proxy alone (see --trusted_proxy)")
        said = [one.strip() for one in ",".join(values_of(headers, b"x-forwarded-for")).split(",") if one.strip()]
        outside = [one for one in map(plain, reversed(said)) if one not in self.proxies]
        address = outside[0] if outside else client
        if not is_address(address):
            raise Refused(400, "the proxy's X-Forwarded-For ends in something that is no address")
        schemes = values_of(headers, b"x-forwarded-proto")
        scheme = schemes[0].strip().lower() if len(schemes) == 1 else ""
        if self.encrypted and scheme != "https":
            raise Refused(403, "the proxy does not say that this came by https (X-Forwarded-Proto)")
        return address, scheme if scheme in ("http", "https") else "http"

    def is_own_name(self, host: str) -> bool:
        """Whether a Host header calls this server: by an address, which no other site can have, or by a known name."""
        name = host_in(host).rstrip(".")
        return re.fullmatch(r"[\w.\-\[\]:]{1,255}", host, re.ASCII) is not None and (
            is_address(name) or name in self.hosts
        )


def values_of(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for one, value in headers if one == name]


def without_forwarded(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers without those by which a request could call itself another one."""
    return [(name, value) for name, value in headers if not FORWARDED.fullmatch(name) and b"_" not in name]


def is_of_another_site(origin: Origin, headers: Mapping[str, str], changes: bool) -> bool:
    """Whether a browser sent this for a page of another site, as far as it says; changes: it is more than a reading.

    Browsers name the origin of all requests but plain readings, and cannot be kept from that by a page.
    """
    said, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return True
    return said.lower() != origin.url if said is not None else changes


def follows_link(headers: Mapping[str, str]) -> bool:
    """Whether somebody opens this address in a window, from whatever page: that page cannot read the answer."""
    opens = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return opens and "origin" not in headers


def plain(address: str) -> str:
    """An address as it is written shortest, IPv4 within IPv6 as IPv4; other text as it is."""
    try:
        found = ipaddress.ip_address(bare(address.strip()))
    except ValueError:
        return address
    return str(getattr(found, "ipv4_mapped", None) or found)


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def require_addresses(proxies: Sequence[str]) -> None:
    """Raises UserError unless all are addresses."""
    for one in proxies:
        if not is_address(bare(one)):
            raise UserError(f"--trusted_proxy {one}: give the address of the proxy, such as 127.0.0.1")
