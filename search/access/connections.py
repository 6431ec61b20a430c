"""Connections that a server of other machines puts up with: neither too many of one address, nor slow ones for long."""

import asyncio
import functools
import resource
import socket
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from search.access.attempts import network_of

HEADER_SECONDS = 10  # in which a request must have begun, and its headers be complete
MOST, MAX_PER_ADDRESS = 1000, 100  # connections at a time, if the system allows twice as many; a browser has six


class PatientProtocol(H11Protocol):
    """A connection that is closed when no request comes, or only in drips, and at once when there are too many."""

    of_addresses: Counter[str]
    most: int
    unlimited: Collection[str]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = network_of(self.client[0] if self.client else "")
        self.of_addresses[self.address] += 1
        self.waiting: asyncio.TimerHandle | None = None
        too_many = self.of_addresses[self.address] > MAX_PER_ADDRESS and self.address not in self.unlimited
        if too_many or self.of_addresses.total() > self.most:
            transport.abort()
        else:
            self.wait_for_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self.of_addresses[self.address] -= 1
        if not self.of_addresses[self.address]:
            del self.of_addresses[self.address]
        self.stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self.stop_waiting()
        elif self.waiting is None:
            self.wait_for_a_request()

    def on_response_complete(self) -> None:
        self.stop_waiting()
        self.wait_for_a_request()
        super().on_response_complete()  # the next request may have begun in here
        if self.cycle is not None and not self.cycle.response_complete:
            self.stop_waiting()

    def wait_for_a_request(self) -> None:
        if not self.transport.is_closing():
            self.waiting = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def stop_waiting(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None


class PatientServer(uvicorn.Server):
    """A server that does not wait for the rest of a TLS handshake either, for which uvicorn has no option."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        with suppress(AttributeError):  # a loop that is not Python's own waits for its usual minute
            loop.create_server = impatient(loop.create_server)  # type: ignore[method-assign]
        await super().startup(sockets)


def impatient(create_server: Callable[..., Any]) -> Callable[..., Any]:
    """`create_server` of a loop, with a short time for TLS handshakes."""

    @functools.wraps(create_server)
    def wrapped(*of: Any, **more: Any) -> Any:
        return create_server(*of, **more, **({"ssl_handshake_timeout": HEADER_SECONDS} if more.get("ssl") else {}))

    return wrapped


def protocol_of(proxies: Collection[str]) -> type[PatientProtocol]:
    """The protocol of one server. proxies: addresses that all requests come by, of which no connections are counted."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if files == resource.RLIM_INFINITY else min(MOST, files // 2)  # or no file could be opened any more
    counted = {"of_addresses": Counter[str](), "most": most, "unlimited": frozenset(map(network_of, proxies))}
    return type("Protocol", (PatientProtocol,), counted)
