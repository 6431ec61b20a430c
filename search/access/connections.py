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
MAX_CONNECTIONS = 1000  # at a time, if the system allows twice as many
MAX_PER_ADDRESS = 100  # a browser has six


class TimeoutProtocol(H11Protocol):
    """A connection that is closed when no request comes, or only in drips, and at once when there are too many."""

    connection_counts: Counter[str]
    limit: int
    unlimited: Collection[str]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = network_of(self.client[0] if self.client else "")
        self.waiting: asyncio.TimerHandle | None = None
        many = self.connection_counts[self.address] >= MAX_PER_ADDRESS and self.address not in self.unlimited
        self.admitted = not many and self.connection_counts.total() < self.limit
        if self.admitted:
            self.connection_counts[self.address] += 1
            self.start_timeout()
        else:  # not counted: it is lost a moment later, and until then it would shut others out
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.admitted:
            self.connection_counts[self.address] -= 1
        if not self.connection_counts[self.address]:
            del self.connection_counts[self.address]
        self.stop_timeout()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self.stop_timeout()
        elif self.waiting is None:
            self.start_timeout()

    def on_response_complete(self) -> None:
        self.stop_timeout()
        self.start_timeout()
        super().on_response_complete()  # the next request may have begun in here
        if self.cycle is not None and not self.cycle.response_complete:
            self.stop_timeout()

    def start_timeout(self) -> None:
        if not self.transport.is_closing():
            self.waiting = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def stop_timeout(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None


class TimeoutServer(uvicorn.Server):
    """A server that does not wait for the rest of a TLS handshake either, for which uvicorn has no option."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        with suppress(AttributeError):  # a loop that is not Python's own waits for its usual minute
            loop.create_server = with_handshake_timeout(loop.create_server)  # type: ignore[method-assign]
        await super().startup(sockets)


def with_handshake_timeout(create_server: Callable[..., Any]) -> Callable[..., Any]:
    """`create_server` of a loop, with a short time for TLS handshakes."""

    @functools.wraps(create_server)
    def wrapped(*of: Any, **more: Any) -> Any:
        return create_server(*of, **more, **({"ssl_handshake_timeout": HEADER_SECONDS} if more.get("ssl") else {}))

    return wrapped


def protocol_of(proxies: Collection[str]) -> type[TimeoutProtocol]:
    """The protocol of one server. proxies: addresses that all requests come by, of which no connections are counted."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # with more, no file could be opened any more
    limit = MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, files // 2)
    counted = {"connection_counts": Counter[str](), "limit": limit, "unlimited": frozenset(map(network_of, proxies))}
    return type("Protocol", (TimeoutProtocol,), counted)
