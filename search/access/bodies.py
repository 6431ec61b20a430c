"""Bodies of requests that are too large or too slow: refused while they arrive, before anything reads them."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from search.access.origins import Headers, Refused, values_of
from search.access.routes import MIB, Route

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class LimitedBody:
    """A `receive` of ASGI that hands on a body of at most `route.most` bytes that arrives within `route.seconds`.

    Otherwise it reports a disconnect, and `fault` says what to answer.
    """

    def __init__(self, receive: Receive, route: Route):
        self.receive, self.route = receive, route
        self.read, self.complete = 0, False
        self.fault: Refused | None = None
        self.deadline: float | None = None  # from when the body is asked for

    async def __call__(self) -> Message:
        if self.complete:  # what follows is the end of the connection, for which a stream waits
            return await self.receive()
        now = asyncio.get_running_loop().time()
        self.deadline = self.deadline or now + self.route.seconds
        try:
            message = await asyncio.wait_for(self.receive(), max(self.deadline - now, 0))
        except asyncio.TimeoutError:
            return self.give_up(Refused(408, f"the body did not arrive within {self.route.seconds:.0f} seconds"))
        if message["type"] != "http.request":
            return message
        self.read += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        return self.give_up(too_large(self.route)) if self.read > self.route.most else message

    def give_up(self, fault: Refused) -> Message:
        self.fault, self.complete = fault, True
        return {"type": "http.disconnect"}


def require_small(headers: Headers, route: Route) -> None:
    """Raises Refused when a body is announced that is too large."""
    for length in values_of(headers, b"content-length"):
        if not length.isdigit() or len(length) > 18 or int(length) > route.most:
            raise too_large(route)


def too_large(route: Route) -> Refused:
    most = f"{route.most / MIB:.0f} MiB" if route.most >= MIB else f"{route.most} bytes"
    return Refused(413, f"the body of this request may have at most {most}")


async def read_all(body: LimitedBody) -> bytes:
    """The whole body. Raises Refused when it is too large, too slow, or its client is gone."""
    content = bytearray()
    while not body.complete:
        message = await body()
        if message["type"] == "http.disconnect":
            raise body.fault or Refused(400, "the request ended early")
        content += message.get("body", b"")
    if body.fault:
        raise body.fault
    return bytes(content)
